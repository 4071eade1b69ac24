"""The warm-up: the first sites are in one place, and the first layer sees all before it is frozen.

A channel that the first site never had is nothing to a layer that was frozen there. Where the first
k sites share a place, such as the hospitals of one owner, the layer is trained on all of them. Each
further site of the warm-up trains the whole net anew on the rows of all sites so far, and encodes
the exemplars of earlier ones anew. With the last one the layer is frozen and the rows are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.estimators.continual.rows import Held
from foretell.estimators.continual.site import SiteRecord, SiteRows

Freeze = Literal["first_site", "after_warmup"]


class WarmSite(NamedTuple):
    """Rows of a site, hours to choose weights by, and its record."""

    given: SiteRows
    held: Held | None
    record: SiteRecord


@dataclass(frozen=True, eq=False)
class Warmup:
    """Rows of the sites so far, which are never part of a bundle or of a copy of the model.

    Attributes:
        size: sites after which the first layer is frozen.
        sites: those that were trained on, at most ``size``.
    """

    size: int
    sites: tuple[WarmSite, ...] = ()

    @property
    def over(self) -> bool:
        """Whether the first layer is frozen."""
        return len(self.sites) >= self.size

    def joined(self, site: WarmSite) -> Warmup:
        """With one more site.

        Raises:
            DataError: its rows have another number of features.
        """
        width = site.given.features.shape[1]
        for other in self.sites:
            if other.given.features.shape[1] != width:
                raise DataError(
                    f"the rows of {site.record.name!r} have {width} features, those of "
                    f"{other.record.name!r} {other.given.features.shape[1]}"
                )
        site.record.warm_up = self.size > 1
        return Warmup(self.size, (*self.sites, site))

    def pooled(self) -> tuple[SiteRows, Held | None]:
        """Rows of all sites as if of one; patients of different sites are different patients."""
        rows = [site.given for site in self.sites]
        held = [site.held for site in self.sites if site.held is not None]
        if len(rows) == 1:
            return rows[0], self.sites[0].held
        hours = np.array([len(r.label) for r in rows])
        weight = None
        if any(r.weight is not None for r in rows):
            ones = [np.ones(n, np.float32) for n in hours]
            weight = np.concatenate(
                [one if r.weight is None else r.weight for one, r in zip(ones, rows, strict=True)]
            )
        together = SiteRows(
            features=np.concatenate([r.features for r in rows]),
            label=np.concatenate([r.label for r in rows]),
            patients=_patients(rows),
            weight=weight,
            rate=float(np.average([r.rate for r in rows], weights=hours)),
        )
        if not held:
            return together, None
        return together, (
            np.concatenate([h[0] for h in held]),
            np.concatenate([h[1] for h in held]),
        )


def check_warmup(freeze: str, warmup_sites: int, freeze_first_layer: bool) -> None:
    """Refuses what does not go together.

    Raises:
        ParameterError: naming it.
    """
    if freeze not in ("first_site", "after_warmup"):
        raise ParameterError(f"freeze is 'first_site' or 'after_warmup', not {freeze!r}")
    if warmup_sites < 1:
        raise ParameterError(f"warmup_sites must be at least 1, not {warmup_sites}")
    if freeze == "first_site" and warmup_sites > 1:
        raise ParameterError(f"{warmup_sites} warmup_sites need freeze='after_warmup'")
    if freeze == "after_warmup" and not freeze_first_layer:
        raise ParameterError("freeze='after_warmup' needs freeze_first_layer=True")


def going_on(warmup: Warmup | None, size: int, sites: Iterable[SiteRecord]) -> Warmup | None:
    """The warm-up that the next site is part of; None where the first layer is frozen.

    Args:
        warmup: what is kept of it.
        size: its sites.
        sites: that were seen.

    Raises:
        NotFittedError: it is not over, but its rows are gone.
    """
    done = sum(record.trained for record in sites)
    if done >= size:
        return None
    if warmup is None:
        raise NotFittedError(
            f"{done} of {size} sites of the warm-up are trained on, and their rows are not here: a "
            "copy has none. Fit all of them again, in one process"
        )
    return warmup


def check_over(size: int, sites: Sequence[SiteRecord]) -> None:
    """Refuses to let anything out while the first layer still moves.

    Raises:
        DataError: the warm-up is not over.
    """
    done = sum(record.trained for record in sites)
    if done < size:
        raise DataError(
            f"only {done} of {size} sites of the warm-up are trained on: the first layer still "
            "moves, and what leaves now would be stale, and released twice",
            hint="Fit the other sites first",
        )


def _patients(rows: Sequence[SiteRows]) -> np.ndarray | None:
    found, begin = [], 0
    for part in rows:
        if part.patients is None:
            return None
        found.append(part.patients + begin)
        begin += int(part.patients.max(initial=-1)) + 1
    return np.concatenate(found)
