"""The live form of emission: events are pushed as they arrive, rows come out as time advances."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from foretell.data.columns import require_columns
from foretell.data.events.clock import duration, moment, moments
from foretell.data.events.columns import EventColumns, Feature, FloatArray, IntArray, OutcomeTimes
from foretell.data.events.emission import UPWARD, Emission, Protocol, emission_order, plan
from foretell.data.events.event_log import EventLog
from foretell.data.events.frames import (
    category,
    deadlines,
    feature,
    id_column,
    same_clock,
    to_table,
)
from foretell.data.events.schema import EventSchema
from foretell.data.panel import Categorical
from foretell.errors import DataError, ParameterError

_FINE = ("accepted", "repeated")
_ENOUGH = 100  # outcomes before the share of early ones means anything


class EmissionEngine:
    """Emits the rows of a protocol from a live stream, each exactly once.

    Push entities and outcomes in any order, then :meth:`advance` to the moment up to which the
    stream is complete: the engine returns the rows that fall due. As long as nothing is pushed
    later than that moment, the rows are those that
    :meth:`EventLog.emit <foretell.data.events.event_log.EventLog.emit>` gives for the whole log.

    What comes late is still used: an outcome at or before t + W raises the label of its entity and
    is emitted at the moment it became known, unless a row with this key is out already. Outcomes
    after t + W, before exposure, or of entities that were never seen or already forgotten are
    counted in :attr:`dead_letters`.

    Args:
        schema: of the stream, or a log that has it.
        protocol: one of :data:`~foretell.data.events.emission.PROTOCOLS` but ``oracle``.
        waiting_time: e, before the first emission.
        engagement: kinds of engagement, for ``funnel``.
        strict: whether a conversion implies engagement.
        grace: how long after its window an entity is remembered, for outcomes that come late;
            the window itself where None.
        version: of the stream, see :meth:`changed`.
    """

    def __init__(
        self,
        schema: EventSchema | EventLog,
        protocol: str | Protocol,
        waiting_time: Any = 0.0,
        *,
        engagement: Sequence[str] | str = (),
        strict: bool = True,
        grace: Any = None,
        version: int = 1,
    ) -> None:
        self.schema = schema if isinstance(schema, EventSchema) else EventSchema.of(schema)
        if not isinstance(protocol, Protocol):
            kinds = (engagement,) if isinstance(engagement, str) else tuple(engagement)
            e = duration(waiting_time, self.schema.unit, "the waiting time")
            protocol = Protocol(protocol, e, kinds, strict)
        if protocol.shape == "oracle":
            raise ParameterError(
                "the protocol 'oracle' needs labels that are not known yet: it can only be "
                "emitted from a complete log"
            )
        protocol.require(self.schema.window, self.schema.revocation is not None)
        self.protocol = protocol
        self.grace = (
            self.schema.window
            if grace is None
            else duration(grace, self.schema.unit, "the grace period")
        )
        if self.grace < 0:
            raise ParameterError(f"the grace period must be at least 0, not {self.grace:g}")
        self.version = int(version)
        self.now = -np.inf
        self._shown = -np.inf  # entities whose window closed by then have been handed out
        self.counts: Counter[str] = Counter()
        self._warned = False
        kinds = (*self.schema.kinds, *protocol.engagement)
        if self.schema.revocation is not None:
            kinds = (*kinds, self.schema.revocation)
        self._kinds = list(dict.fromkeys(kinds))
        self._slots: dict[Any, int] = {}
        self._names = _named((), self.schema.ids)
        self._times = np.zeros(0)
        self._deadlines = np.zeros(0)
        self._given_deadlines = False
        self._highest = np.zeros(0, np.int8)  # the highest label that was emitted, -1 none
        self._stages = np.zeros(0, np.uint8)  # bit s: stage s was emitted
        self._changed = np.zeros(0, bool)  # pushed or given an outcome since the last advance
        self._features: dict[str, NDArray] = {
            name: np.zeros(0, np.dtype(kind) if isinstance(kind, str) else np.int32)
            for name, kind in self.schema.features.items()
        }
        self._outcome_slots: list[IntArray] = []
        self._outcome_kinds: list[NDArray[np.int16]] = []
        self._outcome_times: list[FloatArray] = []
        self._first = [np.zeros(0) for _ in self._kinds]
        self._orphans: dict[Any, list[tuple[int, float]]] = {}

    # ------------------------------------------------------------------ state

    def __len__(self) -> int:
        """Number of entities that are remembered."""
        return len(self._times)

    def __repr__(self) -> str:
        return (
            f"EmissionEngine({self.protocol.name!r}, now={self.now:g}, {len(self):,} entities, "
            f"stream {self.stream}, {self.dead_letter_count} dead letters)"
        )

    @property
    def stream(self) -> str:
        """Name of the stream: rows of different streams must not be trained on together."""
        return self.protocol.stream(self.schema.window, self.schema.unit, self.version)

    @property
    def dead_letters(self) -> dict[str, int]:
        """What could not be used, by reason.

        ``after_window``, ``before_exposure``, ``unknown_entity`` (never seen, or forgotten),
        ``expired_entity`` (its window and grace were over when it came), ``too_late`` (an outcome
        that came after the row it would have changed, under a protocol that does not correct).
        """
        return {k: v for k, v in self.counts.items() if v and k not in _FINE}

    @property
    def dead_letter_count(self) -> int:
        """Sum of :attr:`dead_letters`."""
        return sum(self.dead_letters.values())

    def changed(
        self, *, window: Any = None, waiting_time: Any = None, **settings: Any
    ) -> EmissionEngine:
        """A new version of the stream under another window or waiting time.

        Rows under different windows carry different labels, so they are different streams. The
        new engine begins empty at this moment; entities that arrive from now on go to it, while
        this engine keeps those it has until they are finished.

        Args:
            window: the new attribution window; unchanged where None.
            waiting_time: the new waiting time.
            **settings: other fields of :class:`~foretell.data.events.emission.Protocol`.
        """
        unit = self.schema.unit
        schema = self.schema
        if window is not None:
            schema = replace(schema, window=duration(window, unit, "the attribution window"))
        if waiting_time is not None:
            settings["waiting_time"] = duration(waiting_time, unit, "the waiting time")
        follower = EmissionEngine(
            schema,
            replace(self.protocol, **settings),
            grace=None if self.grace == self.schema.window else self.grace,
            version=self.version + 1,
        )
        follower.now = self.now
        return follower

    # ------------------------------------------------------------------ in

    def push_entities(
        self, entities: Any, *, id: str = "id", time: str = "t", deadline: str | None = None
    ) -> int:
        """Takes entities with their features; one that is known already is left as it is.

        Args:
            entities: table with id, time and the features of the schema.
            id: column of ids.
            time: column of exposure times.
            deadline: column of moments after which no outcome of the entity counts.

        Returns:
            How many were new.

        Raises:
            DataError: a column is missing or has another type, a deadline lies before exposure, or
                an id is known with another time.
        """
        table = to_table(entities, "entities")
        names = list(self.schema.features)
        require_columns(table, [id, time, *names, *([deadline] if deadline else [])], None)
        if table.height == 0:
            return 0
        ids = self._ids(table, id)
        times, dates = moments(table, time, self.schema.unit, None)
        same_clock(self.schema.calendar, dates, time, None)
        ends = times + self.schema.window
        if deadline is not None:
            given = deadlines(table, deadline, self.schema.unit, times, self.schema.calendar, None)
            ends = np.minimum(ends, given)
            self._given_deadlines = True
        columns = {name: self._feature(table[name], name) for name in names}
        begin = len(self)
        added: dict[Any, int] = {}
        skipped: Counter[str] = Counter()
        for row, (name, t) in enumerate(zip(ids, times.tolist(), strict=True)):
            slot = self._slots.get(name)
            if slot is not None or name in added:
                known = times[added[name]] if slot is None else self._times[slot]
                if known != t:
                    raise DataError(
                        f"the id is known with time {known:g}, not {t:g}",
                        column=id,
                        series=str(name),
                        row=row,
                        hint="Give every exposure an id of its own",
                    )
                skipped["repeated"] += 1
            elif ends[row] + self.grace < self.now:
                skipped["expired_entity"] += 1
            else:
                added[name] = row
        self.counts.update(skipped)
        if not added:
            return 0
        kept, count = np.fromiter(added.values(), np.int64, len(added)), len(added)
        self._slots.update(zip(added, range(begin, begin + count), strict=True))
        self._names = np.concatenate([self._names, _named(added, self.schema.ids)])
        self._times = np.concatenate([self._times, times[kept]])
        self._deadlines = np.concatenate([self._deadlines, ends[kept]])
        self._highest = np.concatenate([self._highest, np.full(count, -1, np.int8)])
        self._stages = np.concatenate([self._stages, np.zeros(count, np.uint8)])
        self._changed = np.concatenate([self._changed, np.ones(count, bool)])
        for name, values in columns.items():
            self._features[name] = np.concatenate([self._features[name], values[kept]])
        self._first = [np.concatenate([f, np.full(count, np.inf)]) for f in self._first]
        if self._orphans:
            self._adopt(list(added), begin)
        return count

    def push_outcomes(
        self,
        outcomes: Any,
        *,
        id: str = "id",
        kind: str | None = "kind",
        outcome_time: str = "t_outcome",
    ) -> int:
        """Takes outcomes; those of entities that are not known yet wait for them.

        Args:
            outcomes: table with id, kind and time.
            id: column that names the entity.
            kind: column of kinds; None, or a column that is not there, makes all conversions.
            outcome_time: column of times.

        Returns:
            How many were accepted or wait; the others are among :attr:`dead_letters`.
        """
        table = to_table(outcomes, "outcomes")
        require_columns(table, [id, outcome_time], None)
        if table.height == 0:
            return 0
        ids = self._ids(table, id)
        times, dates = moments(table, outcome_time, self.schema.unit, None)
        same_clock(self.schema.calendar, dates, outcome_time, None)
        if kind is None or kind not in table.columns:
            codes = np.zeros(table.height, np.int16)
        else:
            codes = self._codes(table[kind], kind)
        slots = np.fromiter((self._slots.get(name, -1) for name in ids), np.int64, table.height)
        waiting = 0
        for row in np.flatnonzero(slots < 0):
            if times[row] + self.grace < self.now:
                self.counts["unknown_entity"] += 1
            else:
                self._orphans.setdefault(ids[row], []).append((int(codes[row]), float(times[row])))
                waiting += 1
        known = slots >= 0
        return waiting + self._accept(slots[known], codes[known], times[known])

    def mark_emitted(self, rows: Emission | pl.DataFrame) -> None:
        """Marks rows as delivered, so that they are not emitted again.

        After a crash the engine is loaded as it was last saved. If rows were delivered after that,
        give them here once their entities were pushed again (before :meth:`advance`).

        Args:
            rows: the rows, or their :meth:`~foretell.data.events.emission.Emission.to_polars`.
        """
        table = rows.to_polars() if isinstance(rows, Emission) else rows
        columns = (table["id"].to_list(), table["label"].to_numpy(), table["stage"].to_numpy())
        for name, label, stage in zip(*columns, strict=True):
            slot = self._slots.get(name)
            if slot is not None:
                self._highest[slot] = max(self._highest[slot], label)
                self._stages[slot] |= np.uint8(1 << int(stage))

    # ------------------------------------------------------------------ out

    def advance(self, now: Any) -> Emission:
        """Moves time on and returns the rows due up to ``now`` (inclusive), by (time, id).

        The rows' log holds their entities as they are known at ``now``, and those whose window has
        closed since the last row before: who learns from what has matured must see all of it, and
        of the entities with rows only converters mature.

        Raises:
            ParameterError: time would run backwards.
        """
        now = moment(now, self.schema.unit, self.schema.calendar)
        if now < self.now:
            raise ParameterError(f"time runs backwards: from {self.now:g} to {now:g}")
        # Entities whose window closed before the last advance emit again only if something
        # about them came in late.
        slots = np.flatnonzero((self._deadlines >= self.now) | self._changed)
        slots = slots[self._times[slots] <= now]
        deadlines = self._deadlines[slots]
        rows = plan(self.protocol, self._times[slots], deadlines, *self._known(slots, now))
        due = rows.time <= now
        slot, label, stage = slots[rows.entity[due]], rows.label[due], rows.stage[due]
        time = np.maximum(rows.time[due], self.now)
        if self.protocol.by_label:
            fresh = label > self._highest[slot]
            # A first row that another one preceded is a rise that became known late.
            stage = np.where(self._stages[slot] & 1, np.maximum(stage, UPWARD), stage)
        else:
            fresh = (self._stages[slot] >> stage.astype(np.uint8)) & 1 == 0
        slot, time, label = slot[fresh], time[fresh], label[fresh]
        stage = stage[fresh].astype(np.int8)
        np.maximum.at(self._highest, slot, label)
        np.bitwise_or.at(self._stages, slot, np.left_shift(1, stage).astype(np.uint8))
        closed = np.flatnonzero((self._deadlines > self._shown) & (self._deadlines <= now))
        entities = np.union1d(slot, closed)
        log, place = self._log(entities, now)
        entity = place[np.searchsorted(entities, slot)]
        order = emission_order(log, entity, time, stage)
        self._changed[self._times <= now] = False
        self._shown = float(time.max(initial=self._shown))
        self.now = now
        self._forget()
        return Emission(
            log,
            entity[order],
            time[order],
            label[order],
            stage[order],
            self.protocol,
            self.version,
        )

    def save(self, file: str | Path) -> None:
        """Saves the whole state to one file, which is there complete or not at all."""
        from foretell.data.events.engine_state import save

        save(self, Path(file))

    @classmethod
    def load(cls, file: str | Path) -> EmissionEngine:
        """An engine as it was saved: it goes on and emits nothing it has emitted before.

        Raises:
            ArtefactError: the file is damaged, or of a newer library.
        """
        from foretell.data.events.engine_state import load

        return load(Path(file))

    # ------------------------------------------------------------------ inside

    def _ids(self, table: pl.DataFrame, column: str) -> list[Any]:
        ids = id_column(table, column, None)
        have = "integer" if ids.dtype == pl.Int64 else "text"
        if have != self.schema.ids:
            raise DataError(f"ids are {have}, those of the stream {self.schema.ids}", column=column)
        return ids.to_list()

    def _feature(self, values: pl.Series, name: str) -> NDArray:
        kind = self.schema.features[name]
        if not isinstance(kind, str):
            return category(values.cast(pl.String), kind).codes
        found = feature(values, None, None)
        if isinstance(found, Categorical):
            if values.null_count() == len(values):
                return np.full(len(values), np.nan, np.dtype(kind))
            raise DataError(f"column {name!r} holds text, not numbers", column=name)
        return found.astype(np.dtype(kind))

    def _codes(self, kinds: pl.Series, column: str) -> NDArray[np.int16]:
        if kinds.null_count():
            raise DataError(
                "the kind of an outcome is missing",
                column=column,
                row=int(kinds.is_null().arg_max() or 0),
            )
        names = kinds.cast(pl.String).to_list()
        for name in dict.fromkeys(names):
            if name not in self._kinds:
                self._kinds.append(name)
                self._first.append(np.full(len(self), np.inf))
        table = {name: i for i, name in enumerate(self._kinds)}
        return np.fromiter((table[name] for name in names), np.int16, len(names))

    def _accept(self, slots: IntArray, codes: NDArray[np.int16], times: FloatArray) -> int:
        early = times < self._times[slots]
        late = times > self._deadlines[slots]
        self.counts["before_exposure"] += int(early.sum())
        self.counts["after_window"] += int(late.sum())
        good = ~(early | late)
        slots, codes, times = slots[good], codes[good], times[good]
        self.counts["accepted"] += len(slots)
        self._warn()
        if not self.protocol.by_label:
            self.counts["too_late"] += int(self._settled(slots, codes, times).sum())
        for code in np.unique(codes):
            mine = codes == code
            np.minimum.at(self._first[int(code)], slots[mine], times[mine])
        self._changed[slots] = True
        self._outcome_slots.append(slots)
        self._outcome_kinds.append(codes)
        self._outcome_times.append(times)
        return len(slots)

    def _settled(
        self, slots: IntArray, codes: NDArray[np.int16], times: FloatArray
    ) -> NDArray[np.bool_]:
        """Conversions that come after the row which they would have changed."""
        shape = self.protocol.shape
        last = 1 << (2 if shape == "copies" else 0)
        start = np.minimum(self._times[slots] + self.protocol.waiting_time, self._deadlines[slots])
        reads = self._deadlines[slots] if shape in ("wait", "copies") else start
        out = (self._stages[slots] & last) != 0
        first_time = np.isinf(self._first[0][slots])
        return out & (codes == 0) & (times <= reads) & first_time

    def _adopt(self, names: list[Any], begin: int) -> None:
        found = [
            (begin + i, code, time)
            for i, name in enumerate(names)
            for code, time in self._orphans.pop(name, ())
        ]
        if found:
            slots, codes, times = zip(*found, strict=True)
            self._accept(
                np.array(slots, np.int64), np.array(codes, np.int16), np.array(times, np.float64)
            )

    def _warn(self) -> None:
        early, good = self.counts["before_exposure"], self.counts["accepted"]
        if not self._warned and early > 0.01 * (early + good) and early + good >= _ENOUGH:
            self._warned = True
            warnings.warn(
                f"{early} of {early + good} outcomes lie before the exposure of their entity and "
                "were not used: check the clocks",
                stacklevel=3,
            )

    def _known(
        self, slots: IntArray, now: float
    ) -> tuple[FloatArray, FloatArray | None, FloatArray | None]:
        """Conversion, engagement and revocation of entities, as far as known at ``now``."""

        def seen(kind: str) -> FloatArray:
            first = self._first[self._kinds.index(kind)][slots]
            return np.where(first <= now, first, np.inf)

        engaged = revoked = None
        if self.protocol.shape == "funnel":
            engaged = np.minimum.reduce([seen(k) for k in self.protocol.engagement])
        if self.schema.revocation is not None:
            log, place = self._log(slots, now)
            revoked = log.revocation_times()[place]
        return seen(self.schema.conversion), engaged, revoked

    def _log(self, slots: IntArray, now: float) -> tuple[EventLog, IntArray]:
        """A log of some entities, and the place in it of each."""
        times = self._times[slots]
        wanted = np.full(len(self), -1, np.int64)
        names = self._names[slots]
        if self.schema.ids == "integer":
            order = np.lexsort((names, times))
        else:
            key = pl.DataFrame({"t": times, "id": names, "row": np.arange(len(slots))})
            order = key.sort("t", "id")["row"].to_numpy()
        place = np.empty(len(slots), np.int64)
        place[order] = np.arange(len(slots))
        wanted[slots] = place
        self._flatten()
        owner = wanted[self._outcome_slots[0]]
        mine = owner >= 0
        owner, codes = owner[mine], self._outcome_kinds[0][mine]
        moments_ = self._outcome_times[0][mine]
        outcomes = {
            kind: OutcomeTimes.from_rows(owner[codes == i], moments_[codes == i], len(slots))
            for i, kind in enumerate(self._kinds)
        }
        columns: dict[str, Feature] = {}
        for name, values in self._features.items():
            kind = self.schema.features[name]
            chosen = values[slots][order]
            columns[name] = chosen if isinstance(kind, str) else Categorical(chosen, kind)
        integer = self.schema.ids == "integer"
        ids = pa.array(names[order], pa.int64() if integer else pa.large_string())
        ends = self._deadlines[slots][order] if self._given_deadlines else None
        log = EventLog(
            EventColumns(ids, times[order], ends, columns, outcomes),
            self.schema.window,
            self.schema.conversion,
            self.schema.unit,
            self.schema.calendar,
            self.schema.revocation,
            now,
        )
        return log, place

    def _flatten(self) -> None:
        if len(self._outcome_slots) != 1:
            self._outcome_slots = [np.concatenate([np.zeros(0, np.int64), *self._outcome_slots])]
            self._outcome_kinds = [np.concatenate([np.zeros(0, np.int16), *self._outcome_kinds])]
            self._outcome_times = [np.concatenate([np.zeros(0), *self._outcome_times])]

    def _forget(self) -> None:
        """Drops what is too old; rarely, so that it costs little an entity."""
        old = self._deadlines + self.grace < self.now
        if old.sum() > len(self) // 4:
            kept = np.flatnonzero(~old)
            self._names = self._names[kept]
            self._slots = {name: i for i, name in enumerate(self._names.tolist())}
            self._times, self._deadlines = self._times[kept], self._deadlines[kept]
            self._highest, self._stages = self._highest[kept], self._stages[kept]
            self._changed = self._changed[kept]
            self._features = {k: v[kept] for k, v in self._features.items()}
            self._first = [f[kept] for f in self._first]
            self._flatten()
            place = np.full(len(old), -1, np.int64)
            place[kept] = np.arange(len(kept))
            slots = place[self._outcome_slots[0]]
            mine = slots >= 0
            self._outcome_slots = [slots[mine]]
            self._outcome_kinds = [self._outcome_kinds[0][mine]]
            self._outcome_times = [self._outcome_times[0][mine]]
        for name in [n for n, o in self._orphans.items() if o[-1][1] + self.grace < self.now]:
            self.counts["unknown_entity"] += len(self._orphans.pop(name))


def _named(ids: Iterable[Any], kind: str) -> NDArray:
    names = list(ids)
    result = np.empty(len(names), np.int64 if kind == "integer" else object)
    result[:] = names
    return result
