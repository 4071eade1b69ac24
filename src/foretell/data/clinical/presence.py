"""Whether a patient is here: when a stay begins, goes on, ends and is taken up again.

The rule of tables made of feeds (:mod:`foretell.data.clinical.visits`) and of the service: what a
table says of a stay is what the service saw.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

EARLY = 86400.0
"""Seconds by which an admission may lie ahead, and a specimen before the admission."""
_LONGEST = 24 * 400 * 3600.0
ADMISSIONS = ("admit", "register")


class Step(Enum):
    """What becomes of the latest stay when something is told."""

    NOTHING = auto()
    """Of what tells of visits: the stay is as it was. Of a result: it belongs to no stay."""
    GOES_ON = auto()
    """It is of the stay that goes on; an admission may say when that began."""
    BEGINS = auto()
    """Another stay begins; one that still went on is over then."""
    ENDS = auto()
    """The stay is over, or known to be over since it was given up."""
    CANCELLED = auto()
    """The stay should not have been."""
    REOPENED = auto()
    """The stay is not over after all."""
    COUNTS = auto()
    """A result of the stay that is over: it counts if it was known before, or corrects such."""


class Standing(Protocol):
    """How the latest stay of a patient stands.

    Attributes:
        visit: the sender's name of it, None where nobody said it.
        begin: seconds since 1970.
        last: when the last result became known.
        end: why it is over, ``"idle"`` where it was given up after silence; None while it goes on.
        ended: when.
    """

    @property
    def visit(self) -> str | None: ...  # noqa: D102  (of the class)
    @property
    def begin(self) -> float: ...  # noqa: D102
    @property
    def last(self) -> float: ...  # noqa: D102
    @property
    def end(self) -> str | None: ...  # noqa: D102
    @property
    def ended(self) -> float | None: ...  # noqa: D102


def admission(time: float, admitted: float | None) -> float:
    """When an admission was: a year is easily mistyped, nobody is heard of before they came."""
    if admitted is None or not -_LONGEST <= admitted - time <= EARLY:
        return time
    return admitted


def same_visit(stay: Standing, visit: str | None) -> bool:
    """Whether ``visit`` may be the name of the stay: it is, or one of the two is not known."""
    return visit is None or stay.visit is None or visit == stay.visit


def visit_step(stay: Standing | None, kind: str, visit: str | None, begin: float) -> Step:
    """What an admission, a discharge and the like makes of the latest stay.

    Args:
        stay: None where there was none.
        kind: of :data:`~foretell.data.clinical.feed.VISIT_KINDS`.
        visit: the name that was told.
        begin: when the admission was, see :func:`admission`.
    """
    if stay is None:
        return Step.BEGINS if kind in ADMISSIONS else Step.NOTHING
    same = same_visit(stay, visit)
    if kind in ADMISSIONS:
        if same and stay.end is None:
            return Step.GOES_ON
        if visit is not None and visit == stay.visit:
            return Step.NOTHING  # repeated after the discharge
        return Step.BEGINS if begin >= _over(stay) else Step.NOTHING
    if not same:
        return Step.NOTHING
    if kind == "discharge" and stay.end in (None, "idle"):
        return Step.ENDS
    if kind == "cancel_admit" and stay.end is None:
        return Step.CANCELLED
    if kind == "cancel_discharge" and stay.end == "discharged":
        return Step.REOPENED
    return Step.NOTHING


def result_step(
    stay: Standing | None, visit: str | None, taken: float, *, placed: bool = False
) -> Step:
    """What a result makes of the latest stay.

    Args:
        stay: None where there was none.
        visit: the name that was told.
        taken: when its specimen was; of an old one, when it became known.
        placed: whether a merge brings it from another patient's history.
    """
    if stay is None:
        return Step.BEGINS
    if not same_visit(stay, visit):
        # What names another visit while one goes on is late news of one that is over.
        return Step.BEGINS if stay.end is not None and taken > _over(stay) else Step.NOTHING
    if stay.end is None:
        return Step.GOES_ON
    if stay.end == "idle" and taken > stay.last:
        return Step.REOPENED
    if (placed or stay.end == "discharged") and taken <= _over(stay):
        return Step.COUNTS
    return Step.NOTHING


def _over(stay: Standing) -> float:
    return stay.begin if stay.ended is None else stay.ended
