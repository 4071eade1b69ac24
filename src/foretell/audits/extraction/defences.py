"""What lowers extraction, beside private training: not to repeat a secret in the first place.

Dropout, early stopping and reading words by their letters are options of the models
(``NLU(dropout=..., epochs=..., characters="only")``), private training is a strategy. Measured on
Snips, each of the former leaves many bits of exposure and all three together few; clipping without
noise takes none; private training hides secrets that occur once, not wholly those that occur twenty
times.
"""

from __future__ import annotations

import polars as pl

from foretell.data.panel import DataNote
from foretell.data.text import TextSet
from foretell.errors import ParameterError


def deduplicate(text: TextSet, most: int = 1) -> TextSet:
    """Keeps at most so many copies of the same words, whatever their labels.

    A guarantee of one example is one of k copies at k times the epsilon: what occurs often is
    learned, with or without noise.

    Args:
        text: utterances; order and other columns stay.
        most: copies of each that stay, the first ones.

    Raises:
        ParameterError: ``most`` below 1.
    """
    if most < 1:
        raise ParameterError(f"most must be at least 1, not {most}")
    key = pl.col("tokens").list.join("\0")
    kept = text.frame.filter(pl.int_range(pl.len()).over(key) < most)
    dropped = text.frame.height - kept.height
    if not dropped:
        return text
    note = DataNote("duplicates", f"{dropped} copies of utterances were left out", dropped)
    return TextSet(kept, (*text.notes, note))
