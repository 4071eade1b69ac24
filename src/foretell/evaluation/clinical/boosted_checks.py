"""Two checks of what can be learned from stays: without the clock, and at an unseen hospital.

Boosted trees stand in for any model: they are the strongest that is trained in a minute. What they
need the clock for, or do not carry to the next hospital, others will hardly do better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical import Stays, StaySplit
from foretell.errors import DataError, ParameterError
from foretell.evaluation.clinical.per_hospital import (
    EVERYWHERE,
    hospital_names,
    ranking_by_hospital,
    utility_by_hospital,
)
from foretell.evaluation.clinical.ranking import RankingMetrics
from foretell.evaluation.clinical.utility import CLOCK_HOUR, best_threshold
from foretell.learners.risk import AnchorFeatures, BoostedRisk

TIME_BLIND_BAR = 0.72
"""AUROC that trees without any time must reach at a hospital whose patients they know."""

Part = Literal["train", "validation", "test"]


class BoostedStudy:
    """Boosted trees on one split of stays: their features are made once for all fits.

    Trees learn from the training part, thresholds come from the validation part, and the test part
    is for judging alone.

    Args:
        split: parted by patient.
        settings: arguments of :class:`BoostedRisk` for all fits, but for what they learn from.

    Attributes:
        hospitals: of the training part, by name.
        backend: what grew the trees; empty before the first fit.
    """

    def __init__(self, split: StaySplit, settings: Mapping[str, Any] | None = None) -> None:
        self.split = split
        # Thresholds are chosen here: no further patients need be held out for them.
        self.settings = {"trees": 150, **(settings or {}), "validation_size": 0.0}
        self.hospitals = tuple(sorted(set(hospital_names(split.train).tolist())))
        self._features = AnchorFeatures(
            signature_hours=self.settings.get("signature_hours", 0), schema=split.train.schema
        )
        self.backend = ""
        self._tables: dict[str, NDArray[np.float32]] = {}

    def table(self, part: Part) -> NDArray[np.float32]:
        """(R, F) features of a part."""
        if part not in self._tables:
            self._tables[part] = self._features.raw(getattr(self.split, part))
        return self._tables[part]

    def fit(
        self,
        learns: Literal["utility", "onset"] = "utility",
        *,
        features: str = "full",
        at: Sequence[str] | None = None,
        **settings: Any,
    ) -> BoostedRisk:
        """Trees grown on the training part.

        Args:
            learns: see :class:`BoostedRisk`.
            features: see :class:`BoostedRisk`; only ``"full"`` ones are kept for the next fit.
            at: hospitals whose stays are learned from, all by default.
            settings: for this fit only.
        """
        given: dict[str, Any] = {**self.settings, **settings, "features": features}
        model, (stays, rows) = BoostedRisk(learns, **given), self._chosen("train", at)
        if features == "full":
            table = self.table("train")
            model.fit(stays, cache=(self._features, table if rows.all() else table[rows]))
        else:
            model.fit(stays)
        self.backend = model.backend_
        return model

    def scores(
        self, model: BoostedRisk, part: Part, at: Sequence[str] | None = None
    ) -> tuple[Stays, NDArray[np.float64]]:
        """Stays of a part, at some hospitals or all, and the scores (R,) of their hours."""
        stays, rows = self._chosen(part, at)
        if model.features_ is not self._features:
            return stays, model.decision_function(stays)
        table = self.table(part)
        return stays, model.trees_.predict(table if rows.all() else table[rows])

    def threshold(self, model: BoostedRisk, at: Sequence[str] | None = None) -> float:
        """The threshold of the highest utility on the validation part."""
        stays, scores = self.scores(model, "validation", at)
        return best_threshold(scores, stays.labels(), stays.lengths)[0]

    def _chosen(self, part: Part, at: Sequence[str] | None) -> tuple[Stays, NDArray[np.bool_]]:
        stays: Stays = getattr(self.split, part)
        if at is None:
            return stays, np.ones(stays.n_rows, bool)
        chosen = np.isin(hospital_names(stays), list(at))
        if not chosen.any():
            raise DataError(f"the {part} part has no stay at {', '.join(at)}")
        return stays.select(chosen), np.repeat(chosen, stays.lengths)


def time_blind_check(
    study: BoostedStudy,
    *,
    bar: float = TIME_BLIND_BAR,
    horizon: float = 4,
    clock_hour: float = CLOCK_HOUR,
    resamples: int = 100,
) -> list[dict[str, Any]]:
    """What is left where nothing tells the hour or how often, and how lately, staff looked.

    Trees learn the onset with all features, and again with ``features="time-blind"``; at each
    hospital, and of all together, both are judged on the test part, beside the hour in the unit as
    a score. Below the bar a model mostly reads the clock.

    Args:
        study: the stays.
        bar: AUROC that must be reached without time.
        horizon: hours ahead within which the onset counts.
        clock_hour: of the clock-only rule.
        resamples: of patients, for intervals.

    Returns:
        One row a hospital, the last one of :data:`EVERYWHERE` where there are several:
        ``hospital``, ``hour_auroc``, ``auroc`` and ``blind_auroc`` with ``blind_lower`` and
        ``blind_upper``, ``clock``, ``utility`` and ``blind_utility``, ``reached`` (whether the bar
        is; None where the hours cannot be ranked, all having the same label).

    Raises:
        DataError: nobody in the training part has an onset.
        ParameterError: the stays lack channels that the features need.
    """
    if not 0.5 <= bar < 1:
        raise ParameterError(f"bar is an AUROC in [0.5, 1), not {bar}")
    found: dict[str, tuple[dict[str, RankingMetrics | None], dict[str, dict[str, float]]]] = {}
    for features in ("full", "time-blind"):
        model = study.fit("onset", features=features, horizon=horizon)
        stays, scores = study.scores(model, "test")
        alarms = scores >= study.threshold(model)
        found[features] = (
            ranking_by_hospital(scores, stays, horizon=horizon, resamples=resamples),
            utility_by_hospital(alarms, stays, clock_hour=clock_hour, resamples=resamples),
        )
    test = study.split.test
    hours = ranking_by_hospital(test.hours().astype(np.float64), test, horizon=horizon)
    rows = []
    for name in _told(hours):
        (ranks, utility), (blind, blind_utility) = ((r[name], u[name]) for r, u in found.values())
        reached = None if blind is None else bool(blind.auroc.estimate >= bar)
        rows.append({
            "hospital": name,
            "hour_auroc": _area(hours[name]),
            "auroc": _area(ranks),
            "blind_auroc": _area(blind),
            "blind_lower": None if blind is None else float(blind.auroc.lower),
            "blind_upper": None if blind is None else float(blind.auroc.upper),
            "clock": _plain(utility["clock"]),
            "utility": _plain(utility["utility"]),
            "blind_utility": _plain(blind_utility["utility"]),
            "reached": reached,
        })  # fmt: skip
    return rows


def leave_hospital_out(
    study: BoostedStudy,
    *,
    horizon: float = 4,
    clock_hour: float = CLOCK_HOUR,
    resamples: int = 200,
    known: bool = True,
) -> list[dict[str, Any]]:
    """Trained at all hospitals but one, judged at that one, beside the clock there.

    Trees learn what an alarm gains; their threshold comes from validation patients of the hospitals
    that they were trained at. With two hospitals this is: train at one, test at the other, and
    back.

    Args:
        study: the stays.
        horizon: hours ahead within which the onset counts for the AUROC.
        clock_hour: of the clock-only rule.
        resamples: of patients, for intervals.
        known: also train once at all hospitals, to tell what not knowing the hospital costs.

    Returns:
        One row a hospital: ``trained_at`` (a list), ``judged_at``, ``auroc`` and ``utility`` with
        their ``_lower`` and ``_upper``, ``clock``, ``margin`` over it with its bounds,
        ``beats_clock``, and ``known_auroc`` and ``known_utility`` of trees that were trained there,
        too.

    Raises:
        DataError: there is one hospital, or one has nobody with an onset.
        ParameterError: the stays lack channels that the features need.
    """
    if len(study.hospitals) < 2:
        raise DataError("there is one hospital: none can be left out")
    everywhere = study.fit("utility", horizon=horizon) if known else None
    level = study.threshold(everywhere) if everywhere is not None else np.inf
    rows = []
    for there in study.hospitals:
        here = [name for name in study.hospitals if name != there]
        model = study.fit("utility", at=here, horizon=horizon)
        stays, scores = study.scores(model, "test", [there])
        ranks = ranking_by_hospital(scores, stays, horizon=horizon, resamples=resamples)[there]
        told = utility_by_hospital(
            scores >= study.threshold(model, here), stays, clock_hour=clock_hour,
            resamples=resamples,
        )[there]  # fmt: skip
        row: dict[str, Any] = {"trained_at": here, "judged_at": there, "auroc": _area(ranks)}
        row["auroc_lower"] = None if ranks is None else float(ranks.auroc.lower)
        row["auroc_upper"] = None if ranks is None else float(ranks.auroc.upper)
        row |= {
            {"lower": "utility_lower", "upper": "utility_upper"}.get(k, k): _plain(v)
            for k, v in told.items()
        }
        row["beats_clock"] = None if row["margin"] is None else bool(row["margin"] > 0)
        if everywhere is not None:
            _, scores = study.scores(everywhere, "test", [there])
            row["known_auroc"] = _area(ranking_by_hospital(scores, stays, horizon=horizon)[there])
            alarms = utility_by_hospital(
                scores >= level, stays, clock_hour=clock_hour, resamples=1
            )[there]  # fmt: skip
            row["known_utility"] = _plain(alarms["utility"])
        rows.append(row)
    return rows


def _told(found: Mapping[str, Any]) -> list[str]:
    """Hospitals, and all together where there are several."""
    return [n for n in found if n != EVERYWHERE or len(found) > 2]


def _area(found: RankingMetrics | None) -> float | None:
    return None if found is None else float(found.auroc.estimate)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
