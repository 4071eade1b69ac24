"""Which training rows a protocol emits, and when (batch form).

In streaming training an entity enters the training data once or several times, each time with the
label that is visible then. Importance weights are exact only for the protocol whose rows they are
applied to, so the protocols are written down here once, for the batch form (:func:`emit`) and the
live form (:class:`~foretell.data.events.engine.EmissionEngine`) alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ParameterError

if TYPE_CHECKING:
    from foretell.data.events.event_log import EventLog

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
SmallArray = NDArray[np.int8]

FIRST, UPWARD, SECOND = 0, 1, 2
"""Stages: first emission, re-emission after a rise of the label, second copy of every entity."""

_SHAPES = {
    "oracle": "oracle",
    "wait": "wait",
    "vanilla": "rises",
    "fnw": "at_once",
    "fnc": "at_once",
    "esdfm": "rises",
    "defuse": "rises",
    "bidefuse": "rises",
    "defer": "copies",
    "ddfm": "copies",
    "funnel": "funnel",
    "snapshot": "once",
    "ulc": "once",
    "ages": "ages",
}
PROTOCOLS = tuple(_SHAPES)
"""Names of the protocols."""

_REVOCABLE = ("oracle", "wait", "once")


@dataclass(frozen=True)
class Protocol:
    """A protocol with its settings.

    ========== ============================================================================
    oracle     the final label at t (not deployable)
    wait       the final label at t + W
    vanilla    the label at t + e; a positive copy at conversion if it comes later
    esdfm      as vanilla (Yang et al. 2021); so are defuse and bidefuse (Chen et al. 2022)
    fnw        0 at t, a positive copy at conversion (Ktena et al. 2019); so is fnc
    defer      the label at t + e; a second copy of every entity: of converters at conversion
               (not before the first), of the others at t + W (Gu et al. 2021); so is ddfm
    funnel     the funnel label at t + e; again at each later rise
    snapshot   the label at t + e, once; so is ulc (Wang et al. 2023)
    ages       the label at t + e, and again at each of ``ages``, whatever it is; the stage is the
               number of the age (Yang & Zhan 2022). An entity of a shorter window ends with it
    ========== ============================================================================

    Args:
        name: one of :data:`PROTOCOLS`.
        waiting_time: e, the time from exposure to the first emission; an entity whose own window
            is shorter is emitted when that ends. ``fnw`` and ``fnc`` do not wait.
        engagement: kinds of outcomes that count as engagement, for ``funnel``.
        strict: whether a conversion implies engagement, see :meth:`EventLog.state`.
        ages: further ages at which ``ages`` emits, ascending, after the waiting time and up to the
            window; at most 7.
    """

    name: str
    waiting_time: float = 0.0
    engagement: tuple[str, ...] = ()
    strict: bool = True
    ages: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in _SHAPES:
            raise ParameterError(f"the protocol {self.name!r} is not one of {', '.join(_SHAPES)}")
        if not self.waiting_time >= 0:
            raise ParameterError(f"the waiting time must be at least 0, not {self.waiting_time}")
        if self.shape == "funnel" and not self.engagement:
            raise ParameterError(
                "the protocol 'funnel' needs engagement=: the kinds of outcomes that precede a "
                "conversion"
            )
        if self.ages:
            steps = np.diff([self.waiting_time, *self.ages])
            if self.shape != "ages" or len(self.ages) > 7 or not (steps > 0).all():
                raise ParameterError(
                    f"ages must ascend from the waiting time {self.waiting_time:g}, at most 7 of "
                    f"them, with the protocol 'ages' only; not {list(self.ages)} with {self.name!r}"
                )

    @property
    def shape(self) -> str:
        """Which rows are emitted; protocols of one shape emit the same."""
        return _SHAPES[self.name]

    @property
    def by_label(self) -> bool:
        """Whether a row's key is (id, label); else it is (id, stage)."""
        return self.shape in ("rises", "at_once", "funnel")

    def require(self, window: float, revocable: bool) -> None:
        """Checks that the protocol fits a log.

        Raises:
            ParameterError: the waiting time reaches the window, or labels can be taken back.
        """
        if self.waiting_time >= window:
            raise ParameterError(
                f"the waiting time {self.waiting_time:g} must be shorter than the attribution "
                f"window {window:g}"
            )
        if self.ages and self.ages[-1] > window:
            raise ParameterError(
                f"the last age {self.ages[-1]:g} must not lie beyond the attribution window "
                f"{window:g}"
            )
        if revocable and self.shape not in _REVOCABLE:
            raise ParameterError(
                f"the protocol {self.name!r} needs labels that only rise, but conversions of this "
                "log can be taken back: use final labels ('wait') or soft labels ('ulc')"
            )

    def stream(self, window: float, unit: str | None, version: int = 1) -> str:
        """A short name of the stream: rows of different streams must not be trained on together."""
        facts: tuple[object, ...] = (
            self.shape, self.waiting_time, self.engagement, self.strict, window, unit, version,
        )  # fmt: skip
        facts += (self.ages,) if self.ages else ()
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows in any order: (m,) entity, time, label, stage."""

    entity: IntArray
    time: FloatArray
    label: SmallArray
    stage: SmallArray


def plan(
    protocol: Protocol,
    times: FloatArray,
    deadlines: FloatArray,
    converted: FloatArray,
    engaged: FloatArray | None = None,
    revoked: FloatArray | None = None,
) -> Plan:
    """Every row that given entities will emit, as far as their outcomes are known.

    Args:
        protocol: see above.
        times: (n,) exposure.
        deadlines: (n,) end of each window.
        converted: (n,) time of the conversion within the window, +inf where there is none.
        engaged: (n,) time of the first engagement, +inf; only for ``funnel``.
        revoked: (n,) when the conversion was taken back, +inf; only where labels are not monotone.
    """
    everyone = np.arange(len(times))
    positive = np.isfinite(converted)
    parts: list[tuple[IntArray, FloatArray, ArrayLike, int]] = []
    start = np.minimum(times + protocol.waiting_time, deadlines)
    early = converted <= start
    if revoked is not None:
        positive &= revoked > deadlines
        early &= revoked > start
    shape = protocol.shape
    if shape == "oracle":
        parts.append((everyone, times, positive, FIRST))
    elif shape == "wait":
        parts.append((everyone, deadlines, positive, FIRST))
    elif shape == "once":
        parts.append((everyone, start, early, FIRST))
    elif shape == "at_once":
        parts.append((everyone, times, 0, FIRST))
        later = np.flatnonzero(positive)
        parts.append((later, converted[later], 1, UPWARD))
    elif shape == "rises":
        parts.append((everyone, start, early, FIRST))
        later = np.flatnonzero(positive & ~early)
        parts.append((later, converted[later], 1, UPWARD))
    elif shape == "ages":
        parts.append((everyone, start, early, FIRST))
        before = start
        for number, age in enumerate(protocol.ages, start=1):
            at = np.minimum(times + age, deadlines)
            older = np.flatnonzero(at > before)
            parts.append((older, at[older], (converted <= at)[older], number))
            before = at
    elif shape == "copies":
        parts.append((everyone, start, early, FIRST))
        again = np.where(positive, np.maximum(converted, start), deadlines)
        parts.append((everyone, again, positive, SECOND))
    else:
        assert engaged is not None
        top = np.where((engaged <= converted) | protocol.strict, 2, 3)
        parts.append((everyone, start, np.where(early, top, engaged <= start), FIRST))
        rising = np.flatnonzero((engaged > start) & (engaged < converted) & np.isfinite(engaged))
        parts.append((rising, engaged[rising], 1, UPWARD))
        later = np.flatnonzero(positive & ~early)
        parts.append((later, converted[later], top[later], UPWARD))
    return Plan(
        np.concatenate([entity for entity, _, _, _ in parts]),
        np.concatenate([time for _, time, _, _ in parts]),
        np.concatenate([np.broadcast_to(np.asarray(k, np.int8), e.shape) for e, _, k, _ in parts]),
        np.concatenate([np.full(len(e), stage, np.int8) for e, _, _, stage in parts]),
    )


@dataclass(frozen=True, eq=False)
class Emission:
    """Rows of training data in order of (time, id).

    Args:
        log: the log at the time of the last row; rows of training read nothing later.
        entity: (m,) position of the row's entity in ``log``.
        time: (m,) when the row was emitted.
        label: (m,) int8, the label it carries: 0/1, or the funnel label.
        stage: (m,) int8: 0 first emission, 1 re-emission after a rise, 2 second copy; for
            ``ages`` the number of the age.
        protocol: what emitted it.
        version: of the stream; another window is another version.
    """

    log: EventLog
    entity: IntArray
    time: FloatArray
    label: SmallArray
    stage: SmallArray
    protocol: Protocol
    version: int = 1

    def __len__(self) -> int:
        return len(self.entity)

    def __repr__(self) -> str:
        return f"Emission({len(self):,} rows, {self.protocol.name!r}, stream {self.stream})"

    @cached_property
    def ids(self) -> NDArray:
        """Name (m,) of the entity of each row."""
        return self.log.ids[self.entity]

    @property
    def key_code(self) -> SmallArray:
        """With the id the idempotent key (m,) of a row: its label, or its stage."""
        return self.label if self.protocol.by_label else self.stage

    @cached_property
    def key(self) -> NDArray[np.object_]:
        """Idempotent key (m,) as text: ``stream/id/label`` or ``stream/id/s<stage>``.

        A row that is delivered twice, e.g. after a crash, has the same key twice.
        """
        mark = "" if self.protocol.by_label else "s"
        pairs = zip(self.ids, self.key_code, strict=True)
        return np.array([f"{self.stream}/{i}/{mark}{c}" for i, c in pairs], object)

    @property
    def stream(self) -> str:
        """Name of the stream: rows of different streams must not be trained on together."""
        return self.protocol.stream(self.log.window, self.log.unit, self.version)

    def matrix(self) -> FloatArray:
        """Features (m, d) of the rows."""
        return self.log.matrix(self.entity)

    def select(self, rows: ArrayLike | slice) -> Emission:
        """The rows at given positions or under a boolean mask."""
        rows = rows if isinstance(rows, slice) else np.asarray(rows)
        return replace(
            self,
            entity=self.entity[rows],
            time=self.time[rows],
            label=self.label[rows],
            stage=self.stage[rows],
        )

    def between(self, since: float, until: float) -> Emission:
        """The rows of (since, until]."""
        first, stop = np.searchsorted(self.time, [since, until], side="right")
        rows = self.select(slice(first, stop))
        return replace(rows, log=self.log.until(until)) if self.log._sorted else rows

    def to_polars(self) -> pl.DataFrame:
        """One row a training row: id, emit_time, label, stage and the features."""
        ids = pl.Series("id", self.log._arrow_ids).gather(pl.Series(self.entity))
        columns: dict[str, NDArray] = {"emit_time": self.time}
        columns |= {"label": self.label, "stage": self.stage}
        rows = pl.DataFrame([ids, *(pl.Series(k, v) for k, v in columns.items())])
        return rows.hstack(self.log.frame(self.entity))


def emit(
    log: EventLog,
    protocol: str | Protocol,
    waiting_time: Any = 0.0,
    *,
    since: Any = -np.inf,
    until: Any = None,
    engagement: Sequence[str] | str = (),
    strict: bool = True,
) -> Emission:
    """The training rows that a protocol emits in (since, until], in order of (time, id).

    The rows refer to ``log.until(until)``. Only ``oracle`` knows final labels at once: it leaves
    out entities whose label is not final at ``log.now``.

    Args:
        log: what happened.
        protocol: one of :data:`PROTOCOLS`, or a :class:`Protocol` with its settings.
        waiting_time: e, shorter than the window; see :class:`Protocol`.
        since: rows at or before it are left out.
        until: rows after it are left out; ``log.now`` where None.
        engagement: kinds of engagement, for ``funnel``.
        strict: whether a conversion implies engagement.

    Raises:
        ParameterError: an unknown protocol, e >= W, or labels that can be taken back under a
            protocol that needs rising ones.
    """
    if not isinstance(protocol, Protocol):
        kinds = (engagement,) if isinstance(engagement, str) else tuple(engagement)
        e = log.duration(waiting_time, "the waiting time")
        protocol = Protocol(protocol, e, kinds, strict)
    protocol.require(log.window, log.revocable)
    since = log.moment(since, "since")
    view = log if until is None else log.until(until)
    # Rows of (since, now] come from entities whose window reaches beyond since.
    reading = replace(view, now=log.now) if protocol.shape == "oracle" else view
    offset = 0
    if view._sorted and since > -np.inf:
        # One ulp of slack: t + W may round down.
        from_time = np.nextafter(since - view.window, -np.inf)
        offset = int(np.searchsorted(view.times, from_time, side="left"))
        reading = reading._part(offset, len(view))
    engaged = None
    if protocol.shape == "funnel":
        engaged = reading.engagement_times(protocol.engagement)
    revoked = reading.revocation_times() if reading.revocable else None
    converted = reading._seen(reading.conversion)
    rows = plan(protocol, reading.times, reading.deadlines, converted, engaged, revoked)
    kept = (rows.time > since) & (rows.time <= view.now)
    if protocol.shape == "oracle":
        kept &= reading.matured[rows.entity]
    kept = np.flatnonzero(kept)
    entity = rows.entity[kept] + offset
    time, stage = rows.time[kept], rows.stage[kept]
    order = emission_order(view, entity, time, stage)
    return Emission(
        view, entity[order], time[order], rows.label[kept][order], stage[order], protocol
    )


def emission_order(
    log: EventLog, entity: IntArray, time: FloatArray, stage: SmallArray
) -> IntArray:
    """The order of rows by (time, id, stage)."""
    order = np.argsort(time, kind="stable")
    ordered = time[order]
    same = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.r_[same, False] | np.r_[False, same])
    if tied.size:
        # Ids are only looked at where times are equal: names are costly to sort.
        rows = order[tied]
        table = pl.DataFrame(
            {"t": time[rows], "id": log.ids[entity[rows]], "s": stage[rows], "row": rows}
        )
        order[tied] = table.sort("t", "id", "s")["row"].to_numpy()
    return order
