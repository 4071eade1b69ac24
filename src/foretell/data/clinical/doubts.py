"""What a feed says that cannot count as it stands: left out or flagged, counted, and told.

Rules of a quality monitor judge the values of an hour; these judge what only a feed knows: when a
specimen was taken, and whether what is told of a patient can all be true.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

OLD_SPECIMEN, IMPOSSIBLE_AGE = "old_specimen", "impossible_age"
CONTRADICTORY_AGE, CONTRADICTORY_SEX = "contradictory_age", "contradictory_sex"
DOUBTS: Mapping[str, str] = {
    OLD_SPECIMEN: "a result of a specimen that was too old when it came was left out",
    IMPOSSIBLE_AGE: "an age that nobody has was told and left out",
    CONTRADICTORY_AGE: "ages were told that cannot all be true: is it one patient?",
    CONTRADICTORY_SEX: "two sexes were told: is it one patient?",
}
"""Names of doubts, and what they say."""

MAX_AGE = 48.0
"""Hours after which a specimen says nothing of now."""
_YEAR = 365.2425 * 86400
_OLDEST, _TOP = 120, 90
# Two tellings of one date of birth are less than a year apart; half a year more is for dates of
# birth that are told to the month only.
_APART = 1.5


def is_old(time: float, known: float, max_age: float = MAX_AGE) -> bool:
    """Whether a specimen was too old to say anything of when its result became known.

    Args:
        time: at which it was taken, in seconds.
        known: when its first result became known.
        max_age: hours.
    """
    return known - time > 3600 * max_age


def age_at(born: float | None, moment: float | None) -> tuple[float | None, str | None]:
    """Age in whole years, 90 from 90 on, and the doubt where nobody can be that old.

    Args:
        born: seconds since 1970; None where it is not told.
        moment: seconds since 1970.
    """
    if born is None or moment is None:
        return None, None
    years = (moment - born) / _YEAR
    # A day of grace: a date of birth has no time zone.
    if -86400 / _YEAR <= years <= _OLDEST:
        return float(min(max(math.floor(years), 0), _TOP)), None
    return None, IMPOSSIBLE_AGE


class Described(NamedTuple):
    """What is told of a patient: the age (90 from 90 on) in years, as of when, and the sex."""

    age: float | None = None
    moment: float | None = None
    sex: str | None = None

    def then(self, now: Described) -> Described:
        """What is known after ``now`` was told, too: the last word counts.

        Of two ages that agree that of the later moment does: a register may tell one of years ago.
        """
        aged = self if now.age is None else now
        if self.age is not None and self.moment is not None and now.moment is not None:
            agreed = CONTRADICTORY_AGE not in contradictions(self, now)
            aged = self if agreed and now.moment < self.moment else aged
        return Described(aged.age, aged.moment, now.sex or self.sex)


def contradictions(before: Described, now: Described) -> list[str]:
    """Names of the doubts where two descriptions cannot be of one patient.

    Ages are compared as of their moments, so that nobody is suspected of a birthday.
    """
    out = []
    a, b = before.age, now.age
    if a is not None and b is not None and before.moment is not None and now.moment is not None:
        apart = b - a - (now.moment - before.moment) / _YEAR
        # From 90 on only the least age is known.
        open_above = (apart < 0 and b >= _TOP) or (apart > 0 and a >= _TOP)
        if abs(apart) > _APART and not open_above:
            out.append(CONTRADICTORY_AGE)
    if before.sex and now.sex and before.sex != now.sex:
        out.append(CONTRADICTORY_SEX)
    return out
