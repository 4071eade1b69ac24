"""Entities with times and features, and the outcomes that arrive after them.

An entity is what a prediction is made for: an impression, an offer, a booking. Its outcomes - the
conversion and engagements before it - come later, so what is known depends on when one looks. A
log is therefore always seen at a moment ``now``: :meth:`EventLog.until` gives the log as it was
then, and nothing of it reveals what happened later. Whoever trains is given such a view.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from foretell.data.events.clock import duration, moment, to_datetimes
from foretell.data.events.columns import EventColumns, id_values
from foretell.data.panel import Categorical, DataNote
from foretell.errors import ParameterError

if TYPE_CHECKING:
    from foretell.data.events.emission import Emission

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EventLog:
    """n entities in order of (time, id) and what is known of their outcomes at ``now``.

    Make one with :meth:`from_frames` or :func:`~foretell.data.events.readers.read_events`.

    Args:
        _columns: the arrays shared by all views; they hold the future of a view, so that nobody
            but the log itself reads them.
        window: attribution window W, in the log's unit: an outcome later than t + W does not count.
        conversion: the kind of outcome that is the label.
        unit: of all times and durations (``"s"``, ``"h"``, ...), None for plain numbers.
        calendar: whether times are dates, counted from 1970 (UTC).
        revocation: the kind of outcome that takes a conversion back (refund), if there is one.
        now: what happened later is not seen; +inf for a complete log.
        rows: the entities seen, as a slice or as positions (m,).
        notes: what was found and repaired while reading.
    """

    _columns: EventColumns
    window: float
    conversion: str = "conversion"
    unit: str | None = None
    calendar: bool = False
    revocation: str | None = None
    now: float = np.inf
    rows: slice | IntArray = field(default_factory=lambda: slice(None))
    notes: tuple[DataNote, ...] = ()

    @classmethod
    def from_frames(
        cls,
        entities: Any,
        outcomes: Any = None,
        *,
        attribution_window: Any,
        id: str = "id",
        time: str = "t",
        kind: str | None = "kind",
        outcome_time: str = "t_outcome",
        unit: str | None = None,
        features: Sequence[str] | None = None,
        conversion: str = "conversion",
        revocation: str | None = None,
        deadline: str | None = None,
        kinds: Sequence[str] = (),
        max_early: float = 0.01,
        source: str | None = None,
        outcome_source: str | None = None,
    ) -> EventLog:
        """A log of two tables: polars, pandas, pyarrow, or a dict of columns.

        Args:
            entities: one row an entity: id, time and features.
            outcomes: one row an outcome: id, kind and time; None where nothing happened yet.
            attribution_window: W, a number of the unit, text such as ``"96h"`` or a timedelta.
            id: column of both tables that names the entity; integers or text.
            time: column of exposure times: numbers, dates, datetimes or ISO text.
            kind: column of outcome kinds; None, or a column that is not there, makes every
                outcome a conversion.
            outcome_time: column of outcome times, numbers or dates as the exposure times are.
            unit: what one unit of numeric times is; for dates the unit they are counted in,
                seconds where none is given.
            features: columns of the entities; None takes all others. Text, booleans and
                categories are categorical or 0/1, the rest numbers with NaN where missing.
            conversion: the kind that is the label.
            revocation: the kind that takes a conversion back.
            deadline: column of the entities: after this moment no outcome of the entity counts
                even within W, e.g. the arrival of a hotel guest, after which nobody cancels.
                It must be known at exposure.
            kinds: further kinds of outcomes that may not have occurred yet.
            max_early: share of a kind's outcomes that may lie before exposure; they are dropped
                with a warning, and more of them are an error.
            source: file or table of the entities, for messages.
            outcome_source: file or table of the outcomes, for messages.

        Raises:
            DataError: a column is missing, an id repeats or is missing, a time is missing or not
                finite, or too many outcomes lie before exposure.
            ParameterError: the window is not positive or cannot be read.
        """
        from foretell.data.events.frames import build

        return build(
            entities,
            outcomes,
            attribution_window=attribution_window,
            id=id,
            time=time,
            kind=kind,
            outcome_time=outcome_time,
            unit=unit,
            features=features,
            conversion=conversion,
            revocation=revocation,
            deadline=deadline,
            kinds=kinds,
            max_early=max_early,
            source=source,
            outcome_source=outcome_source or source,
        )

    # ------------------------------------------------------------------ entities

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        seen = "complete" if np.isinf(self.now) else f"now={self.now:g}"
        unit = self.unit or ""
        return (
            f"EventLog({len(self):,} entities, window={self.window:g}{unit}, {seen}, "
            f"kinds={list(self.kinds)}, features={list(self.feature_names)})"
        )

    @cached_property
    def ids(self) -> NDArray:
        """Names (n,): int64, or objects of str."""
        return id_values(self._arrow_ids)

    @cached_property
    def times(self) -> FloatArray:
        """Exposure times (n,)."""
        return self._columns.times[self.rows]

    @cached_property
    def deadlines(self) -> FloatArray:
        """Absolute times (n,) after which no outcome of the entity counts: at most t + W."""
        ends = self.times + self.window
        given = self._columns.deadlines
        return ends if given is None else np.minimum(ends, given[self.rows])

    @cached_property
    def windows(self) -> FloatArray:
        """The attribution window (n,) of each entity: W, or less where it has a deadline."""
        if self._columns.deadlines is None:
            return np.full(len(self), self.window)
        return np.minimum(self.deadlines - self.times, self.window)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of outcomes, the conversion first."""
        others = sorted(k for k in self._columns.outcomes if k != self.conversion)
        return (self.conversion, *others)

    @property
    def revocable(self) -> bool:
        """Whether a label can be taken back, so that it is not monotone in time."""
        return self.revocation is not None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names (d,) of the features."""
        return tuple(self._columns.features)

    @property
    def categorical_features(self) -> tuple[str, ...]:
        """Names of the features that are categories."""
        return tuple(k for k, v in self._columns.features.items() if isinstance(v, Categorical))

    @property
    def vocabularies(self) -> Mapping[str, tuple[str, ...]]:
        """Categorical feature -> names of codes 1, 2, ..."""
        columns = self._columns.features.items()
        return {k: v.vocabulary for k, v in columns if isinstance(v, Categorical)}

    def matrix(self, rows: ArrayLike | None = None) -> FloatArray:
        """Features (m, d) float64: numbers with NaN where missing, categories as codes.

        Code 0 is unknown or missing, code c the name ``vocabularies[feature][c - 1]``.
        """
        at = self._base_rows(rows)
        count = len(self) if rows is None else len(_positions(rows))
        result = np.empty((count, len(self._columns.features)))
        for j, values in enumerate(self._columns.features.values()):
            result[:, j] = values.codes[at] if isinstance(values, Categorical) else values[at]
        return result

    def frame(self, rows: ArrayLike | None = None) -> pl.DataFrame:
        """Features as a polars table of m rows, categories by name (null where unknown)."""
        at = self._base_rows(rows)
        columns = {}
        for name, values in self._columns.features.items():
            if isinstance(values, Categorical):
                names = pl.Series([None, *values.vocabulary], dtype=pl.String)
                columns[name] = names.gather(pl.Series(values.codes[at].astype(np.uint32)))
            else:
                columns[name] = pl.Series(values[at])
        return pl.DataFrame(columns)

    def positions(self, ids: Sequence[Any] | NDArray) -> IntArray:
        """Row (m,) of each named entity, -1 where the log does not hold it."""
        own = pl.DataFrame({"id": pl.Series(self._arrow_ids)}).with_row_index("row")
        wanted = pl.DataFrame({"id": pl.Series(np.asarray(ids)).cast(own["id"].dtype)})
        found = wanted.join(own, on="id", how="left", maintain_order="left")["row"]
        return found.cast(pl.Int64).fill_null(-1).to_numpy()

    # ------------------------------------------------------------------ views

    def until(self, now: Any) -> EventLog:
        """The log as it was at ``now``: entities and outcomes up to then (inclusive) only.

        A view of a view never sees more than the first one. Costs no copy.
        """
        now = min(moment(now, self.unit, self.calendar), self.now)
        kept: slice | IntArray
        if self._sorted:
            kept = slice(0, int(np.searchsorted(self.times, now, side="right")))
        else:
            kept = np.flatnonzero(self.times <= now)
        return replace(self, rows=self._compose(kept), now=now)

    def select(self, rows: ArrayLike) -> EventLog:
        """The entities at the given positions (m,), in that order, or under a boolean mask (n,).

        Raises:
            ParameterError: a position repeats; resample with :meth:`matrix` instead.
        """
        kept = _positions(rows)
        if len(np.unique(kept)) != len(kept):
            raise ParameterError(
                "a row is selected twice: every entity is in a log once; to resample, "
                "use matrix(rows)"
            )
        return replace(self, rows=self._compose(kept))

    def with_window(self, attribution_window: Any) -> EventLog:
        """The same events under another attribution window: another log, other labels."""
        window = duration(attribution_window, self.unit, "the attribution window")
        if window <= 0:
            raise ParameterError(f"the attribution window must be positive, not {window:g}")
        return replace(self, window=window)

    def duration(self, value: Any, name: str = "the duration") -> float:
        """A duration (number, ``"6h"``, timedelta) in the log's unit."""
        return duration(value, self.unit, name)

    def moment(self, value: Any, name: str = "the moment") -> float:
        """A moment (number, or a date where the log has dates) in the log's unit."""
        return moment(value, self.unit, self.calendar, name)

    # ------------------------------------------------------------------ what is known

    def outcome_times(self, kind: str | None = None) -> FloatArray:
        """Absolute time (n,) of the first outcome of a kind in the window, +inf if none is seen.

        A conversion that was taken back counts as none.
        """
        kind = self.conversion if kind is None else kind
        first = self._seen(kind)
        if kind == self.conversion and self.revocation is not None:
            first[np.isfinite(self.revocation_times())] = np.inf
        return first

    def revocation_times(self) -> FloatArray:
        """Absolute time (n,) when the first conversion was taken back, +inf if that is not seen.

        What an entity does after its conversion was taken back does not count.
        """
        taken = np.full(len(self), np.inf)
        outcomes = self._columns.outcomes.get(str(self.revocation))
        if outcomes is not None:
            owner, times = outcomes.gather(self.rows)
            back = (times <= self._horizon[owner]) & (times >= self._seen(self.conversion)[owner])
            np.minimum.at(taken, owner[back], times[back])
        return taken

    def delay(self, kind: str | None = None) -> FloatArray:
        """Delay (n,) of the first outcome of a kind within the window, +inf if none is seen.

        Args:
            kind: of outcome; the conversion where None.
        """
        waited = self.outcome_times(kind) - self.times
        # Rounding of t + W must not push a delay beyond W.
        return np.where(np.isinf(waited), np.inf, np.minimum(waited, self.windows))

    def count(self, kind: str | None = None) -> IntArray:
        """Number (n,) of outcomes of a kind that are seen within the window."""
        kind = self.conversion if kind is None else kind
        self._first(kind)
        outcomes = self._columns.outcomes.get(kind)
        if outcomes is None:
            return np.zeros(len(self), np.int64)
        owner, times = outcomes.gather(self.rows)
        return np.bincount(owner[times <= self._horizon[owner]], minlength=len(self))

    def label(self, kind: str | None = None) -> NDArray[np.int8]:
        """1 (n,) where an outcome of the kind is seen, else 0; final only where :attr:`matured`."""
        return np.isfinite(self.outcome_times(kind)).astype(np.int8)

    def age(self) -> FloatArray:
        """How long (n,) each entity has been waited for: min(now - t, its window)."""
        return np.minimum(self.now - self.times, self.windows)

    @property
    def matured(self) -> NDArray[np.bool_]:
        """(n,) whether the window is over at ``now``, so that the label is final."""
        return self.deadlines <= self.now

    def state(
        self, at: ArrayLike, engagement: Sequence[str] | str, *, strict: bool = True
    ) -> NDArray[np.int8]:
        """Funnel label (n,) at absolute times: 0 none, 1 engaged, 2 converted.

        Args:
            at: one time, or (n,) times.
            engagement: kinds of outcomes that count as engagement; any of them does.
            strict: a conversion implies engagement. Otherwise label 3 is a conversion of an
                entity that had not engaged by then.
        """
        at = np.minimum(np.asarray(at, np.float64), self.deadlines)
        converted, engaged = self.outcome_times(), self.engagement_times(engagement)
        state = (engaged <= at).astype(np.int8)
        state[converted <= at] = 2
        if not strict:
            state[(converted <= at) & (engaged > converted)] = 3
        return state

    def engagement_times(self, engagement: Sequence[str] | str) -> FloatArray:
        """Absolute time (n,) of the first engagement of any given kind, +inf if none is seen.

        Raises:
            ParameterError: no kind is given, or one is not of this log.
        """
        kinds = (engagement,) if isinstance(engagement, str) else tuple(engagement)
        if not kinds or self.conversion in kinds:
            raise ParameterError(
                f"engagement must name kinds of outcomes before {self.conversion!r}; "
                f"this log has {[k for k in self.kinds if k != self.conversion]}"
            )
        times = self.outcome_times(kinds[0])
        for kind in kinds[1:]:
            times = np.minimum(times, self.outcome_times(kind))
        return times

    def require_monotone(self, what: str) -> None:
        """Checks that labels only ever rise, which ``what`` relies on.

        Raises:
            ParameterError: labels of this log can be taken back.
        """
        if self.revocation is not None:
            raise ParameterError(
                f"{what} needs labels that only rise, but {self.revocation!r} takes conversions "
                "back: use final labels ('wait'), or soft labels of a snapshot ('ulc')"
            )

    def emit(
        self,
        protocol: str,
        waiting_time: Any = 0.0,
        *,
        since: Any = -np.inf,
        until: Any = None,
        engagement: Sequence[str] | str = (),
        strict: bool = True,
    ) -> Emission:
        """The training rows that a protocol emits in (since, until], in order of (time, id).

        See :func:`~foretell.data.events.emission.emit`.
        """
        from foretell.data.events.emission import emit

        return emit(
            self,
            protocol,
            waiting_time,
            since=since,
            until=until,
            engagement=engagement,
            strict=strict,
        )

    # ------------------------------------------------------------------ out

    def to_polars(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """What is seen as two tables: entities (id, t, ...) and outcomes (id, kind, t_outcome).

        Outcomes after the window are among them: another window may count them.
        """
        ids = pl.Series("id", self._arrow_ids)

        def clock(values: FloatArray, name: str) -> pl.Series:
            if self.calendar:
                return to_datetimes(values, self.unit).alias(name)
            return pl.Series(name, values)

        entities = [ids, clock(self.times, "t")]
        if self._columns.deadlines is not None:
            entities.append(clock(self._columns.deadlines[self.rows], "deadline"))
        tables = []
        for kind in self.kinds:
            owner, times = self._visible(kind)
            named = ids.gather(pl.Series(owner))
            tables.append(
                pl.DataFrame([named, clock(times, "t_outcome")]).select(
                    "id", pl.lit(kind).alias("kind"), "t_outcome"
                )
            )
        outcomes = pl.concat(tables).sort("t_outcome", "id", maintain_order=True)
        return pl.DataFrame(entities).hstack(self.frame()), outcomes

    def fingerprint(self) -> str:
        """SHA-256 of what is seen: the same entities, outcomes and window, the same value.

        Where the arrays lie does not matter, and neither does what happens after ``now``.
        """
        facts = (self.window, self.conversion, self.unit, self.calendar, self.revocation, self.now)
        digest = hashlib.sha256(repr(facts).encode())
        ids = self._arrow_ids
        digest.update(str(ids.type).encode())
        for begin in range(0, len(ids), 1 << 20):
            part = ids.slice(begin, 1 << 20)
            if pa.types.is_integer(ids.type):
                digest.update(part.to_numpy(zero_copy_only=False).tobytes())
            else:
                digest.update("\0".join(part.to_pylist()).encode() + b"\0")
        digest.update(np.ascontiguousarray(self.times).data)
        if self._columns.deadlines is not None:
            digest.update(np.ascontiguousarray(self._columns.deadlines[self.rows]).data)
        for name, values in self._columns.features.items():
            if isinstance(values, Categorical):
                # By name: codes depend on which other names the whole log holds.
                used = np.unique(values.codes[self.rows])
                names = [values.vocabulary[c - 1] if c else None for c in used]
                digest.update(repr((name, names)).encode())
                digest.update(np.searchsorted(used, values.codes[self.rows]).tobytes())
            else:
                digest.update(repr(name).encode())
                digest.update(np.ascontiguousarray(values[self.rows], np.float64).tobytes())
        for kind in self.kinds:
            owner, times = self._visible(kind)
            if len(owner):
                digest.update(repr(kind).encode() + owner.tobytes() + times.tobytes())
        return digest.hexdigest()

    # ------------------------------------------------------------------ inside

    @cached_property
    def _arrow_ids(self) -> pa.Array:
        if isinstance(self.rows, slice):
            begin, stop, _ = self.rows.indices(len(self._columns.ids))
            return self._columns.ids.slice(begin, max(stop - begin, 0))
        return self._columns.ids.take(pa.array(self.rows))

    @cached_property
    def _sorted(self) -> bool:
        return isinstance(self.rows, slice) or bool(np.all(self.rows[1:] > self.rows[:-1]))

    def _part(self, begin: int, stop: int) -> EventLog:
        return replace(self, rows=self._compose(slice(begin, stop)))

    @property
    def _horizon(self) -> FloatArray:
        """The last moment (n,) whose outcomes are seen and count."""
        return np.minimum(self.deadlines, self.now)

    def _compose(self, kept: slice | IntArray) -> slice | IntArray:
        if not isinstance(self.rows, slice):
            return self.rows[kept]
        begin, stop, _ = self.rows.indices(len(self._columns.times))
        if isinstance(kept, slice):
            return slice(begin + kept.start, min(begin + kept.stop, stop))
        if kept.size and (kept.min() < -len(self) or kept.max() >= len(self)):
            raise IndexError(f"a row lies outside the {len(self)} of this log")
        return begin + np.where(kept < 0, kept + len(self), kept)

    def _base_rows(self, rows: ArrayLike | None) -> slice | IntArray:
        return self.rows if rows is None else self._compose(_positions(rows))

    def _first(self, kind: str) -> FloatArray:
        if kind in self._columns.outcomes:
            return self._columns.outcomes[kind].first[self.rows]
        if kind == self.conversion:
            return np.full(len(self), np.inf)
        raise ParameterError(f"no outcome of kind {kind!r}; this log has {list(self.kinds)}")

    def _seen(self, kind: str) -> FloatArray:
        """Time (n,) of the first outcome in the window, taken back or not, +inf if none is seen."""
        first = self._first(kind)
        return np.where(first <= self._horizon, first, np.inf)

    def _visible(self, kind: str) -> tuple[IntArray, FloatArray]:
        """(row, time) of all outcomes up to now, those after the window included."""
        outcomes = self._columns.outcomes.get(kind)
        if outcomes is None:
            return np.zeros(0, np.int64), np.zeros(0)
        owner, times = outcomes.gather(self.rows)
        seen = times <= self.now
        return owner[seen], times[seen]


def _positions(rows: ArrayLike) -> IntArray:
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
