"""Onset of sepsis by the Sepsis-3 consensus: suspicion of infection and organ dysfunction.

Singer et al., The Third International Consensus Definitions for Sepsis and Septic Shock, JAMA 315,
2016; windows and rules as operationalised by the 2019 challenge. Times keep their minutes: rounding
to hours before comparing moves onsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.clinical.binning import hour_of
from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, ParameterError

_NEEDED = {
    "antibiotics": ("id", "start"),
    "cultures": ("id", "time"),
    "sofa": ("id", "time", "sofa"),
}
_REASONS = (
    "sepsis",
    "no suspicion of infection",
    "no increase of SOFA near the suspicion",
    "onset too early",
    "stay too short",
)


@dataclass(frozen=True)
class Sepsis3Labeler:
    """Finds ``t_suspicion``, ``t_sofa`` and ``t_sepsis`` of each stay.

    Suspicion: the earlier of intravenous antibiotics and blood culture, if the culture follows
    within ``abx_window[0]`` hours of the antibiotics or the antibiotics within ``abx_window[1]``
    hours of the culture. Dysfunction: SOFA rises by ``increase`` points or more within
    ``baseline_hours``. Onset: the earlier of both, if ``t_sofa`` lies in
    ``[t_suspicion - sofa_window[0], t_suspicion + sofa_window[1]]``.

    With ``abx_min_hours`` antibiotics only count if they ran that long, which nobody knows until
    then: use ``abx_min_hours=None``, the default, to label what a live system is trained on
    (:attr:`is_causal`), and 72 to reproduce the challenge. ``known_at`` says from when on each
    onset could be known.

    Args:
        abx_window: hours from antibiotics to culture and from culture to antibiotics.
        sofa_window: hours before and after the suspicion in which SOFA must rise.
        abx_min_hours: least duration of antibiotics, or None for any.
        abx_gap: hours between two courses or doses up to which antibiotics count as going on.
        baseline: ``"min_prior"``: rise over the lowest score of the last ``baseline_hours``;
            ``"zero"``: rise over 0, for patients without known dysfunction before.
        baseline_hours: see above.
        increase: points.
        min_hours: stays with fewer hours are left out.
        min_onset: onsets before this hour of the stay are left out.
    """

    abx_window: tuple[float, float] = (24.0, 72.0)
    sofa_window: tuple[float, float] = (24.0, 12.0)
    abx_min_hours: float | None = None
    abx_gap: float = 24.0
    baseline: Literal["min_prior", "zero"] = "min_prior"
    baseline_hours: float = 24.0
    increase: float = 2.0
    min_hours: float = 8.0
    min_onset: float = 4.0

    def __post_init__(self) -> None:
        if self.baseline not in ("min_prior", "zero"):
            raise ParameterError(f"baseline must be 'min_prior' or 'zero', not {self.baseline!r}")
        hours = (*self.abx_window, *self.sofa_window, self.abx_gap, self.baseline_hours)
        if min(hours) < 0 or (self.abx_min_hours is not None and self.abx_min_hours < 0):
            raise ParameterError("windows and durations must not be negative")

    @property
    def is_causal(self) -> bool:
        """Whether no rule waits for more than the pair of events that make a suspicion."""
        return self.abx_min_hours is None

    @classmethod
    def challenge(cls) -> Sepsis3Labeler:
        """The rules of the 2019 challenge, with 72 hours of antibiotics."""
        return cls(abx_min_hours=72.0)

    def fit(self, events: Mapping[str, pl.DataFrame]) -> Sepsis3Labeler:
        """Nothing is learned; for scikit-learn's sake."""
        return self

    def fit_transform(self, events: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Same as :meth:`transform`."""
        return self.transform(events)

    def transform(self, events: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """The onset table.

        Args:
            events: tables by name, times in hours since admission, fractions kept:
                ``"antibiotics"`` (``id``, ``start``, and ``end`` if known), ``"cultures"``
                (``id``, ``time``), ``"sofa"`` (``id``, ``time``, ``sofa``; see
                :func:`~foretell.data.clinical.sofa.sofa_scores`), and if given ``"stays"``
                (``id``, ``hours``), whose stays all have a row in the result.

        Returns:
            One row a stay, by id: ``t_suspicion``, ``t_sofa``, ``t_sepsis`` (null where there is
            none), ``known_at``, and ``reason``, which is ``"sepsis"`` or why there is none.

        Raises:
            DataError: a table or column is missing, or a time is not finite.
        """
        tables = {name: self._table(events, name) for name in _NEEDED}
        hours: dict[str, float] = {}
        if "stays" in events:
            stays = events["stays"]
            for column in ("id", "hours"):
                if column not in stays.columns:
                    raise DataError("a needed column is missing", file="stays", column=column)
            spans = stays["hours"].cast(pl.Float64, strict=False)
            if not spans.is_finite().fill_null(False).all():
                row = int(spans.is_finite().fill_null(False).arg_min() or 0)
                raise DataError("the hours of a stay are no number", file="stays", row=row)
            hours = dict(zip(stays["id"].cast(pl.String), spans, strict=True))
            if len(hours) != stays.height:
                raise DataError("a stay has more than one row", file="stays", column="id")
            ids = list(hours)
        else:
            ids = sorted({i for t in tables.values() for i in t})
        empty: NDArray[np.float64] = np.zeros((0, 2))
        rows = []
        for i in ids:
            antibiotics, cultures, sofa = (tables[name].get(i, empty) for name in _NEEDED)
            found = self._stay(antibiotics, cultures, sofa, hours.get(i, np.inf))
            rows.append({"id": i, **found})
        kinds = {"id": pl.String, "t_suspicion": pl.Float64, "t_sofa": pl.Float64,
                 "t_sepsis": pl.Float64, "known_at": pl.Float64, "reason": pl.String}  # fmt: skip
        return pl.DataFrame(rows, schema=kinds)

    def _table(
        self, events: Mapping[str, pl.DataFrame], name: str
    ) -> dict[str, NDArray[np.float64]]:
        """Id -> (n, 2) times with ends or scores, by time."""
        if name not in events:
            raise DataError(f"the table {name!r} is missing", hint=f"Give {', '.join(_NEEDED)}")
        table = events[name]
        for column in _NEEDED[name]:
            if column not in table.columns:
                raise DataError("a needed column is missing", file=name, column=column)
        when = _NEEDED[name][1]
        second = {"antibiotics": "end", "cultures": "time", "sofa": "sofa"}[name]
        if second not in table.columns:
            table = table.with_columns(pl.col(when).alias(second))
        table = table.select(
            pl.col("id").cast(pl.String),
            pl.col(when).cast(pl.Float64, strict=False).alias("time"),
            # An end that is not told is that of a single dose; one that cannot be read is refused.
            pl.when(pl.col(second).is_null())
            .then(pl.col(when).cast(pl.Float64, strict=False))
            .otherwise(pl.col(second).cast(pl.Float64, strict=False))
            .alias("other"),
        )
        bad = ~(table["time"].is_finite() & table["other"].is_finite()).fill_null(False)
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise DataError("a time or score is missing", file=name, row=row)
        if name == "antibiotics" and (table["other"] < table["time"]).any():
            row = int((table["other"] < table["time"]).arg_max() or 0)
            raise DataError("antibiotics end before they start", file=name, row=row)
        table = table.sort("id", "time", maintain_order=True)
        return {
            str(key[0]): part.select("time", "other").to_numpy()
            for key, part in table.group_by("id", maintain_order=True)
        }

    def _stay(
        self,
        antibiotics: NDArray[np.float64],
        cultures: NDArray[np.float64],
        sofa: NDArray[np.float64],
        hours: float,
    ) -> dict[str, Any]:
        result: dict[str, Any] = dict.fromkeys(("t_suspicion", "t_sofa", "t_sepsis", "known_at"))
        if hours < self.min_hours:
            return {**result, "reason": _REASONS[4]}
        suspicions = self._suspicions(antibiotics, cultures[:, 0])
        if not suspicions:
            return {**result, "reason": _REASONS[1]}
        result["t_suspicion"] = suspicions[0][0]
        rises = self._rises(sofa)
        before, after = self.sofa_window
        for suspicion, known in suspicions:
            near = rises[(rises >= suspicion - before) & (rises <= suspicion + after)]
            if not len(near):
                continue
            onset = min(suspicion, float(near[0]))
            result |= {"t_suspicion": suspicion, "t_sofa": float(near[0]), "t_sepsis": onset}
            result["known_at"] = max(known, float(near[0]))
            if onset < self.min_onset:
                return {**result, "t_sepsis": None, "reason": _REASONS[3]}
            return {**result, "reason": _REASONS[0]}
        return {**result, "reason": _REASONS[2]}

    def _suspicions(
        self, antibiotics: NDArray[np.float64], cultures: NDArray[np.float64]
    ) -> list[tuple[float, float]]:
        """Times of suspicion and from when on each is known, ascending."""
        found = []
        to_culture, to_antibiotics = self.abx_window
        for start, end in self._courses(antibiotics):
            if self.abx_min_hours is None:
                certain = start
            else:
                if end - start < self.abx_min_hours:
                    continue
                certain = start + self.abx_min_hours
            near = cultures[(cultures <= start + to_culture) & (cultures >= start - to_antibiotics)]
            for culture in near:
                found.append((min(start, culture), max(start, culture, certain)))
        # Of pairs with the same suspicion the one that is known first counts.
        return sorted((float(t), float(k)) for t, k in found)

    def _courses(self, antibiotics: NDArray[np.float64]) -> list[tuple[float, float]]:
        """Starts and ends; with a least duration, doses close to each other are one course."""
        if self.abx_min_hours is None:
            return [(float(s), float(e)) for s, e in antibiotics]
        courses: list[tuple[float, float]] = []
        for start, end in antibiotics:
            if courses and start <= courses[-1][1] + self.abx_gap:
                courses[-1] = (courses[-1][0], max(courses[-1][1], float(end)))
            else:
                courses.append((float(start), float(end)))
        return courses

    def _rises(self, sofa: NDArray[np.float64]) -> NDArray[np.float64]:
        """Times at which the rise over the baseline reaches ``increase``, not where it goes on.

        It does not go on but comes again where the score exceeds that of the last rise by as much.
        """
        if not len(sofa):
            return np.zeros(0)
        times, scores = sofa[:, 0], sofa[:, 1]
        if self.baseline == "zero":
            high = scores >= self.increase
        else:
            first = np.searchsorted(times, times - self.baseline_hours, side="left")
            lowest = np.array([scores[a : i + 1].min() for i, a in enumerate(first)])
            high = scores - lowest >= self.increase
        rises, was, level = [], False, np.inf
        for time, score, now in zip(times, scores, high, strict=True):
            if now and (not was or score >= level + self.increase):
                rises.append(time)
                level = score
            was = bool(now)
        return np.array(rises, np.float64)


def apply_onsets(stays: Stays, onsets: pl.DataFrame) -> Stays:
    """The stays with the onsets of a table, as hours of the unit's clock.

    An onset at 5 h 20 min falls into hour 6: only from its end on would a prediction be too late.

    Args:
        stays: any; an onset that is on record is replaced, and the given label dropped.
        onsets: ``id`` and ``t_sepsis`` in hours since admission, null or NaN where there is none.

    Raises:
        DataError: a column is missing, an onset is no number or endless, or a stay has no row or
            more than one.
    """
    for column in ("id", "t_sepsis"):
        if column not in onsets.columns:
            raise DataError("a needed column is missing", file="onsets", column=column)
    hours = onsets["t_sepsis"].cast(pl.Float64, strict=False)
    wrong = hours.is_infinite().fill_null(onsets["t_sepsis"].is_not_null())
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise DataError(
            f"an onset is {onsets['t_sepsis'][row]!r}, no hour",
            file="onsets", column="t_sepsis", row=row,
        )  # fmt: skip
    table = dict(zip(onsets["id"].cast(pl.String), hours.fill_nan(None), strict=True))
    if len(table) != onsets.height:
        raise DataError("a stay has more than one row", file="onsets", column="id")
    missing = [i for i in stays.ids.tolist() if str(i) not in table]
    if missing:
        raise DataError("a stay has no row", file="onsets", series=str(missing[0]))
    found = (table[str(i)] for i in stays.ids.tolist())
    onset = np.array([np.nan if t is None else float(hour_of(t)) for t in found], np.float64)
    return replace(stays, onset=onset, label=None)
