"""Many time series of one frequency, ragged, as views into flat arrays.

A panel never copies its observations when series are selected or cut: it only moves the begin and
length of each series, so that a panel over memory-mapped files stays out of memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.frequency import Frequency
from foretell.errors import DataError, ParameterError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Categorical:
    """A static category of each series.

    Args:
        codes: (N,) int32; 0 means unknown, code c means ``vocabulary[c - 1]``.
        vocabulary: the names of codes 1, 2, ...
    """

    codes: NDArray[np.int32]
    vocabulary: tuple[str, ...]

    @classmethod
    def from_values(cls, values: Sequence[str | None]) -> Categorical:
        """Codes of names (N,), the vocabulary sorted; ``None`` becomes 0."""
        vocabulary = tuple(sorted({v for v in values if v is not None}))
        return cls(np.zeros(len(values), np.int32), vocabulary).encode(values)

    def encode(self, values: Sequence[str | None]) -> Categorical:
        """The given names under this vocabulary; names it does not hold become 0."""
        table = {name: code for code, name in enumerate(self.vocabulary, start=1)}
        codes = np.fromiter((table.get(v, 0) if v is not None else 0 for v in values), np.int32)
        return Categorical(codes, self.vocabulary)

    @property
    def values(self) -> list[str | None]:
        """The names (N,), ``None`` where unknown."""
        return [self.vocabulary[c - 1] if c else None for c in self.codes]


@dataclass(frozen=True)
class DataNote:
    """Something found and dealt with while reading data: reported, never silent."""

    kind: str
    message: str
    count: int = 1
    series: str | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """N series on one time grid.

    Args:
        ids: (N,) names of the series, unique.
        frequency: the time grid.
        starts: (N,) period number of each series' first step.
        begins: (N,) where each series begins in the flat arrays.
        lengths: (N,) number of observed-time steps.
        target: flat float32, NaN where nothing was observed.
        censored: flat bool or None; True where a stock-out cut the sales.
        past: name -> flat float32; known only up to the present.
        known: name -> flat float32 over ``known_lengths`` >= ``lengths`` steps from the same start:
            calendar, events, planned prices.
        known_begins: (N,) where each series begins in the known arrays.
        known_lengths: (N,) steps for which the known covariates are given.
        static_categorical: name -> category of each series.
        static_real: name -> (N,) float32.
        events: the names in ``known`` that are 0/1 indicators of named events.
        notes: what was found and repaired while reading.
    """

    ids: NDArray[np.object_]
    frequency: Frequency
    starts: IntArray
    begins: IntArray
    lengths: IntArray
    target: FloatArray
    censored: NDArray[np.bool_] | None = None
    past: Mapping[str, FloatArray] = field(default_factory=dict)
    known: Mapping[str, FloatArray] = field(default_factory=dict)
    known_begins: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    known_lengths: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    static_categorical: Mapping[str, Categorical] = field(default_factory=dict)
    static_real: Mapping[str, FloatArray] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    notes: tuple[DataNote, ...] = ()

    def __post_init__(self) -> None:
        if not self.known:
            object.__setattr__(self, "known_begins", self.begins)
            object.__setattr__(self, "known_lengths", self.lengths)
        for name, array in (("starts", self.starts), ("lengths", self.lengths)):
            if len(array) != len(self.ids):
                raise ParameterError(f"{len(self.ids)} ids but {len(array)} {name}")
        missing = [name for name in self.events if name not in self.known]
        if missing:
            raise ParameterError(f"events {missing} are not among the known covariates")

    @classmethod
    def from_arrays(
        cls,
        values: Sequence[ArrayLike] | NDArray,
        *,
        ids: Sequence[str] | None = None,
        frequency: Frequency | None = None,
        start: int | Sequence[int] = 0,
        **columns: object,
    ) -> Panel:
        """A panel of given sequences (one per series, NaN where nothing was observed).

        Other keyword arguments are those of the class (``known`` etc. as flat arrays).
        """
        arrays = [np.asarray(v, np.float32).ravel() for v in values]
        lengths = np.array([len(a) for a in arrays], np.int64)
        begins = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        names = [str(i) for i in range(len(arrays))] if ids is None else [str(i) for i in ids]
        if len(names) != len(arrays) or len(set(names)) != len(names):
            raise ParameterError(f"{len(arrays)} sequences need as many different ids")
        starts = np.broadcast_to(np.asarray(start, np.int64), (len(arrays),)).copy()
        target = np.concatenate(arrays) if arrays else np.zeros(0, np.float32)
        return cls(
            np.array(names, object),
            frequency or Frequency(),
            starts,
            begins,
            lengths,
            target,
            **columns,  # type: ignore[arg-type]
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"Panel({len(self):,} series, {int(self.lengths.sum()):,} steps, "
            f"freq={self.frequency.alias!r}, past={list(self.past)}, known={list(self.known)}, "
            f"static={[*self.static_categorical, *self.static_real]})"
        )

    @property
    def ends(self) -> IntArray:
        """Period number of each series' last step (N,)."""
        return self.starts + self.lengths - 1

    @cached_property
    def positions(self) -> dict[str, int]:
        """Position of each series by its name."""
        return {name: i for i, name in enumerate(self.ids)}

    def series(self, i: int) -> FloatArray:
        """The target of series i, a view (T_i,)."""
        return self.target[self.begins[i] : self.begins[i] + self.lengths[i]]

    def __iter__(self) -> Iterator[FloatArray]:
        return (self.series(i) for i in range(len(self)))

    def select(self, rows: NDArray) -> Panel:
        """The series at the given positions or under the given boolean mask."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return replace(
            self,
            ids=self.ids[rows],
            starts=self.starts[rows],
            begins=self.begins[rows],
            lengths=self.lengths[rows],
            known_begins=self.known_begins[rows],
            known_lengths=self.known_lengths[rows],
            static_categorical={
                k: Categorical(v.codes[rows], v.vocabulary)
                for k, v in self.static_categorical.items()
            },
            static_real={k: v[rows] for k, v in self.static_real.items()},
        )

    def cut(self, back: int | IntArray) -> Panel:
        """The panel as it was ``back`` periods earlier (one number, or one a series).

        Known covariates stay: they were known ahead. Series that had not begun keep length 0.
        """
        back = np.broadcast_to(np.asarray(back, np.int64), (len(self),))
        if np.any(back < 0):
            raise ParameterError("cannot cut a negative number of periods")
        return replace(self, lengths=np.maximum(self.lengths - back, 0))

    def until(self, period: int) -> Panel:
        """The panel as it was at the end of a period number, the same for all series."""
        return self.cut(np.maximum(self.ends - period, 0))

    def windows(self, rows: IntArray, stops: IntArray, length: int) -> FloatArray:
        """Target windows (B, length) that end before step ``stops`` of series ``rows``.

        Steps before a series begins or at and after its length are NaN.
        """
        return self._gather(self.target, self.begins, self.lengths, rows, stops, length)

    def past_windows(self, name: str, rows: IntArray, stops: IntArray, length: int) -> FloatArray:
        """Windows (B, length) of a past covariate, laid as in :meth:`windows`."""
        return self._gather(self.past[name], self.begins, self.lengths, rows, stops, length)

    def known_windows(self, name: str, rows: IntArray, stops: IntArray, length: int) -> FloatArray:
        """Windows (B, length) of a known covariate; ``stops`` may lie beyond the target's end."""
        return self._gather(
            self.known[name], self.known_begins, self.known_lengths, rows, stops, length
        )

    def censored_windows(self, rows: IntArray, stops: IntArray, length: int) -> NDArray[np.bool_]:
        """Windows (B, length) of the censoring flag, False outside a series."""
        if self.censored is None:
            return np.zeros((len(rows), length), bool)
        steps, inside = _steps(self.lengths, rows, stops, length)
        flat = np.where(inside, self.begins[rows][:, None] + steps, 0)
        return np.where(inside, self.censored[flat], False)

    def period_windows(self, rows: IntArray, stops: IntArray, length: int) -> IntArray:
        """Period numbers (B, length) of the steps in a window."""
        steps = stops[:, None] - length + np.arange(length)[None, :]
        return self.starts[rows][:, None] + steps

    def outcomes(self, ids: Sequence[str], cutoffs: IntArray, horizon: int) -> FloatArray:
        """What happened after given cutoffs.

        Args:
            ids: (M,) names of series.
            cutoffs: (M,) period number of the last step that counted as known.
            horizon: number of steps K.

        Returns:
            (M, K) float32, NaN where nothing was observed or the series is not in the panel.
        """
        rows = np.array([self.positions.get(str(i), -1) for i in ids], np.int64)
        known = rows >= 0
        result = np.full((len(rows), horizon), np.nan, np.float32)
        inside = rows[known]
        stops = np.asarray(cutoffs, np.int64)[known] - self.starts[inside] + 1 + horizon
        result[known] = self.windows(inside, stops, horizon)
        return result

    def fingerprint(self) -> str:
        """SHA-256 of ids, grid, target, covariates and attributes: the same data, the same value.

        Where the arrays lie in memory or on disk does not matter; selections and cuts do.
        """
        digest = hashlib.sha256(repr(self.frequency.to_dict()).encode())
        for name in self.ids:
            digest.update(str(name).encode() + b"\0")
        for array in (self.starts, self.lengths, self.known_lengths):
            digest.update(np.ascontiguousarray(array).tobytes())
        own: list[tuple[str, NDArray]] = [("", self.target), *self.past.items()]
        if self.censored is not None:
            own.append(("censored", self.censored))
        for name, values in own:
            digest.update(name.encode() + b"\0")
            _hash_parts(digest, values, self.begins, self.lengths)
        for name, values in self.known.items():
            digest.update(name.encode() + b"\1")
            _hash_parts(digest, values, self.known_begins, self.known_lengths)
        for name, category in self.static_categorical.items():
            digest.update(repr((name, category.vocabulary)).encode())
            digest.update(np.ascontiguousarray(category.codes).tobytes())
        for name, values in self.static_real.items():
            digest.update(name.encode() + b"\2" + np.ascontiguousarray(values).tobytes())
        digest.update(repr(self.events).encode())
        return digest.hexdigest()

    def require_known(self, horizon: int) -> None:
        """Checks that every known covariate is given, without gaps, ``horizon`` steps ahead.

        Raises:
            DataError: names the covariate and the first series for which it ends too early or
                has a missing value.
        """
        if not self.known:
            return
        short = np.flatnonzero(self.known_lengths < self.lengths + horizon)
        if short.size:
            i = int(short[0])
            have = int(self.known_lengths[i] - self.lengths[i])
            raise DataError(
                f"known covariates end too early: {have} of {horizon} future periods are given "
                f"({short.size} series concerned)",
                column=", ".join(self.known),
                series=str(self.ids[i]),
                hint=f"Give {', '.join(self.known)} for {horizon} periods after the last "
                "row of each series in the future table (data.future, or --future), or pass a "
                "shorter horizon; rows without target in the history are no plan",
            )
        for name, flat in self.known.items():
            where = np.flatnonzero(np.isnan(flat))
            ends = self.known_begins + self.lengths + horizon
            next_missing = np.searchsorted(where, self.known_begins)
            concerned = np.searchsorted(where, ends) > next_missing
            if concerned.any():
                i = int(np.argmax(concerned))
                step = int(where[next_missing[i]] - self.known_begins[i])
                period = self.frequency.time(self.starts[i : i + 1] + step)[0]
                raise DataError(
                    f"known covariate has a missing value at {period}, step {step} "
                    f"({int(concerned.sum())} series concerned)",
                    column=name,
                    series=str(self.ids[i]),
                    hint="What is known ahead has no gaps: give the value, or fill it "
                    "(impute='forward', in a recipe data.impute)",
                )

    def _gather(
        self,
        flat: FloatArray,
        begins: IntArray,
        lengths: IntArray,
        rows: IntArray,
        stops: IntArray,
        length: int,
    ) -> FloatArray:
        steps, inside = _steps(lengths, rows, stops, length)
        if flat.size == 0:
            return np.full(steps.shape, np.nan, np.float32)
        index = np.where(inside, begins[rows][:, None] + steps, 0)
        return np.where(inside, flat[index], np.float32(np.nan))


def flat_steps(begins: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
    """Place in a flat array, and step within its series, of every step, series after series."""
    total = np.cumsum(lengths)
    within = np.arange(total[-1] if total.size else 0) - np.repeat(total - lengths, lengths)
    return np.repeat(begins, lengths) + within, within


def _hash_parts(digest: Any, values: NDArray, begins: IntArray, lengths: IntArray) -> None:
    """Feeds a hash each series' part, in large pieces where the parts lie side by side."""
    if len(lengths) == 0:
        return
    breaks = np.flatnonzero(begins[1:] != begins[:-1] + lengths[:-1]) + 1
    for first, stop in zip(np.r_[0, breaks], np.r_[breaks, len(lengths)], strict=True):
        begin, end = int(begins[first]), int(begins[stop - 1] + lengths[stop - 1])
        for a in range(begin, end, 1 << 22):
            digest.update(np.ascontiguousarray(values[a : min(a + (1 << 22), end)]).data)


def _steps(
    lengths: IntArray, rows: IntArray, stops: IntArray, length: int
) -> tuple[IntArray, NDArray[np.bool_]]:
    rows, stops = np.asarray(rows, np.int64), np.asarray(stops, np.int64)
    steps = stops[:, None] - length + np.arange(length)[None, :]
    return steps, (steps >= 0) & (steps < lengths[rows][:, None])
