"""The words for a patient's sex, and the number that features take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.tokens import MISSING
from foretell.errors import ParameterError

_KNOWN = {"male": 1.0, "m": 1.0, "1": 1.0, "female": 0.0, "f": 0.0, "0": 0.0}
_WORDS = {1.0: "male", 0.0: "female"}
# HL7 v2, table 0001 (A, N, O, U), v3's codes and null flavours, FHIR's AdministrativeGender, and
# what stands for a missing value.
_UNKNOWN = MISSING.union(
    ("unknown", "unk", "u", "other", "o", "ambiguous", "a", "not applicable", "n", "x",
     "undifferentiated", "un", "indeterminate", "undetermined", "intersex", "non-binary", "oth",
     "ni", "asku", "nask", "nav", "not known", "not specified", "unspecified", "not stated",
     "not reported", "missing", "<na>")
)  # fmt: skip


def sex_numbers(words: Iterable[object]) -> NDArray[np.float64]:
    """(N,) 1 for male, 0 for female, NaN where it is not known or neither.

    Args:
        words: ``"male"``, ``"M"``, ``"female"``, ``"F"``, in any case, or the numbers of the 2019
            challenge, 1 and 0. Not known are None, NaN, ``""`` and the other :data:`MISSING` texts,
            ``"unknown"``, ``"other"``, ``"ambiguous"``, ``"not applicable"``, ``"not specified"``,
            ``"undifferentiated"``, ``"indeterminate"``, ``"intersex"`` and the like, the codes
            ``"U"``, ``"O"``, ``"A"``, ``"N"``, ``"X"`` and ``"UN"``, and HL7's null flavours.

    Raises:
        ParameterError: another word, which might be a code of another table: 2 is female in
            ISO 5218, where 0 is unknown.
    """
    held: dict[object, float] = {}
    out = []
    for word in words:
        if word not in held:
            held[word] = _number(word)
        out.append(held[word])
    return np.array(out, np.float64)


def sex_word(word: object) -> str | None:
    """``"male"`` or ``"female"``, as records say it; None where ``word`` tells neither."""
    number = _KNOWN.get(_plain(word))
    return None if number is None else _WORDS[number]


def _number(word: object) -> float:
    text = _plain(word)
    if text in _KNOWN:
        return _KNOWN[text]
    if text in _UNKNOWN:
        return np.nan
    raise ParameterError(
        f"{str(word)[:20]!r} is no sex that is known: give 'male' or 'female' ('M', 'F'; 1 and 0 "
        "as in the 2019 challenge), or None, 'unknown' or 'other' where it is neither"
    )


def _plain(word: object) -> str:
    # A column of 1 and 0 with gaps is one of 1.0 and 0.0.
    return "" if word is None else str(word).strip().lower().removesuffix(".0")
