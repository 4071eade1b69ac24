"""The policy over whole stays at once: the same alarms as hour by hour, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.decisions.alarms.kernels import walk
from foretell.decisions.alarms.policy import AlarmPolicy, Tier
from foretell.errors import DataError


class Alarms(NamedTuple):
    """Alarms of R hours.

    Args:
        raised: (R,) bool.
        tier: (R,) int8, number of the alarm's tier; -1 where there is none.
    """

    raised: NDArray[np.bool_]
    tier: NDArray[np.int8]


def run_policy(
    policy: AlarmPolicy,
    scores: ArrayLike,
    lengths: ArrayLike,
    *,
    issued: ArrayLike | None = None,
    units: ArrayLike | None = None,
    treated: ArrayLike | None = None,
) -> Alarms:
    """Alarms of stays whose hours follow each other without gaps.

    Equal, alarm for alarm, to :meth:`AlarmPolicy.step` for every hour, with ``None`` where no score
    was issued.

    Args:
        policy: its thresholds and silences.
        scores: (R,) stay after stay.
        lengths: (N,) hours of each stay.
        issued: (R,) 1 where a score was issued, all by default.
        units: (R,) name of the unit in each hour, for thresholds of units.
        treated: (R,) hours of silence after treatment that begin with each hour, 0 for none; or
            bool, for ``quiet_after_treatment`` hours.

    Raises:
        DataError: sizes do not fit, or an issued score is not finite.
    """
    sizes = np.asarray(lengths, np.int64)
    values = np.asarray(scores, np.float64)
    rows = int(sizes.sum())
    given = np.ones(rows, bool) if issued is None else np.asarray(issued).astype(bool)
    for name, array in (("score", values), ("issued", given)):
        if array.shape != (rows,):
            raise DataError(f"lengths add up to {rows:,} hours, {name} has shape {array.shape}")
    bad = given & ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"a score is {values[row]}", row=row, hint="Say in `issued` where none was")
    thresholds = np.array([[tier.threshold for tier in policy.tiers]])
    place = np.zeros(rows, np.int64)
    if units is not None:
        names, place = np.unique(np.asarray(units).astype(str), return_inverse=True)
        if place.shape != (rows,):
            raise DataError(f"units has shape {place.shape} for {rows:,} hours")
        thresholds = np.array([[tier.of(str(u)) for tier in policy.tiers] for u in names])
    quiet = np.zeros(rows, np.int64)
    if treated is not None:
        quiet = np.asarray(treated)
        if quiet.shape != (rows,):
            raise DataError(f"treated has shape {quiet.shape} for {rows:,} hours")
        if quiet.dtype == bool:
            quiet = quiet * policy.quiet_after_treatment
        quiet = quiet.astype(np.int64)
    m, n = policy.persistence
    tier = walk(
        values, given, sizes, thresholds, place, m, n, policy.snooze,
        np.inf if policy.rise is None else policy.rise, policy.escalate,
        np.iinfo(np.int64).max if policy.max_alarms is None else policy.max_alarms,
        quiet,
    )  # fmt: skip
    return Alarms(tier >= 0, tier)


def places_of(tiers: Sequence[Tier], stays: Stays) -> NDArray[np.str_] | None:
    """(R,) whose thresholds hold in each hour, for ``units`` of :func:`run_policy`.

    The stay's unit where a tier has a threshold of its own for it, else its site, as with
    :meth:`AlarmPolicy.at`; None where thresholds are the same everywhere.
    """
    own = {name for tier in tiers for name in tier.units}
    if not own:
        return None
    place = np.full(len(stays), "", object)
    for kind in ("site", "unit"):
        if kind in stays.categories:
            names = stays.names(kind).astype(str)
            place = np.where(np.isin(names, [*own]), names, place)
    return place.astype(str)[stays.stay_of_row()]


def thresholds_of(tier: Tier, stays: Stays) -> NDArray[np.float64]:
    """(R,) the threshold of a tier in each hour of stays."""
    places = places_of([tier], stays)
    if places is None:
        return np.full(stays.n_rows, tier.threshold)
    return thresholds_at(tier, places)


def thresholds_at(tier: Tier, places: NDArray[np.str_]) -> NDArray[np.float64]:
    """(R,) the threshold of a tier at each of (R,) units or sites."""
    names, at = np.unique(places, return_inverse=True)
    return np.array([tier.of(str(name)) for name in names])[at]
