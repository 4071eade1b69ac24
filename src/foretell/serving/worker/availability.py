"""What failed when: a journal beside the log, without which a replay could not fail alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OFF, ON, SKIP = "off", "on", "skip"


@dataclass(frozen=True, slots=True)
class JournalRow:
    """From an event on a scorer is not asked, or is asked again; or an event is left out.

    Args:
        partition: in which.
        at: number of the event, before whose application the row holds.
        site: of the patient for whom it holds.
        patient: ``""`` where it holds for all of the partition.
        version: of the scorer; ``""`` where an event is left out.
        kind: ``"off"``, ``"on"`` or ``"skip"``.
        reason: name of the error.
    """

    partition: int
    at: int
    site: str
    patient: str
    version: str
    kind: str
    reason: str


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
        self._later: list[JournalRow] = sorted(rows, key=lambda r: r.at)
        self.pending: list[JournalRow] = []
        self.advance(applied)

    def advance(self, applied: int) -> list[JournalRow]:
        """Says how far the log is folded; returns the new rows that belong to it."""
        new = [r for r in self.pending if r.at <= applied]
        for row in sorted([*(r for r in self._later if r.at <= applied), *new],
                          key=lambda r: r.at):  # fmt: skip
            _put(self._off, row)
        self._later = [r for r in self._later if r.at > applied]
        self.pending = [r for r in self.pending if r.at > applied]
        return new

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


def _put(held: dict[str, dict[tuple[str, str], str]], row: JournalRow) -> None:
    if row.kind == ON:
        held.pop(row.version, None)
    elif row.kind == OFF:
        held.setdefault(row.version, {})[row.site, row.patient] = row.reason
