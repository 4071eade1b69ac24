"""Stays without what identifies: codes for names, ages of 90, no words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from foretell.data.clinical.deidentify.rules import FREE_TEXT, OLDEST
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.sexes import sex_word
from foretell.data.clinical.stays import Stays
from foretell.data.panel import Categorical

if TYPE_CHECKING:
    from foretell.data.clinical.deidentify.deidentifier import Deidentifier

_NUMBERS = ("age", "admission")


def cleaned(told: Deidentifier, stays: Stays) -> Stays:
    """The stays under codes, in the order of the codes.

    Hours are counted from admission and stay. Ages become whole years, and 90 above 89. Hospitals
    and sites get codes, units stay where they name a kind. Channels, categories and numbers that
    nobody knows, and notes, go.
    """
    count = told.removed
    size = len(stays)
    count.taken += size
    place = next((c for c in ("hospital", "site") if c in stays.categories), None)
    sites = np.full(size, told.site, object) if place is None else stays.names(place)
    patients = np.array(
        [told.code("patient", str(s), str(p)) for s, p in zip(sites, stays.patients, strict=True)]
        + [None], object,
    )[:-1]  # fmt: skip
    ids = np.array(
        [told.code("stay", str(s), str(i)) for s, i in zip(sites, stays.ids, strict=True)]
        + [None], object,
    )[:-1]  # fmt: skip
    count.coded["mrn"] += size
    count.coded["other"] += size
    categories = {}
    for name in stays.categories:
        words = [str(w) for w in stays.names(name)]
        known = [w for w in words if w != "unknown"]
        kept: list[str | None]
        if name in ("site", "hospital"):
            kept = [None if w == "unknown" else told.code("site", "", w) for w in words]
            count.coded["geography"] += len(known)
        elif name == "unit":
            kept = [None if w == "unknown" else told.unit(w) for w in words]
            count.removed["geography"] += len(known) - sum(k is not None for k in kept)
        elif name == "sex":
            kept = [sex_word(w) for w in words]
            count.removed[FREE_TEXT] += len(known) - sum(k is not None for k in kept)
        else:
            count.removed[FREE_TEXT] += len(known)
            continue
        categories[name] = Categorical.from_values(kept)
    numbers = {}
    for name, values in stays.numbers.items():
        if name not in _NUMBERS:
            count.removed["other"] += int(np.isfinite(values).sum())
            continue
        if name == "age":
            years = np.floor(values)
            old = years > OLDEST
            count.generalised["dates"] += int(old.sum())
            values = np.where(old, OLDEST + 1.0, years)
        numbers[name] = np.asarray(values, np.float64)
    channels = {}
    for name in stays.schema.names:
        known_as = told.schema[name] if name in told.schema.names else None
        if known_as is not None and known_as.unit == stays.schema[name].unit:
            channels[name] = stays.column(name)
        else:
            count.removed["other"] += int(np.isfinite(stays.column(name)).sum())
    # Definitions as the deidentifier knows them: a schema's own texts could hold anything.
    schema = Schema(
        tuple(told.schema[n] for n in channels), told.schema.synonyms, told.schema.version
    )
    count.removed[FREE_TEXT] += len(stays.notes)
    whole = Stays(
        ids, patients, stays.offsets[:-1], stays.lengths, stays.starts, channels, schema,
        None if stays.label is None else stays.labels(), stays.onset, categories, numbers,
    )  # fmt: skip
    # The order in which patients came says when.
    return whole.select(np.argsort(ids.astype(str), kind="stable"))
