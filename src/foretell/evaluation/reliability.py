"""Does a quantile forecast keep its promise: coverage of each level with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.errors import ParameterError
from foretell.evaluation import scores
from foretell.evaluation.bootstrap import cluster_bootstrap


def reliability(
    table: pl.DataFrame,
    *,
    by: Sequence[str] = (),
    resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> pl.DataFrame:
    """Share of outcomes at or below each quantile, with bands from resampled series.

    Args:
        table: of :func:`foretell.evaluation.evaluate`, with ``unique_id``.
        by: columns to split by, besides ``model``.
        resamples: number of bootstrap resamples.
        confidence: share inside the band.
        seed: of the resampling.

    Returns:
        ``model``, the columns ``by``, ``level, coverage, lower, upper, n``.
    """
    if "unique_id" not in table.columns:
        raise ParameterError("the table has no unique_id: evaluate with keep_series=True")
    levels = scores.levels_of(table.columns)
    below = [f"below_{scores.level_name(a)}" for a in levels]
    keys = ["model", *by]

    def shares(sums: NDArray) -> NDArray:
        return sums[:, 1:] / np.where(sums[:, :1] > 0, sums[:, :1], np.nan)

    series = table.group_by([*keys, "unique_id"]).agg(pl.col("n", *below).sum())
    parts = []
    for part in series.sort([*keys, "unique_id"]).partition_by(keys, maintain_order=True):
        sums = part.select("n", *below).to_numpy().astype(np.float64)
        found = cluster_bootstrap(
            sums, shares, resamples=resamples, confidence=confidence, seed=seed
        )
        parts.append(
            pl.DataFrame(
                {
                    **{key: pl.Series([part[key][0]] * len(levels)) for key in keys},
                    "level": levels,
                    "coverage": found.estimate,
                    "lower": found.lower,
                    "upper": found.upper,
                    "n": [int(sums[:, 0].sum())] * len(levels),
                }
            )
        )
    return pl.concat(parts, how="vertical_relaxed")
