"""New items: launch curves of the most similar launched ones."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.errors import ParameterError


class AnalogNew(BaseEstimator):
    """Weighted mean of age-aligned launch curves, scaled by the item's own first periods.

    The ``n_neighbours`` launched items nearest in Gower distance d (mean over attributes of
    ``0/1`` for categories and ``|a - b| / range`` for numbers) get weights ``softmax(-d /
    bandwidth)``. With m their weighted mean level and c(age) their curve divided by it, an item
    with sales y at n ages starts from a gamma prior of shape a and mean m for its level:
    ``level = (a + sum y / phi) / (a / m + sum c(age) / phi)``. The dispersion phi (variance over
    mean) is 1 for Poisson counts; estimated from the library, it also frees the method from the
    unit of sales.

    Args:
        n_neighbours: analogs of one item.
        bandwidth: of the weights; small values follow the nearest only.
        shape: a; ``None`` takes ``m^2 / variance`` of the analogs' levels.
        dispersion: phi; ``None`` estimates it from the launch curves.
        ages: longest launch curve in periods.
        max_library: launched items kept, the latest ones.
    """

    def __init__(
        self,
        n_neighbours: int = 50,
        *,
        bandwidth: float = 0.05,
        shape: float | None = None,
        dispersion: float | None = None,
        ages: int = 52,
        max_library: int = 5000,
    ) -> None:
        self.n_neighbours = n_neighbours
        self.bandwidth = bandwidth
        self.shape = shape
        self.dispersion = dispersion
        self.ages = ages
        self.max_library = max_library

    def fit(
        self,
        curves: NDArray,
        categories: NDArray[np.int64],
        numbers: NDArray,
        rows: NDArray[np.int64] | None = None,
    ) -> Self:
        """Keeps the library of launches.

        Args:
            curves: (L, A) sales by age since launch, NaN where not observed.
            categories: (L, C) codes of static categories, 0 unknown.
            numbers: (L, R) static numbers.
            rows: (L,) which series of the fit each one is, to leave itself out.
        """
        if self.n_neighbours < 1 or self.bandwidth <= 0 or self.ages < 1:
            raise ParameterError("AnalogNew needs n_neighbours >= 1, bandwidth > 0 and ages >= 1")
        keep = slice(max(0, len(curves) - self.max_library), None)
        self.curves_ = np.asarray(curves, np.float64)[keep, : self.ages]
        self.categories_ = np.asarray(categories, np.int64)[keep]
        self.numbers_ = np.asarray(numbers, np.float64)[keep]
        count = len(curves)
        self.rows_ = np.asarray(np.arange(count) if rows is None else rows, np.int64)[keep]
        finite = np.isfinite(self.numbers_)
        if self.numbers_.size:
            top = np.where(finite, self.numbers_, -np.inf).max(axis=0)
            low = np.where(finite, self.numbers_, np.inf).min(axis=0)
            spread = top - low
            self.ranges_ = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
        else:
            self.ranges_ = np.ones(self.numbers_.shape[1])
        self.dispersion_ = self.dispersion or _dispersion(self.curves_)
        return self

    def forecast(
        self,
        own: NDArray,
        ages: NDArray[np.int64],
        h: int,
        categories: NDArray[np.int64],
        numbers: NDArray,
        rows: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Points (B, h) of new items.

        Args:
            own: (B, T) sales since launch, right-aligned, NaN before the launch.
            ages: (B,) periods since launch, 0 for an item not yet sold.
            h: periods ahead.
            categories: (B, C) as in the fit.
            numbers: (B, R) as in the fit.
            rows: (B,) which series of the fit each one is; it is left out of its own analogs.
        """
        result = np.full((len(own), h), np.nan)
        if not len(self.curves_):
            return result
        for start in range(0, len(own), 512):
            part = slice(start, start + 512)
            result[part] = self._chunk(
                own[part],
                ages[part],
                h,
                categories[part],
                numbers[part],
                None if rows is None else rows[part],
            )
        return result

    def distance(self, categories: NDArray[np.int64], numbers: NDArray) -> NDArray[np.float64]:
        """Gower distance (B, L) to the library; unknown attributes count as different."""
        count = self.categories_.shape[1] + self.numbers_.shape[1]
        total = np.zeros((len(categories), len(self.curves_)))
        for c in range(self.categories_.shape[1]):
            one, other = categories[:, c, None], self.categories_[None, :, c]
            total += (one != other) | (one == 0)
        for r in range(self.numbers_.shape[1]):
            gap = np.abs(numbers[:, r, None] - self.numbers_[None, :, r]) / self.ranges_[r]
            total += np.where(np.isfinite(gap), np.minimum(gap, 1.0), 1.0)
        return total / max(count, 1)

    def _chunk(
        self,
        own: NDArray,
        ages: NDArray[np.int64],
        h: int,
        categories: NDArray[np.int64],
        numbers: NDArray,
        rows: NDArray[np.int64] | None,
    ) -> NDArray[np.float64]:
        distance = self.distance(categories, numbers)
        if rows is not None:
            distance[(rows[:, None] == self.rows_[None, :]) & (rows >= 0)[:, None]] = np.inf
        near = min(self.n_neighbours, distance.shape[1])
        # Ties beyond the n-th nearest are let in together: their order is no information.
        limit = np.partition(distance, near - 1, axis=1)[:, near - 1 : near]
        limit = np.where(np.isfinite(limit), limit, 1.0)
        nearest = np.min(distance, axis=1, keepdims=True)
        nearest = np.where(np.isfinite(nearest), nearest, 0.0)
        chosen = distance <= limit + 1e-12
        weight = np.where(chosen, np.exp(-(distance - nearest) / self.bandwidth), 0.0)
        seen = np.isfinite(self.curves_)
        filled = np.where(seen, self.curves_, 0.0)
        number = seen.sum(axis=1)
        levels = np.where(number > 0, filled.sum(axis=1) / np.maximum(number, 1), 0.0)
        usable = (number > 0).astype(np.float64)
        total = np.maximum((weight * usable).sum(axis=1), 1e-300)
        mean = (weight @ (usable * levels)) / total
        variance = (weight @ (usable * levels**2)) / total - mean**2
        bottom = weight @ seen
        # Launch curves of different length: compare each item with its own level.
        rate = weight @ (seen * levels[:, None])
        shape = np.where(rate > 1e-12, (weight @ filled) / np.maximum(rate, 1e-12), np.nan)
        shape[bottom <= 0] = np.nan
        shape = _carry(shape)
        width = own.shape[1]
        position = ages[:, None] - width + np.arange(width)  # age of each column
        inside = (position >= 0) & np.isfinite(own)
        past = np.take_along_axis(shape, np.clip(position, 0, shape.shape[1] - 1), axis=1)
        exposure = np.where(inside, past, 0.0).sum(axis=1)
        sold = np.where(inside, own, 0.0).sum(axis=1)
        safe = np.maximum(mean, 1e-12)
        prior = self.shape if self.shape is not None else safe**2 / np.maximum(variance, 1e-12)
        prior = np.clip(prior, 0.05, 100.0)
        unit = self.dispersion_
        level = (prior + sold / unit) / (prior / safe + exposure / unit)
        ahead = np.clip(ages[:, None] + np.arange(h), 0, shape.shape[1] - 1)
        level = np.where(mean + sold > 0, np.maximum(level, 0), 0.0)
        return level[:, None] * np.take_along_axis(shape, ahead, axis=1)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """What was learned, as JSON values and arrays."""
        return {"dispersion": self.dispersion_}, {
            "curves": self.curves_,
            "categories": self.categories_,
            "numbers": self.numbers_,
            "rows": self.rows_,
            "ranges": self.ranges_,
        }

    def restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> Self:
        """The inverse of :meth:`state`."""
        self.dispersion_ = float(state["dispersion"])
        self.curves_, self.categories_ = arrays["curves"], arrays["categories"]
        self.numbers_, self.rows_ = arrays["numbers"], arrays["rows"]
        self.ranges_ = arrays["ranges"]
        return self


def _dispersion(curves: NDArray) -> float:
    """Variance over mean around level times common shape, over all launch curves; 1 without any."""
    seen = np.isfinite(curves)
    number = seen.sum(axis=1)
    filled = np.where(seen, curves, 0.0)
    level = filled.sum(axis=1) / np.maximum(number, 1)
    rate = (seen * level[:, None]).sum(axis=0)
    shape = filled.sum(axis=0) / np.where(rate > 0, rate, 1.0)
    mean = level[:, None] * shape
    use = seen & (mean > 0)
    freedom = int(use.sum() - (number > 0).sum() - curves.shape[1])
    if freedom < 10:
        return 1.0
    total = ((curves - mean)[use] ** 2 / mean[use]).sum()
    return float(max(total / freedom, 1e-6))


def _carry(shape: NDArray) -> NDArray[np.float64]:
    """Fills missing ages with the last known one; ages before any with 1."""
    seen = np.isfinite(shape)
    place = np.maximum.accumulate(np.where(seen, np.arange(shape.shape[1]), -1), axis=1)
    carried = np.take_along_axis(shape, np.maximum(place, 0), axis=1)
    return np.where(place >= 0, carried, 1.0)
