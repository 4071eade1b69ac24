"""All that is known of a patient, and its bytes."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.alarms import AlarmState
from foretell.serving.errors import ServingError
from foretell.serving.worker.quiet import Treatment

FORMAT = 3
_READ = (2, 3)
STANDS = 1
"""Hours at whose close an offer to measure is made again, so that whoever looks once an hour must
see it. After that it was seen, and its refractory hours hold it back."""
ANSWERS = 6
"""Hours within which a result counts as an answer to an offer."""
_WORTH = 128
"""Bytes of an array from which on it is worth looking whether another one is the same."""
# sender's group (8 bytes), channel, 1 if late and 2 if stale, hour, value, specimen time, first and
# last issue, rank
_RECORD = struct.Struct("<8sHBidddd B")


@dataclass(slots=True)
class Measured:
    """One result as it stands: the value of its last version, in the hour of its first arrival.

    A ``stale`` one is of a specimen that was too old when it came: it is kept, but does not count.
    """

    group: bytes
    channel: int
    late: bool
    hour: int
    value: float
    time: float
    first: float
    issued: float
    rank: int
    stale: bool = False

    def pack(self) -> bytes:
        """Its bytes."""
        return _RECORD.pack(
            self.group, self.channel, self.late | self.stale << 1, self.hour, self.value, self.time,
            self.first, self.issued, self.rank,
        )  # fmt: skip


def unpack(body: bytes) -> list[Measured]:
    """The results of :meth:`Measured.pack`, one after another."""
    out = []
    for g, c, flags, hour, value, time, first, issued, rank in _RECORD.iter_unpack(body):
        late, stale = bool(flags & 1), bool(flags & 2)
        out.append(Measured(g, c, late, hour, value, time, first, issued, rank, stale))
    return out


def packed(records: Iterable[Measured]) -> bytes:
    """Results as bytes, in the order of a snapshot; see :func:`unpack`."""
    return b"".join(r.pack() for r in sorted(records, key=lambda r: (r.hour, r.group, r.time)))


@dataclass(slots=True)
class Checkpoint:
    """Features, scorers and policy after an hour; its arrays are never written to.

    What belongs to a scorer that is not asked is empty; ``beside`` are the policies of versions
    that are only compared.
    """

    streams: list[dict[str, NDArray]]
    scorers: list[dict[str, NDArray]]
    alarms: AlarmState
    beside: dict[str, AlarmState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Scorers and gates look back in the same way: what they hold of it is kept once.
        held: dict[bytes, NDArray] = {}
        for part in (*self.streams, *self.scorers):
            for name, array in part.items():
                if array.nbytes >= _WORTH:
                    part[name] = held.setdefault(_like(array), array)


def _like(array: NDArray) -> bytes:
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()


@dataclass(slots=True)
class PatientState:
    """A patient's present stay; the fold is all that changes it.

    Attributes:
        stay: identifier of the stay, ``""`` where there was none yet.
        begin: at which hour 1 begins.
        anchored: whether an admission said so, not the first measurement.
        end: why no stay is open: ``"discharged"``, ``"cancelled"``, ``"merged"``, ``"idle"``.
        closed: hours that are closed.
        base: hours behind ``checkpoints[0]``; later ones can still change by late results.
        records: by (group, specimen time), of the hours after ``base``.
        checkpoints: after the hours ``base`` to ``closed``.
        units: (hour, unit) from which on it holds.
        emitted: alarm id -> [hour, stands, notes so far].
        actions: [hour, action] in order.
        versions: of the scorers that the checkpoints are of.
        tiers: of the policy that they are of.
        issued: hour -> score that was last written, of the hours after ``base``.
        treatments: by the sender's number, of this stay and of what may come to belong to it.
        lineups: [hour, lineup] from which on it holds.
        off: version -> why a scorer is not asked.
        skewed: results whose sender's clock was wrong.
        asked: panel -> hour in which it was offered last, as hours closed.
        offers: what to measure, as the last hour closed.
        answered: offers whose results came, with the risk before and after.
        aged: as of when the age was told.
        doubts: name of a doubt -> [how often, hours in which it is told].
        owed: first of the closed hours that are still to be computed anew, None where none is.
        held: policies of the hours after ``base``, between :func:`load` and the fold.
    """

    site: str
    patient: str
    partition: int
    stay: str = ""
    visit: str | None = None
    begin: float = 0.0
    anchored: bool = False
    end: str | None = None
    ended: float | None = None
    closed: int = 0
    base: int = 0
    age: float | None = None
    sex: str | None = None
    units: list[list[Any]] = field(default_factory=list)
    orders: dict[str, list] = field(default_factory=dict)
    emitted: dict[str, list] = field(default_factory=dict)
    actions: list[list[Any]] = field(default_factory=list)
    issued: dict[int, float | None] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    tiers: list[str] = field(default_factory=list)
    treatments: dict[str, Treatment] = field(default_factory=dict)
    lineups: list[list[Any]] = field(default_factory=list)
    off: dict[str, str] = field(default_factory=dict)
    last: float = 0.0
    heard: int = 0
    left_out: int = 0
    late: int = 0
    skewed: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    offers: list[dict[str, Any]] = field(default_factory=list)
    answered: list[dict[str, Any]] = field(default_factory=list)
    aged: float | None = None
    doubts: dict[str, list[Any]] = field(default_factory=dict)
    owed: int | None = None
    records: dict[tuple[bytes, float], Measured] = field(default_factory=dict)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    # Kept in memory only: silences by hour; the results while nobody asks for them.
    silences: dict[int, int] | None = None
    held: list[tuple[AlarmState, dict[str, AlarmState]]] | None = None
    resting: bytes | None = None

    def rest(self) -> None:
        """Puts the results away as bytes, an eighth of what they take as objects."""
        if self.resting is None and self.records:
            self.resting, self.records = packed(self.records.values()), {}

    def wake(self) -> None:
        """Takes the results out again."""
        if self.resting is not None:
            self.records = {(r.group, r.time): r for r in unpack(self.resting)}
            self.resting = None

    @property
    def open(self) -> bool:
        """Whether hours go on."""
        return bool(self.stay) and self.end is None

    def hour_end(self, hour: int) -> float:
        """When an hour ends."""
        return self.begin + 3600.0 * hour

    def unit(self, hour: int) -> str | None:
        """The unit in an hour."""
        return unit_at(self.units, hour)


def unit_at(units: Iterable[Sequence[Any]], hour: int) -> str | None:
    """The unit in an hour, of (hour, unit) from which on it holds, ascending."""
    name = None
    for start, unit in units:
        if start <= hour or name is None:
            name = unit
    return name


_PLAIN = (
    "site", "patient", "partition", "stay", "visit", "begin", "anchored", "end", "ended", "closed",
    "base", "age", "sex", "units", "orders", "emitted", "actions", "last", "heard", "left_out",
    "late", "versions", "tiers", "lineups", "off", "skewed",
)  # fmt: skip

_IF_ANY = ("asked", "offers", "answered", "aged", "doubts", "owed")


def dump(state: PatientState) -> bytes:
    """The bytes of a state: the same for the same state."""
    base = state.checkpoints[0] if state.checkpoints else None
    arrays: list[NDArray] = []
    head: dict[str, Any] = {name: getattr(state, name) for name in _PLAIN}
    # Left out where there is nothing, so that older snapshots are the same bytes.
    there = {name: getattr(state, name) for name in _IF_ANY}
    head |= {name: value for name, value in there.items() if value not in (None, {}, [])}
    head["issued"] = sorted(state.issued.items())
    head["treatments"] = {name: list(t) for name, t in state.treatments.items()}
    if base is not None:
        head["streams"] = [sorted(s) for s in base.streams]
        # Of all hours that can still change: what was said then need not be asked again.
        head["policies"] = [
            [c.alarms.to_json(), {v: a.to_json() for v, a in c.beside.items()}]
            for c in state.checkpoints
        ]
        for stream in base.streams:
            arrays.extend(stream[name] for name in sorted(stream))
        head["scorers"] = [sorted(m) for m in base.scorers]
        for memory in base.scorers:
            arrays.extend(memory[name] for name in sorted(memory))
    head["arrays"] = [[a.dtype.str, list(a.shape)] for a in arrays]
    records = packed(state.records.values())
    text = json.dumps(head, separators=(",", ":"), sort_keys=True).encode()
    out = io.BytesIO()
    out.write(struct.pack("<BII", FORMAT, len(text), len(records)))
    out.write(text)
    out.write(records)
    for array in arrays:
        out.write(np.ascontiguousarray(array).tobytes())
    return out.getvalue()


def places(body: bytes) -> tuple[str, list[list[Any]]]:
    """The stay of a snapshot and its units as :func:`unit_at` takes them; no more is read of it.

    Raises:
        ServingError: it was written by another version.
    """
    _, _, head, _ = _head(body)
    return head["stay"], head["units"]


def _head(body: bytes) -> tuple[int, int, dict[str, Any], int]:
    """Of a snapshot: the format, bytes of results, what is told as JSON, and where that ends."""
    form, size, records = struct.unpack_from("<BII", body)
    if form not in _READ:
        raise ServingError("the snapshot was written by another version")
    at = struct.calcsize("<BII")
    return form, records, json.loads(body[at : at + size]), at + size


def load(body: bytes) -> PatientState:
    """A state from its bytes; its checkpoints after the base are the fold's to make.

    Raises:
        ServingError: it was written by another version.
    """
    form, packed, head, at = _head(body)
    if form == 2:
        count = len(head["policy"]["exceeded"]) if "policy" in head else 0
        versions = head["versions"]
        head["versions"], head["tiers"] = versions[: len(versions) - count], versions[-count:]
        head |= {"lineups": [], "off": {}, "skewed": 0, "treatments": {}}
        if "policy" in head:
            head["policies"] = [[head["policy"], {}]]
    names = (*_PLAIN, *(name for name in _IF_ANY if name in head))
    state = PatientState(**{name: head[name] for name in names})
    state.treatments = {name: Treatment(*told) for name, told in head["treatments"].items()}
    state.issued = {int(h): risk for h, risk in head["issued"]}
    for record in unpack(body[at : at + packed]):
        state.records[record.group, record.time] = record
    at += packed
    arrays = []
    for kind, shape in head["arrays"]:
        dtype = np.dtype(kind)
        if dtype.hasobject:
            raise ServingError("the snapshot holds objects")
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(body, dtype, count, at).reshape(shape).copy()
        arrays.append(array)
        at += array.nbytes
    if "policies" in head:
        streams = [{name: arrays.pop(0) for name in names} for names in head["streams"]]
        scorers = [{name: arrays.pop(0) for name in names} for names in head["scorers"]]
        policies = [
            (AlarmState.from_json(own), {v: AlarmState.from_json(a) for v, a in beside.items()})
            for own, beside in head["policies"]
        ]
        state.checkpoints = [Checkpoint(streams, scorers, *policies[0])]
        state.held = policies[1:] if form > 2 else None
    return state
