"""Whose is what after merges: what was told of a retired identifier is history of who stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from foretell.data.clinical.feed import VisitChange

Key = tuple[str, str]
Path = tuple[float, ...]
"""The merges that brought something, the last one first: of each its time, 2, and its number."""


class Owned(NamedTuple):
    """What was told of a patient, each with the merges that brought it; results by number."""

    changes: list[tuple[Path, VisitChange]]
    results: list[tuple[Path, int]]


def owned(
    visits: Mapping[Key, Sequence[VisitChange]], results: Mapping[Key, Sequence[int]],
    known: Sequence[float],
) -> dict[Key, Owned]:  # fmt: skip
    """What belongs to whom in the end, through any chain of merges.

    Until its merge an identifier was somebody of its own: what was told of it by then is brought
    by the merge, what comes later is of who stays at once. Merges in a circle end where they began.

    Args:
        visits: by (site, patient) as they were told.
        results: numbers by (site, patient) as they were told.
        known: when each result became known.
    """
    out = {
        key: Owned([((), c) for c in visits.get(key, ())], [((), i) for i in results.get(key, ())])
        for key in {*visits, *results}
    }
    merges = sorted(
        (c.time, c.site, c.patient, c.prior)
        for changes in visits.values() for c in changes
        if c.kind == "merge" and c.prior is not None
    )  # fmt: skip
    after: dict[Key, str] = {}
    for number, (time, site, patient, prior) in enumerate(merges):
        gone, stays = (site, _now(after, site, prior)), (site, _now(after, site, patient))
        if gone == stays:
            continue
        after[gone] = stays[1]
        past, there = out.pop(gone, None), out[stays]
        if past is None:
            continue
        here = (time, 2.0, float(number))
        there.changes.extend(((*here, *p) if p or c.time <= time else p, c) for p, c in past[0])
        there.results.extend(((*here, *p) if p or known[i] <= time else p, i) for p, i in past[1])
    return out


def _now(after: Mapping[Key, str], site: str, patient: str) -> str:
    while (now := after.get((site, patient))) is not None:
        patient = now
    return patient
