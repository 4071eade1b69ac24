"""The result of every demand forecaster: quantiles of each series at each horizon."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.frequency import Frequency
from foretell.data.panel import DataNote
from foretell.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, order=True)
class Span:
    """A sum of consecutive future periods: ``y[t + lead + 1] + ... + y[t + lead + cover]``."""

    lead: int
    cover: int

    def __post_init__(self) -> None:
        if self.lead < 0 or self.cover < 1:
            raise ParameterError(f"a span needs lead >= 0 and cover >= 1, not {self}")

    @property
    def horizon(self) -> int:
        """The last period that the span touches."""
        return self.lead + self.cover


@dataclass(frozen=True, eq=False)
class Forecast:
    """Quantile forecasts of M (series, origin) pairs over K periods, in units per period.

    Args:
        ids: (M,) names of the series; one name may come with several origins.
        cutoffs: (M,) period number of the last step that was known.
        frequency: the time grid.
        levels: (Q,) ascending quantile levels in (0, 1).
        values: (M, K, Q) float32, non-decreasing along Q.
        spans: quantiles (M, Q) of sums over spans of periods; quantiles do not add, so these are
            forecasts of their own.
        components: optional table of what made up the forecast, keyed by ``unique_id``,
            ``cutoff`` and, where it varies, ``horizon``.
        model: name of the model.
        notes: repairs of what the forecast rests on, counted.
    """

    ids: NDArray[np.object_]
    cutoffs: NDArray[np.int64]
    frequency: Frequency
    levels: NDArray[np.float64]
    values: NDArray[np.float32]
    spans: Mapping[Span, NDArray[np.float32]] = field(default_factory=dict)
    components: pl.DataFrame | None = None
    model: str = "model"
    notes: tuple[DataNote, ...] = ()

    def __post_init__(self) -> None:
        levels = check_levels(self.levels)
        object.__setattr__(self, "levels", levels)
        expected = (len(self.ids), self.values.shape[1], len(levels))
        if self.values.shape != expected:
            raise ParameterError(f"forecast values have shape {self.values.shape}, not {expected}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def horizon(self) -> int:
        """Number of periods K."""
        return self.values.shape[1]

    def quantile(self, level: float | ArrayLike) -> NDArray[np.float32]:
        """Any quantile: (M, K) for one level, (M, K, L) for several.

        Linear between the forecast's levels; beyond them exponential tails through the two outer
        ones.
        """
        wanted = np.atleast_1d(np.asarray(level, np.float64))
        check_levels(np.unique(wanted))
        result = interpolate_quantiles(self.values, self.levels, wanted)
        return result[..., 0] if np.ndim(level) == 0 else result

    @property
    def median(self) -> NDArray[np.float32]:
        """The 0.5 quantile (M, K)."""
        return self.quantile(0.5)

    def at_levels(self, levels: Sequence[float]) -> Forecast:
        """The same forecast on another grid of levels."""
        grid = check_levels(levels)
        if np.array_equal(grid, self.levels):
            return self
        spans = {
            span: interpolate_quantiles(values, self.levels, grid)
            for span, values in self.spans.items()
        }
        return replace(self, levels=grid, values=self.quantile(grid), spans=spans)

    def sample(self, n: int, seed: int = 0) -> NDArray[np.float32]:
        """Sample paths (M, K, n), rank-coupled: one uniform number a path for all its periods."""
        uniforms = np.random.default_rng(seed).uniform(1e-3, 1 - 1e-3, size=n)
        return interpolate_quantiles(self.values, self.levels, uniforms)

    def select(self, rows: NDArray) -> Forecast:
        """The (series, origin) pairs at given positions or under a mask."""
        return replace(
            self,
            ids=self.ids[rows],
            cutoffs=self.cutoffs[rows],
            values=self.values[rows],
            spans={span: values[rows] for span, values in self.spans.items()},
        )

    def first(self, horizon: int) -> Forecast:
        """The first ``horizon`` periods only."""
        return replace(
            self,
            values=self.values[:, :horizon],
            spans={s: v for s, v in self.spans.items() if s.horizon <= horizon},
        )

    def to_polars(self) -> pl.DataFrame:
        """Long table: ``unique_id, cutoff, ds, horizon`` and one column a level (``q0.1``...)."""
        m, k, _ = self.values.shape
        steps = np.tile(np.arange(1, k + 1), m)
        cutoffs = np.repeat(self.cutoffs, k)
        flat = self.values.reshape(m * k, -1)
        return pl.DataFrame(
            {
                "unique_id": pl.Series(np.repeat(self.ids, k).astype(str), dtype=pl.String),
                "cutoff": self.frequency.time(cutoffs),
                "ds": self.frequency.time(cutoffs + steps),
                "horizon": steps.astype(np.int32),
                **{f"q{level:g}": flat[:, j] for j, level in enumerate(self.levels)},
            }
        )

    def to_pandas(self) -> pd.DataFrame:
        """The table of :meth:`to_polars` as pandas."""
        return self.to_polars().to_pandas()

    @classmethod
    def concat(cls, parts: Sequence[Forecast]) -> Forecast:
        """Forecasts of one model below one another."""
        first = parts[0]
        tables = [p.components for p in parts if p.components is not None]
        return replace(
            first,
            ids=np.concatenate([p.ids for p in parts]),
            cutoffs=np.concatenate([p.cutoffs for p in parts]),
            values=np.concatenate([p.values for p in parts]),
            spans={s: np.concatenate([p.spans[s] for p in parts]) for s in first.spans},
            components=pl.concat(tables, how="diagonal") if tables else None,
        )


def check_levels(levels: ArrayLike) -> NDArray[np.float64]:
    """Quantile levels as an ascending array.

    Raises:
        ParameterError: a level lies outside (0, 1) or they do not ascend.
    """
    grid = np.atleast_1d(np.asarray(levels, np.float64))
    if grid.ndim != 1 or grid.size == 0 or not np.all((grid > 0) & (grid < 1)):
        raise ParameterError(f"quantile levels must lie inside (0, 1), not {grid.tolist()}")
    if np.any(np.diff(grid) <= 0):
        raise ParameterError(f"quantile levels must ascend, not {grid.tolist()}")
    return grid


def interpolate_quantiles(
    values: NDArray, levels: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Quantiles at other levels: linear inside the grid, exponential tails outside.

    Args:
        values: (..., Q) non-decreasing along the last axis.
        levels: (Q,) ascending.
        wanted: (L,) levels in (0, 1).

    Returns:
        (..., L) float32. The left tail is ``q1 + (q2 - q1) log(a / a1) / log(a2 / a1)``, held at
        zero when ``q1`` is not negative; the right tail mirrors it.
    """
    values = np.asarray(values)
    if levels.size == 1:
        if np.any(np.abs(wanted - levels) > 1e-9):
            warnings.warn("one level only: other quantiles repeat it", stacklevel=3)
        return np.repeat(values, len(wanted), axis=-1).astype(np.float32)
    upper = np.clip(np.searchsorted(levels, wanted), 1, levels.size - 1)
    lower = upper - 1
    share = (wanted - levels[lower]) / (levels[upper] - levels[lower])
    left, right = wanted < levels[0], wanted > levels[-1]
    share = np.where(left, np.log(wanted / levels[0]) / np.log(levels[1] / levels[0]), share)
    tail = np.log((1 - wanted) / (1 - levels[-2])) / np.log((1 - levels[-1]) / (1 - levels[-2]))
    share = np.where(right, tail, share)
    result = values[..., lower] + share * (values[..., upper] - values[..., lower])
    floor = np.minimum(values[..., :1], 0)
    return np.where(left, np.maximum(result, floor), result).astype(np.float32)
