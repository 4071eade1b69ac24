"""Uncertainty that grows with the horizon, with a skewed error (generator C1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foretell.data.frequency import Frequency
from foretell.data.panel import Panel
from foretell.data.simulators.truth import FloatArray, cells, checked_levels
from foretell.errors import ParameterError

CONE_FEATURES = ("z1", "z2", "z3", "z4")
_ASYMMETRY = 0.35  # of the asymmetric Laplace error: its mass below zero


@dataclass(frozen=True, eq=False)
class ConeTruth:
    """Centre and scale of every cell of :func:`cones`.

    Args:
        demand: the panel itself, all cycles.
        centre: (N, W) the level below which a share of 0.35 of the outcomes lies.
        scale: (N, W) scale of the asymmetric Laplace error.
        cycle: steps a cycle; a forecast from a cycle's end sees scale grow with sqrt(k).
    """

    demand: Panel
    centre: FloatArray
    scale: FloatArray
    cycle: int

    def quantiles(
        self, ids: Sequence[str], cutoffs: ArrayLike, horizon: int, levels: Sequence[float]
    ) -> FloatArray:
        """Quantiles (M, K, Q) of the outcomes given the features of their cycle."""
        at = cells(self.demand.positions, 0, self.centre.shape[1], ids, cutoffs, horizon)
        error = asymmetric_laplace_quantiles(checked_levels(levels))
        where = (at.rows[:, None], at.steps)
        return self.centre[where][..., None] + self.scale[where][..., None] * error


def cones(
    *, series: int = 300, cycles: int = 20, horizon: int = 12, seed: int = 0
) -> tuple[Panel, ConeTruth]:
    """``y = mu(z) + sigma(z) sqrt(k) e`` with e asymmetric Laplace: every quantile is known.

    Time runs in cycles of ``horizon`` steps. Features z are drawn anew for each cycle and known
    ahead, so is ``log_k``, the logarithm of the step within the cycle: cut at the end of a cycle,
    step k of the forecast has a spread proportional to sqrt(k). Outcomes are independent given the
    features. (Given k itself, a network learns the bend at k = 1 too slowly and is too wide there,
    by 0.035 in coverage after 2,000 steps whatever its size; given the logarithm by 0.015.)

    Args:
        series: number of series N.
        cycles: cycles a series.
        horizon: steps a cycle.
        seed: the same seed gives the same data.

    Returns:
        The panel (integer time from 0, known covariates z1..z4 and log_k) and the truth. Cut it by
        a multiple of ``horizon``.
    """
    if min(series, cycles, horizon) < 1:
        raise ParameterError("series, cycles and horizon must be at least 1")
    rng = np.random.default_rng(seed)
    steps = cycles * horizon
    z = rng.normal(size=(series, cycles, len(CONE_FEATURES)))
    k = np.tile(np.arange(1, horizon + 1), cycles)
    mu = 20 + 4 * z[..., 0] + 3 * np.maximum(z[..., 1], 0) - 2 * z[..., 0] * z[..., 2]
    sigma = 0.8 * np.exp(0.4 * z[..., 3])
    centre = np.repeat(mu, horizon, axis=1)
    scale = np.repeat(sigma, horizon, axis=1) * np.sqrt(k)[None, :]
    error = asymmetric_laplace_quantiles(rng.random((series, steps)))
    features = {
        name: np.repeat(z[..., i], horizon, axis=1).ravel().astype(np.float32)
        for i, name in enumerate(CONE_FEATURES)
    }
    lengths = np.full(series, steps, np.int64)
    begins = np.arange(series, dtype=np.int64) * steps
    panel = Panel(
        np.array([f"series{i + 1:04d}" for i in range(series)], object),
        Frequency(),
        np.zeros(series, np.int64),
        begins,
        lengths,
        (centre + scale * error).ravel().astype(np.float32),
        known={**features, "log_k": np.tile(np.log(k), series).astype(np.float32)},
        known_begins=begins,
        known_lengths=lengths,
    )
    return panel, ConeTruth(panel, centre, scale, horizon)


def asymmetric_laplace_quantiles(levels: FloatArray) -> FloatArray:
    """Quantiles of the error: density ``p (1 - p) exp(-rho_p(e))``, whose p-quantile is 0."""
    p = _ASYMMETRY
    below = np.log(np.maximum(levels, 1e-300) / p) / (1 - p)
    above = -np.log(np.maximum(1 - levels, 1e-300) / (1 - p)) / p
    return np.where(levels < p, below, above)
