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

if TYPE_CHECKING:
    from foretell.data.clinical.feed import VisitChange

IDLE = 72
"""Hours without any result after which a stay counts as left."""
_EARLY, _LONGEST = 86400.0, 24 * 400 * 3600.0


@dataclass(slots=True)
class Visit:
    """One stay of a patient.

    Attributes:
        name: of the visit, None where nobody said it.
        begin: seconds since 1970, at which hour 1 begins.
        anchored: whether an admission said so.
        last: when the last result became known.
        heard: when it was first heard of.
        end: None where nobody said so.
        cancelled: whether that was the end of an admission that should not have been.
        unit: the first one.
        described: age and sex.
        results: numbers of its results.
    """

    name: str | None
    begin: float
    anchored: bool
    last: float
    heard: float
    results: list[int]
    described: Described
    end: float | None = None
    cancelled: bool = False
    unit: str | None = None

    def passed(self, time: float) -> bool:
        """Whether an hour of it is over for who has heard of it so far."""
        return time >= self.begin + 3600 and time > self.heard

    def left(self, idle: float) -> float:
        """The end of the last hour in which somebody would still have waited for results."""
        hours = math.floor((max(self.last, self.begin) - self.begin) / 3600 + idle)
        return self.begin + 3600 * hours

    def hours(self, until: float | None, idle: float) -> int:
        """Hours up to the end; where there is none, up to the last result or ``until``."""
        end = self.end
        if end is None:
            end = self.last if until is None else self.left(idle)
        end = end if until is None else min(end, until)
        return max(math.ceil((end - self.begin) / 3600), 1)


class Result(NamedTuple):
    """When a result first became known, when its specimen was taken, and its visit if it says so.

    Of an old specimen, which is no sign that somebody was there, ``taken`` is ``known``.
    """

    known: float
    taken: float
    visit: str | None


class Visits(NamedTuple):
    """The stays of a patient, in order, how many results belong to none, and names of doubts."""

    stays: list[Visit]
    outside: int
    doubts: list[str]


def admission(time: float, admitted: float | None) -> float:
    """When an admission was: a year is easily mistyped, nobody is heard of before they came."""
    if admitted is None or not -_LONGEST <= admitted - time <= _EARLY:
        return time
    return admitted


def visits_of(
    changes: Sequence[VisitChange],
    results: Sequence[Result],
    *,
    idle: float = IDLE,
) -> Visits:
    """The stays of one patient.

    Args:
        changes: in the order in which they were told where their times are equal.
        results: of all visits.
        idle: hours without any result after which a stay counts as left.
    """
    told = [(c.time, 0, i) for i, c in enumerate(changes)]
    told += [(result.known, 1, i) for i, result in enumerate(results)]
    out = _Walk(idle)
    for _, kind, i in sorted(told):
        if kind == 0:
            out.change(changes[i])
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

    def _now(self, time: float, name: str | None) -> tuple[Visit | None, bool, bool, float]:
        """The latest stay, whether it is open, whether ``name`` is its own, and its end."""
        if not self.stays:
            return None, False, False, -math.inf
        stay = self.stays[-1]
        same = name is None or stay.name is None or name == stay.name
        if stay.end is not None:
            return stay, False, same, stay.end
        left = stay.left(self.idle)
        # It is given up as the next hour ends.
        return (stay, False, same, left) if time >= left + 3600 else (stay, True, same, stay.begin)

    def _begin(self, name: str | None, begin: float, heard: float, anchored: bool) -> Visit:
        self.stays.append(Visit(name, begin, anchored, begin, heard, [], self._described))
        return self.stays[-1]

    def change(self, told: VisitChange) -> None:
        moment = told.time if told.admitted is None else told.admitted
        now = Described(told.age, moment, told.sex)
        self.doubts += contradictions(self._described, now)
        self.doubts += [] if told.doubt is None else [told.doubt]
        self._described = self._described.then(now)
        stay, is_open, same, end = self._now(told.time, told.visit)
        if told.kind in ("admit", "register"):
            begin = admission(told.time, told.admitted)
            if stay is not None and is_open and same:
                stay.name = stay.name or told.visit
                if not stay.anchored and not stay.passed(told.time):
                    stay.begin, stay.anchored = begin, True
            elif stay is not None and told.visit is not None and told.visit == stay.name:
                pass  # repeated after the discharge
            elif stay is None or begin >= end:
                if stay is not None and stay.end is None:
                    stay.end = begin if is_open else end
                stay = self._begin(told.visit, begin, told.time, True)
        elif stay is not None and same and is_open and told.kind in ("discharge", "cancel_admit"):
            stay.end, stay.cancelled = told.time, told.kind == "cancel_admit"
        elif stay is not None and same and told.kind == "discharge" and stay.end is None:
            stay.end = end
        elif stay is not None and same and told.kind == "cancel_discharge" and not stay.cancelled:
            stay.end = None
        stay, is_open, same, _ = self._now(told.time, told.visit)
        if stay is not None:
            stay.described = self._described
            moves = told.kind in ("admit", "register", "transfer", "update")
            if is_open and same and moves and stay.unit is None:
                stay.unit = told.unit

    def result(self, number: int, told: Result) -> None:
        stay, is_open, same, end = self._now(told.known, told.visit)
        if stay is None:
            stay = self._begin(told.visit, told.taken, told.known, False)
        elif is_open and same:
            early = _EARLY if stay.anchored else 0.0
            if not stay.passed(told.known) and told.taken < stay.begin - early:
                stay.begin = told.taken
        elif not is_open and not same and told.taken > end:
            stay.end = end
            stay = self._begin(told.visit, told.taken, told.known, False)
        elif not self._covered(stay, same, told):
            self.outside += 1
            return
        stay.name = stay.name or told.visit
        stay.results.append(number)
        stay.last = max(stay.last, told.known)

    @staticmethod
    def _covered(stay: Visit, same: bool, told: Result) -> bool:
        """Whether a result is of a stay that is over: it was known by then, or nobody had left."""
        if stay.end is None:
            return same and told.taken > stay.last
        return same and not stay.cancelled and told.known <= stay.end
