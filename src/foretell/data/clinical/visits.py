"""Which stays a patient had: of admissions, discharges and results, as a service would see them.

A stay begins with an admission, or with the first specimen of a visit that nobody announced. It
ends with its discharge, with the admission to another visit, or when nothing was heard for days;
who is heard of again after that, without another visit, was there all the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from foretell.data.clinical.doubts import Described, contradictions
from foretell.data.clinical.merges import Path
from foretell.data.clinical.presence import (
    ADMISSIONS,
    EARLY,
    Step,
    admission,
    result_step,
    same_visit,
    visit_step,
)

if TYPE_CHECKING:
    from foretell.data.clinical.feed import VisitChange

IDLE = 72
"""Hours without any result after which a stay counts as left."""


@dataclass(slots=True)
class Visit:
    """One stay of a patient.

    Attributes:
        visit: its name, None where nobody said it.
        begin: seconds since 1970, at which hour 1 begins.
        anchored: whether an admission said so.
        last: when the last result became known.
        heard: when it was first heard of.
        results: numbers of its results.
        described: age and sex.
        end: why it is over: ``"discharged"``, ``"cancelled"`` or, after silence, ``"idle"``.
        ended: when.
        unit: the first one.
    """

    visit: str | None
    begin: float
    anchored: bool
    last: float
    heard: float
    results: list[int]
    described: Described
    end: str | None = None
    ended: float | None = None
    unit: str | None = None

    def passed(self, time: float) -> bool:
        """Whether an hour of it is over for who has heard of it so far."""
        return time >= self.begin + 3600 and time > self.heard

    def left(self, idle: float) -> float:
        """The end of the last hour in which somebody would still have waited for results."""
        hours = math.floor((max(self.last, self.begin) - self.begin) / 3600 + idle)
        return self.begin + 3600 * hours

    def hours(self, until: float | None, idle: float) -> int:
        """Hours up to the end; where nobody said it, up to the last result or ``until``."""
        end = None if self.end == "idle" else self.ended
        if end is None:
            end = self.last if until is None else self.left(idle)
        end = end if until is None else min(end, until)
        return max(math.ceil((end - self.begin) / 3600), 1)


class Result(NamedTuple):
    """When a result first became known, when its specimen was taken, and its visit if it says so.

    Of an ``old`` specimen, which is no sign that somebody was there, ``taken`` is ``known``.
    ``path`` are the merges that brought it from another identifier's history.
    """

    known: float
    taken: float
    visit: str | None
    old: bool = False
    path: Path = ()


class Visits(NamedTuple):
    """The stays of a patient, in order, how many results belong to none, and names of doubts."""

    stays: list[Visit]
    outside: int
    doubts: list[str]


def visits_of(
    changes: Sequence[VisitChange],
    results: Sequence[Result],
    paths: Sequence[Path] = (),
    *,
    idle: float = IDLE,
) -> Visits:
    """The stays of one patient.

    Args:
        changes: in the order in which they were told where their times are equal.
        results: of all visits.
        paths: the merges that brought each change, where there are any.
        idle: hours without any result after which a stay counts as left.
    """
    paths = paths or [()] * len(changes)
    told = [((*paths[i], c.time, 0.0), i) for i, c in enumerate(changes)]
    told += [((*result.path, result.known, 1.0), i) for i, result in enumerate(results)]
    out = _Walk(idle)
    for place, i in sorted(told):
        if place[-1] == 0:
            out.change(changes[i], paths[i])
        else:
            out.result(i, results[i])
    return Visits(out.stays, out.outside, out.doubts)


class _Walk:
    """Goes through what was told of a patient in the order of time."""

    def __init__(self, idle: float) -> None:
        self.idle = idle
        self.stays: list[Visit] = []
        self.outside = 0
        self.doubts: list[str] = []
        self._described = Described()
        self._merge: Path = ()
        self._apart: set[tuple[Path, str]] = set()

    def _now(self, time: float, path: Path) -> Visit | None:
        """The latest stay; of history as the merge found it, or what the history made of it."""
        if path and path[:3] == self._merge:
            return self.stays[-1] if self.stays else None
        self._merge = path[:3]
        return self._latest(path[0] if path else time)

    def _latest(self, time: float) -> Visit | None:
        """The latest stay, as it stands by then."""
        if not self.stays:
            return None
        stay = self.stays[-1]
        # It is given up as the next hour ends.
        if stay.end is None and time >= stay.left(self.idle) + 3600:
            stay.end, stay.ended = "idle", stay.left(self.idle)
        return stay

    def _begin(self, name: str | None, begin: float, heard: float, anchored: bool) -> Visit:
        if self.stays:
            self._end(self.stays[-1], begin)
        self.stays.append(Visit(name, begin, anchored, begin, heard, [], self._described))
        return self.stays[-1]

    @staticmethod
    def _end(stay: Visit, time: float, why: str = "discharged") -> None:
        """Ends a stay if it goes on; one that was given up ended then."""
        if stay.end is None:
            stay.end, stay.ended = why, time
        elif stay.end == "idle":
            stay.end = why

    def change(self, told: VisitChange, path: Path = ()) -> None:
        moment = told.time if told.admitted is None else told.admitted
        now = Described(told.age, moment, told.sex)
        stay = self._now(told.time, path)
        if path and stay is not None and stay.end is None:
            # Whoever is merged is to be the same person; a merge says so once.
            apart = {(path, name) for name in contradictions(self._described, now)} - self._apart
            self.doubts += sorted(name for _, name in apart)
            self._apart |= apart
            return
        if path and told.kind in ("discharge", "cancel_admit", "merge"):
            return
        self.doubts += contradictions(self._described, now)
        self.doubts += [] if told.doubt is None else [told.doubt]
        self._described = self._described.then(now)
        begin = admission(told.time, told.admitted)
        step = visit_step(stay, told.kind, told.visit, begin)
        if step is Step.BEGINS:
            heard = path[0] if path else told.time
            stay = self._begin(told.visit, begin, heard, True)
        elif stay is None:
            return
        elif step is Step.GOES_ON:
            stay.visit = stay.visit or told.visit
            if not stay.anchored and not stay.passed(told.time):
                stay.begin, stay.anchored = begin, True
        elif step is Step.ENDS:
            self._end(stay, told.time)
        elif step is Step.CANCELLED:
            self._end(stay, told.time, "cancelled")
        elif step is Step.REOPENED:
            stay.end = stay.ended = None
        stay.described = self._described
        moves = told.kind in (*ADMISSIONS, "transfer", "update")
        if moves and stay.end is None and stay.unit is None and same_visit(stay, told.visit):
            stay.unit = told.unit

    def result(self, number: int, told: Result) -> None:
        stay = self._now(told.known, told.path)
        heard = told.path[0] if told.path else told.known
        step = result_step(stay, told.visit, told.taken, placed=bool(told.path))
        if step is Step.BEGINS:
            stay = self._begin(told.visit, told.taken, heard, False)
        elif stay is None or step is Step.NOTHING or (
            step is Step.COUNTS and stay.ended is not None and told.known > stay.ended
            and not told.path
        ):  # fmt: skip
            self.outside += 1
            return
        elif step is Step.REOPENED:
            stay.end = stay.ended = None
        elif step is Step.GOES_ON:
            early = EARLY if stay.anchored else 0.0
            if not stay.passed(heard) and told.taken < stay.begin - early:
                stay.begin = told.taken
        stay.visit = stay.visit or told.visit
        stay.results.append(number)
        if not told.old:
            stay.last = max(stay.last, told.known)
