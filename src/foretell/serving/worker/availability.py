"""What failed when: a journal beside the log, without which a replay could not fail alike."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from foretell.serving.events import digest

OFF, ON, SKIP = "off", "on", "skip"
OWE, SETTLE, SPARE = "owe", "settle", "spare"
_TURNS = (OWE, SETTLE, SPARE)


@dataclass(frozen=True, slots=True)
class JournalRow:
    """From an event on a scorer is not asked, or is asked again; or an event is left out.

    Or the partition was behind: from an event on recomputation was owed (``"owe"``), and behind the
    last event folded what was owed until then was computed (``"settle"``), but for patients for
    whom that failed (``"spare"``).

    Args:
        partition: in which.
        at: number of the event, before whose application the row holds; of ``"settle"`` and
            ``"spare"`` behind it.
        site: of the patient for whom it holds.
        patient: ``""`` where it holds for all of the partition.
        version: of the scorer; ``""`` where an event is left out.
        kind: ``"off"``, ``"on"``, ``"skip"``, ``"owe"``, ``"settle"`` or ``"spare"``.
        reason: name of the error; of ``"settle"`` the last lot (:func:`lot`) that was computed.
    """

    partition: int
    at: int
    site: str
    patient: str
    version: str
    kind: str
    reason: str


def lot(site: str, patient: str) -> str:
    """What orders patients whose hours are computed anew, and names none of them."""
    return digest("owed", site, patient).hex()[:16]


class Availability:
    """The rows of a partition, in the order of their events.

    Args:
        rows: as they were kept.
        applied: the last event that was folded.
    """

    SYSTEMIC = 3
    """Patients for whom a scorer fails in one batch before it is left alone for all."""

    def __init__(self, rows: Iterable[JournalRow] = (), applied: int = 0) -> None:
        self._off: dict[str, dict[tuple[str, str], str]] = {}
        rows = list(rows)
        self._later: list[JournalRow] = sorted(
            (r for r in rows if r.kind not in _TURNS), key=lambda r: r.at
        )
        # Of when the partition was behind: few, and asked for at every event.
        self._turns: list[JournalRow] = []
        self._turned: list[int] = []
        self._spared: set[tuple[int, str, str]] = set()
        self.settled: list[JournalRow] = []
        self._keep([r for r in rows if r.kind in _TURNS])
        self.pending: list[JournalRow] = []
        self.advance(applied)

    def advance(self, applied: int) -> list[JournalRow]:
        """Says how far the log is folded; returns the new rows that belong to it."""
        new = [r for r in self.pending if r.at <= applied]
        self._keep([r for r in new if r.kind in _TURNS])
        for row in sorted([*(r for r in self._later if r.at <= applied), *new],
                          key=lambda r: r.at):  # fmt: skip
            _put(self._off, row)
        self._later = [r for r in self._later if r.at > applied]
        self.pending = [r for r in self.pending if r.at > applied]
        return new

    def _keep(self, rows: list[JournalRow]) -> None:
        for row in sorted(rows, key=_turn):
            if row.kind == SPARE:
                self._spared.add((row.at, row.site, row.patient))
                continue
            self._turns.append(row)
            self._turned.append(_turn(row))
            if row.kind == SETTLE:
                self.settled.append(row)

    def owing(self, seq: int) -> bool:
        """Whether recomputation is owed, as of an event."""
        new = [r for r in self.pending if r.kind in (OWE, SETTLE) and _turn(r) <= 2 * seq]
        if new:
            return max(new, key=_turn).kind == OWE
        place = bisect_right(self._turned, 2 * seq)
        return place > 0 and self._turns[place - 1].kind == OWE

    def spared(self, at: int, site: str, patient: str) -> bool:
        """Whether what a patient is owed could not be computed behind an event."""
        row = (at, site, patient)
        return row in self._spared or any(
            r.kind == SPARE and (r.at, r.site, r.patient) == row for r in self.pending
        )

    def due(self, applied: int) -> list[JournalRow]:
        """The new rows that belong to a log that is folded so far; see :meth:`advance`."""
        return [r for r in self.pending if r.at <= applied]

    @property
    def any_off(self) -> bool:
        """Whether a scorer is left alone for somebody, as far as the log is folded."""
        return bool(self._off)

    def versions(self) -> list[str]:
        """Scorers that are left alone for somebody."""
        return sorted(self._off)

    def off(self, seq: int, site: str, patient: str) -> dict[str, str]:
        """Version -> reason, of what is not asked for a patient at an event."""
        if not self._off and not self._later and not self.pending:
            return {}
        held = self._off
        new = [r for r in (*self._later, *self.pending) if r.at <= seq]
        if new:
            held = {v: dict(who) for v, who in self._off.items()}
            for row in sorted(new, key=lambda r: r.at):
                _put(held, row)
        out = {}
        for version, who in held.items():
            reason = who.get(("", ""), who.get((site, patient)))
            if reason is not None:
                out[version] = reason
        return out

    def skipped(self, seq: int, site: str, patient: str) -> bool:
        """Whether an event is left out for a patient."""
        return any(
            r.kind == SKIP and r.at == seq and (r.site, r.patient) == (site, patient)
            for r in (*self._later, *self.pending)
        )

    def failed(self, first: int, row: JournalRow) -> bool:
        """Takes a failure; returns whether the scorer is now left alone for all.

        Args:
            first: the first event of the batch in which it failed.
            row: of the failure.
        """
        same = [r for r in self.pending if (r.kind, r.version) == (OFF, row.version)]
        people = {(r.site, r.patient) for r in (*same, row)}
        if len(people) < self.SYSTEMIC:
            self.pending.append(row)
            return False
        self.pending = [r for r in self.pending if r not in same]
        everybody = JournalRow(row.partition, first, "", "", row.version, OFF, row.reason)
        self.pending.append(everybody)
        return True


def _turn(row: JournalRow) -> int:
    # What begins does so before its event, what ends behind it.
    return 2 * row.at + (row.kind != OWE)


def _put(held: dict[str, dict[tuple[str, str], str]], row: JournalRow) -> None:
    if row.kind == ON:
        held.pop(row.version, None)
    elif row.kind == OFF:
        held.setdefault(row.version, {})[row.site, row.patient] = row.reason
