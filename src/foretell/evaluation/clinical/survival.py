"""How well risks rank and foretell times to an onset that is not always seen to come."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import DataError, ParameterError
from foretell.evaluation.bootstrap import (
    Interval,
    check_bootstrap,
    cluster_bootstrap,
    cluster_weights,
    percentile_interval,
)
from foretell.evaluation.clinical.checks import binary, row_values
from foretell.evaluation.clinical.kernels import concordant


def concordance_index(
    risk: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    patients: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Share of comparable pairs of rows in which the earlier onset has the higher risk.

    A pair is comparable if one row's onset was seen and the other's time is longer, or as long and
    censored; equal risks count half (Harrell, Califf, Pryor, Lee and Rosati, JAMA 247, 1982).

    Args:
        risk: (R,) higher is riskier.
        time: (R,) hours to the onset, or to where it is censored; see
            :func:`~foretell.learners.risk.survival_times`.
        event: (R,) whether the onset comes at ``time``.
        patients: (R,) whom each row belongs to: they are resampled.
        rows: (R,) mask of the rows that count, such as those at risk.
        resamples: of the bootstrap; 0 gives no interval.
        confidence: of the percentile interval.
        seed: of the bootstrap.

    Raises:
        DataError: sizes do not fit, a value is not finite, or no pair is comparable.
    """
    check_bootstrap(resamples, confidence, least=0)
    wanted, hours, seen, owner = _checked(time, event, patients, rows)
    size = len(np.asarray(time))
    scores = row_values("risk", risk, size, finite=False)[wanted]
    row_values("risk", scores, len(scores))
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    distinct, place = np.unique(hours, return_inverse=True)
    args = (last, place[order], seen[order], owner[order], len(distinct))
    count = int(owner.max()) + 1
    estimate = concordant(*args, np.ones((1, count)))[0]
    if np.isnan(estimate):
        raise DataError("no two rows are comparable", hint="An onset must be seen before others")
    draws = [concordant(*args, w) for w in cluster_weights(count, resamples, seed)]
    return percentile_interval(estimate, np.concatenate([np.zeros(0), *draws]), confidence)


def integrated_brier_score(
    risk: ArrayLike,
    horizons: ArrayLike,
    time: ArrayLike,
    event: ArrayLike,
    patients: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean squared distance of risks from what happened, averaged over horizons; 0 is best.

    Rows that are censored before a horizon are made up for by those that are not, weighed by the
    inverse of the chance of being seen so long (Graf, Schmoor, Sauerbrei and Schumacher, Statistics
    in Medicine 18, 1999, equations 4 and 6), which is taken as known in the resamples.

    Args:
        risk: (R, K) of the onset within each horizon.
        horizons: (K,) ascending hours, none beyond the longest time; one gives the Brier score.
        time: see :func:`concordance_index`, as the others.
        event: (R,) whether the onset comes at ``time``.
        patients: (R,) whom each row belongs to.
        rows: (R,) mask of the rows that count.
        resamples: of the bootstrap.
        confidence: of the percentile interval.
        seed: of the bootstrap.

    Raises:
        DataError: sizes do not fit, a risk is outside [0, 1], or nobody is seen until a horizon.
        ParameterError: the horizons do not ascend from above 0.
    """
    leads = np.atleast_1d(np.asarray(horizons, np.float64))
    if leads.ndim != 1 or not (leads > 0).all() or not (np.diff(leads) > 0).all():
        raise ParameterError(f"horizons must ascend from above 0, not {leads.tolist()}")
    wanted, hours, seen, owner = _checked(time, event, patients, rows)
    given = np.asarray(risk, np.float64)
    given = given[:, None] if given.ndim == 1 else given
    if given.shape != (len(wanted), len(leads)):
        raise DataError(f"risk has shape {given.shape}, not {(len(wanted), len(leads))}")
    p = given[wanted]
    inside = ((p >= 0) & (p <= 1)).all(axis=1)
    if not inside.all():
        row = int(np.flatnonzero(wanted)[np.argmin(inside)])
        raise DataError("a risk is not within [0, 1]", row=row)
    chance, errors = _still_seen(hours, seen, hours), np.empty_like(p)
    for k, lead in enumerate(leads):
        reached = float(_still_seen(hours, seen, np.array([lead]))[0])
        if reached <= 0:
            raise DataError(f"nobody is seen until hour {lead:g}", hint="Choose shorter horizons")
        came = seen & (hours <= lead)
        # Whoever is censored at the horizon itself was seen until then.
        waited = (hours > lead) | (~seen & (hours == lead))
        weight = np.where(came, 1 / np.where(came, chance, 1.0), 0.0) + waited / reached
        errors[:, k] = weight * (came - p[:, k]) ** 2
    size = int(owner.max()) + 1
    columns = [np.bincount(owner, errors[:, k], minlength=size) for k in range(len(leads))]
    sums = np.stack([*columns, np.bincount(owner, minlength=size)], axis=1)

    def statistic(total: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = total[:, :-1] / total[:, -1:]
        if len(leads) == 1:
            return scores[:, 0]
        return np.asarray(np.trapezoid(scores, leads, axis=1) / (leads[-1] - leads[0]))

    return cluster_bootstrap(sums, statistic, resamples=resamples, confidence=confidence, seed=seed)


def _checked(
    time: ArrayLike, event: ArrayLike, patients: ArrayLike, rows: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Mask of the rows that count; of these the times, events and numbers of patients."""
    size = len(np.asarray(time))
    wanted = np.ones(size, bool) if rows is None else binary("rows", rows, size)
    if not wanted.any():
        raise DataError("no row counts", hint="Check the mask of rows")
    hours = row_values("time", time, size, finite=False)[wanted].astype(np.float64)
    row_values("time", hours, len(hours))
    seen = binary("event", np.asarray(event)[wanted], len(hours))
    owner = row_values("patients", patients, size, finite=False)[wanted]
    if owner.dtype == object:
        owner = owner.astype(str)
    return wanted, hours, seen, np.unique(owner, return_inverse=True)[1].astype(np.int64)


def _still_seen(
    hours: NDArray[np.float64], seen: NDArray[np.bool_], when: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Kaplan and Meier's chance of not being censored before each time.

    At a time at which both happen, onsets come first.
    """
    distinct, place = np.unique(hours, return_inverse=True)
    onsets = np.bincount(place, seen, minlength=len(distinct))
    censored = np.bincount(place, ~seen, minlength=len(distinct))
    left = np.cumsum((onsets + censored)[::-1])[::-1] - onsets
    steps = 1 - censored / np.maximum(left, 1)
    chance = np.concatenate([[1.0], np.cumprod(steps)])
    return np.asarray(chance[np.searchsorted(distinct, when, side="left")])
