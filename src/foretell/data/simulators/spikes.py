"""Sharp promotion spikes that are known ahead (generator D1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.data.simulators.truth import FloatArray, cells, checked_levels
from foretell.errors import ParameterError

_NOISE = 0.2
_PHASES = {"winter": 0.0, "spring": 13.0, "summer": 26.0, "autumn": 39.0}


@dataclass(frozen=True, eq=False)
class SpikeTruth:
    """The medians and promotion effects of :func:`spikes`.

    Args:
        demand: demand of all simulated weeks, the future ones included.
        median: (N, W) median demand.
        effect: (N,) log effect b of a promotion.
        promotion: (N, W) 1 in promoted weeks.
        first: period number of step 0.
    """

    demand: Panel
    median: FloatArray
    effect: FloatArray
    promotion: FloatArray
    first: int

    def quantiles(
        self, ids: Sequence[str], cutoffs: ArrayLike, horizon: int, levels: Sequence[float]
    ) -> FloatArray:
        """Quantiles (M, K, Q) of demand: lognormal with a log standard deviation of 0.2."""
        total = self.median.shape[1]
        at = cells(self.demand.positions, self.first, total, ids, cutoffs, horizon)
        factor = np.exp(_NOISE * special.ndtri(checked_levels(levels)))
        return self.median[at.rows[:, None], at.steps][..., None] * factor


def spikes(
    *, series: int = 300, weeks: int = 156, horizon: int = 13, rate: float = 0.05, seed: int = 0
) -> tuple[Panel, SpikeTruth]:
    """``y = level_i (1 + 0.3 sin) exp(b_i promo) e``, promotions known ahead in 5 % of the weeks.

    ``b_i = 1.2 + 0.3 x_i`` with the static attribute ``x_i ~ N(0, 1)`` given as ``sensitivity``;
    e is lognormal with a log standard deviation of 0.2; the sine's phase is that of the series'
    static ``season``.

    Args:
        series: number of series N.
        weeks: observed weeks.
        horizon: further weeks for which promotions are known.
        rate: share of promoted weeks.
        seed: the same seed gives the same data.

    Returns:
        The panel and the truth.
    """
    if min(series, weeks) < 1 or horizon < 0:
        raise ParameterError("series and weeks must be at least 1, the horizon at least 0")
    rng = np.random.default_rng(seed)
    total = weeks + horizon
    frequency = Frequency.parse("W-MON")
    first = int(frequency.index(np.array(["2020-01-06"], "datetime64[us]"))[0])
    level = np.exp(rng.normal(3.5, 1.0, series))
    sensitivity = rng.normal(size=series)
    effect = 1.2 + 0.3 * sensitivity
    season = rng.integers(len(_PHASES), size=series)
    phase = np.array(list(_PHASES.values()))[season]
    promotion = (rng.random((series, total)) < rate).astype(np.float64)
    wave = 1 + 0.3 * np.sin(2 * np.pi * (np.arange(total)[None, :] - phase[:, None]) / 52)
    median = level[:, None] * wave * np.exp(effect[:, None] * promotion)
    values = median * np.exp(_NOISE * rng.normal(size=median.shape))
    names = np.array([f"series{i + 1:04d}" for i in range(series)], object)

    def panel(steps: int) -> Panel:
        return Panel(
            names,
            frequency,
            np.full(series, first, np.int64),
            np.arange(series, dtype=np.int64) * steps,
            np.full(series, steps, np.int64),
            values[:, :steps].ravel().astype(np.float32),
            known={"promotion": promotion.ravel().astype(np.float32)},
            known_begins=np.arange(series, dtype=np.int64) * total,
            known_lengths=np.full(series, total, np.int64),
            static_categorical={
                "season": Categorical.from_values([list(_PHASES)[s] for s in season])
            },
            static_real={"sensitivity": sensitivity.astype(np.float32)},
        )

    return panel(weeks), SpikeTruth(panel(total), median, effect, promotion, first)
