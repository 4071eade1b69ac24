"""The same figures hospital by hospital, and of all together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical import Stays, target
from foretell.errors import DataError
from foretell.evaluation.clinical.ranking import RankingMetrics, ranking_metrics
from foretell.evaluation.clinical.utility import CLOCK_HOUR, utility_table

EVERYWHERE = "all hospitals"
"""The name under which the figures of all hospitals together stand."""


def hospital_names(stays: Stays) -> NDArray[np.str_]:
    """(N,) where each stay was: its hospital, or its site where no hospital is told.

    Raises:
        DataError: neither is.
    """
    for category in ("hospital", "site"):
        if category in stays.categories:
            return stays.names(category).astype(str)
    raise DataError(
        "the stays have no category 'hospital' and none 'site'", hint="Say where each stay was"
    )


def ranking_by_hospital(
    scores: NDArray[np.floating],
    stays: Stays,
    *,
    horizon: float = 4,
    resamples: int = 0,
    seed: int = 0,
) -> dict[str, RankingMetrics | None]:
    """How well hours before the onset are ranked by whether it comes within ``horizon`` hours.

    Args:
        scores: (R,) higher is riskier.
        stays: with their onsets.
        horizon: hours ahead within which the onset counts.
        resamples: of patients, for intervals; 0 gives none.
        seed: of the resamples.

    Returns:
        One entry a hospital and :data:`EVERYWHERE`; None where all hours have the same label.
    """
    wanted, stay = target(stays, horizon), stays.stay_of_row()
    patients = np.unique(stays.patients.astype(str), return_inverse=True)[1][stay]
    where = hospital_names(stays)[stay]
    found: dict[str, RankingMetrics | None] = {}
    for name in (*sorted(set(where.tolist())), EVERYWHERE):
        rows = wanted.at_risk & ((where == name) | (name == EVERYWHERE))
        both = len(np.unique(wanted.label[rows])) == 2
        found[name] = (
            ranking_metrics(
                scores, wanted.label, patients, rows=rows, resamples=resamples, seed=seed
            )
            if both
            else None
        )
    return found


def utility_by_hospital(
    alarms: NDArray[np.bool_],
    stays: Stays,
    *,
    clock_hour: float = CLOCK_HOUR,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """The challenge's utility of alarms beside the clock, at each hospital and of all together.

    Args:
        alarms: (R,) whether each hour alarms.
        stays: with their labels.
        clock_hour: of the clock-only rule.
        resamples: of patients, for intervals.
        seed: of the resamples.

    Returns:
        ``utility, lower, upper, clock, margin, margin_lower, margin_upper`` of one entry a hospital
        and of :data:`EVERYWHERE`; NaN where nobody has an onset.
    """
    where = hospital_names(stays)
    found = {}
    for name in (*sorted(set(where.tolist())), EVERYWHERE):
        chosen = (where == name) | (name == EVERYWHERE)
        clock, own = utility_table(
            stays.select(chosen), {"alarms": alarms[np.repeat(chosen, stays.lengths)]},
            clock_hour=clock_hour, resamples=resamples, seed=seed,
        ).to_dicts()  # fmt: skip
        found[name] = {"clock": clock["utility"]} | {k: v for k, v in own.items() if k != "method"}
    return found
