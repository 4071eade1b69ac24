"""Items whose demand answers to price: the elasticities are known (generator G1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.data.simulators.truth import (
    FloatArray,
    cells,
    checked_levels,
    negative_binomial,
    negative_binomial_quantiles,
)
from foretell.errors import ParameterError

_SIZE = 5.0
_EVENTS = ("spring_sale", "year_end")
_DRIFT = (0, 3, -2, 1, 2)  # weeks by which an event moves from year to year


@dataclass(frozen=True, eq=False)
class ElasticityTruth:
    """The parameters of :func:`elastic_demand`.

    Args:
        demand: demand of all simulated weeks, the held-out ones included.
        items: one row an item: group, level, elasticity, reference_price.
        effects: log effect of each event by group.
        mean: (N, W) expected demand.
        first: period number of step 0.
    """

    demand: Panel
    items: pl.DataFrame
    effects: pl.DataFrame
    mean: FloatArray
    first: int

    def quantiles(
        self, ids: Sequence[str], cutoffs: ArrayLike, horizon: int, levels: Sequence[float]
    ) -> FloatArray:
        """Quantiles (M, K, Q) of demand; weeks are independent given price and calendar."""
        total = self.mean.shape[1]
        at = cells(self.demand.positions, self.first, total, ids, cutoffs, horizon)
        means = self.mean[at.rows[:, None], at.steps][..., None]
        return negative_binomial_quantiles(means, np.ones(1), _SIZE, checked_levels(levels))


def elastic_demand(
    *,
    items: int = 500,
    groups: int = 10,
    holdout: int = 52,
    launch: bool = False,
    seed: int = 0,
) -> tuple[Panel, ElasticityTruth]:
    """Weekly counts with known price elasticities, seasons and event effects.

    ``y ~ NegBin(mean m, size 5)`` with ``log m = a_i + A_g sin(2 pi (w - phi_g) / 52) + eps_i
    log(p / p0) + sum_e d_ge 1{|t - e| <= 1}``; ``eps_i ~ N(-2.2, 0.6^2)``, ``a_i ~ N(3, 1)``, price
    cuts of 10 to 40 % in 8 % of the weeks, histories of 26, 104 or 156 weeks that end together.

    Args:
        items: number of series.
        groups: number of groups with a season of their own.
        holdout: weeks after the panel's end for which prices are known and truth holds demand.
        launch: new items grow along a curve of their group instead of starting at full demand.
        seed: the same seed gives the same data.

    Returns:
        The panel (known ``price`` and two events, static ``group`` and, where items are launched,
        the real attribute ``novelty`` on which the curve depends) and the truth.
    """
    if items < 1 or groups < 1 or holdout < 0:
        raise ParameterError(
            f"items and groups must be at least 1 and holdout 0, not {items}, {groups}, {holdout}"
        )
    rng = np.random.default_rng(seed)
    weeks = 156
    total = weeks + holdout
    frequency = Frequency.parse("W-MON")
    first = int(frequency.index(np.array(["2020-01-06"], "datetime64[us]"))[0])
    t = np.arange(total)
    group = rng.integers(groups, size=items)
    amplitude, phase = rng.uniform(0.1, 0.8, groups), rng.uniform(0, 52, groups)
    effect = rng.normal(0.5, 0.3, (groups, len(_EVENTS)))
    level = rng.normal(3.0, 1.0, items)
    elasticity = rng.normal(-2.2, 0.6, items)
    reference = np.round(np.exp(rng.normal(1.5, 0.5, items)), 2)
    cut = np.where(rng.random((items, total)) < 0.08, rng.uniform(0.1, 0.4, (items, total)), 0.0)
    price = reference[:, None] * (1 - cut)
    length = rng.choice([26, 104, 156], items)
    begin = weeks - length

    # Moving events: their week drifts from year to year.
    dates = {
        name: np.array([base + 52 * y + _DRIFT[y % 5] for y in range(total // 52 + 1)])
        for name, base in zip(_EVENTS, (14, 50), strict=True)
    }
    near = {n: (np.abs(t[:, None] - d) <= 1).any(1).astype(float) for n, d in dates.items()}
    flags = {n: np.isin(t, d).astype(float) for n, d in dates.items()}

    log_mean = level[:, None] + amplitude[group, None] * np.sin(
        2 * np.pi * (t[None, :] - phase[group, None]) / 52
    )
    log_mean += elasticity[:, None] * np.log(price / reference[:, None])
    for e, name in enumerate(_EVENTS):
        log_mean += effect[group, e][:, None] * near[name][None, :]
    novelty = rng.uniform(0, 1, items)
    if launch:
        age = np.maximum(t[None, :] - begin[:, None], 0)
        curve = -3.0 * novelty[:, None] * np.exp(-age / (4 + 8 * novelty[:, None]))
        log_mean += np.where((begin > 0)[:, None], curve, 0.0)
    mean = np.exp(log_mean)
    demand = negative_binomial(rng, mean, _SIZE)

    names = np.array([f"item{i + 1:04d}" for i in range(items)], object)
    inside = t[None, :] >= begin[:, None]
    known = {
        "price": price[inside].astype(np.float32),
        **{
            name: np.broadcast_to(flag, mean.shape)[inside].astype(np.float32)
            for name, flag in flags.items()
        },
    }
    real = {"novelty": novelty.astype(np.float32)} if launch else {}

    def panel(steps: int) -> Panel:
        lengths = steps - begin
        return Panel(
            names,
            frequency,
            first + begin,
            np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64),
            lengths,
            demand[:, :steps][inside[:, :steps]].astype(np.float32),
            known=known,
            known_begins=np.r_[0, np.cumsum(total - begin)[:-1]].astype(np.int64),
            known_lengths=total - begin,
            static_categorical={
                "group": Categorical.from_values([f"group{g + 1:02d}" for g in group])
            },
            static_real=real,
            events=_EVENTS,
        )

    truth = ElasticityTruth(
        demand=panel(total),
        items=pl.DataFrame(
            {
                "unique_id": list(names),
                "group": [f"group{g + 1:02d}" for g in group],
                "level": level,
                "elasticity": elasticity,
                "reference_price": reference,
            }
        ),
        effects=pl.DataFrame(
            [
                {"group": f"group{g + 1:02d}", "event": name, "log_effect": effect[g, e]}
                for g in range(groups)
                for e, name in enumerate(_EVENTS)
            ]
        ),
        mean=mean,
        first=first,
    )
    return panel(weeks), truth
