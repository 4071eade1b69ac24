"""Intervals for scores when cells of one series are not independent: resample whole series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

_WEIGHTS_AT_ONCE = 20_000_000
_MOST_CLUSTERS = 10_000


class Interval(NamedTuple):
    """An estimate with its percentile interval; arrays when several scores were asked for."""

    estimate: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def cluster_bootstrap(
    sums: NDArray,
    statistic: Callable[[NDArray], NDArray],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of sums over clusters (series).

    Drawing series with replacement only changes how often each one's sums count, so a resample is
    one row of multinomial counts and all resamples are one matrix product. More than 10,000
    clusters are first added up in 10,000 random groups: groups of independent clusters are
    independent clusters, and as many of them pin the interval down well enough.

    Args:
        sums: (N, C) what each cluster adds to each of C sums.
        statistic: (R, C) sums -> (R,) or (R, S) statistics.
        resamples: number R.
        confidence: share of the resamples inside the interval.
        seed: the same seed and N draw the same series, so that intervals of several statistics go
            together.

    Raises:
        ParameterError: no cluster, or a number out of range.
    """
    sums = np.asarray(sums, np.float64)
    if len(sums) == 0:
        raise ParameterError("there is no series to resample")
    check_bootstrap(resamples, confidence)
    estimate = statistic(sums.sum(axis=0, keepdims=True))[0]
    sums = _grouped(sums, seed)
    draws = np.concatenate(
        [statistic(w @ sums) for w in cluster_weights(len(sums), resamples, seed)]
    )
    return percentile_interval(estimate, draws, confidence)


def check_bootstrap(resamples: int, confidence: float, *, least: int = 1) -> None:
    """Refuses numbers of a bootstrap that are out of range; ``least`` is 0 where none is one."""
    if resamples < least or not 0 < confidence < 1:
        raise ParameterError(
            f"resamples must be at least {least} and confidence inside (0, 1), not {resamples} and "
            f"{confidence}"
        )


def percentile_interval(estimate: NDArray, draws: NDArray, confidence: float) -> Interval:
    """The interval that holds a share of draws (R,) or (R, S); NaN where none is defined.

    Args:
        estimate: () or (S,).
        draws: of the same in R resamples; none gives no interval.
        confidence: the share.
    """
    tail = (1 - confidence) / 2
    defined = ~np.isnan(draws).all(axis=0)
    bounds = np.full((2, *draws.shape[1:]), np.nan)
    if defined.ndim == 0:
        if defined:
            bounds[:] = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    elif defined.any():
        bounds[:, defined] = np.nanquantile(draws[:, defined], [tail, 1 - tail], axis=0)
    return Interval(np.asarray(estimate), bounds[0], bounds[1])


def _grouped(sums: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Random groups of clusters, of sizes that differ by one at most."""
    if len(sums) <= _MOST_CLUSTERS:
        return sums
    order = np.random.default_rng(seed).permutation(len(sums))
    begins = np.linspace(0, len(sums), _MOST_CLUSTERS, endpoint=False).astype(np.int64)
    return np.add.reduceat(sums[order], begins, axis=0)


def cluster_weights(size: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each of ``size`` clusters is drawn (r, size), in parts that fit in memory."""
    rng = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_ONCE // size)
    even = np.full(size, 1 / size)
    for begin in range(0, resamples, step):
        yield rng.multinomial(size, even, size=min(step, resamples - begin)).astype(np.float64)
