"""Labels for sentences of tagging tasks, to divide them by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUMERIC_TYPES = frozenset(
    {"CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"}
)  # fmt: skip
"""Types of entities that say little about what a sentence is about."""
NO_ENTITY = "NULL"


def entity_type_labels(
    tags: Sequence[Sequence[str]], *, excluded: frozenset[str] = NUMERIC_TYPES
) -> NDArray[np.str_]:
    """The set of entity types of each sentence, sorted and joined by ``+``; ``NULL`` for none.

    Args:
        tags: BIO tags of each sentence.
        excluded: types that do not count, in capitals.

    Returns:
        A label for each sentence ``(n,)``, to be the ``partition_by`` of ``LabelDirichlet``.
    """
    labels = []
    for sentence in tags:
        types = {tag[2:] for tag in sentence if tag[:2] in ("B-", "I-")}
        kept = sorted(t for t in types if t.upper() not in excluded)
        labels.append("+".join(kept) if kept else NO_ENTITY)
    return np.array(labels, dtype=str)
