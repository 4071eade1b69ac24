"""A shop whose demand is known: prices, promotions, moving holidays, launches, stock-outs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.calendar import easter_sunday
from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.data.simulators.truth import (
    Cells,
    FloatArray,
    IntArray,
    cells,
    checked_levels,
    negative_binomial,
    negative_binomial_quantiles,
    normal_nodes,
)
from foretell.errors import ParameterError

CATEGORIES = ("beverages", "garden", "household", "snacks", "toys")
BRANDS = ("Alder", "Birch", "Cedar", "Hazel", "Maple", "Rowan")
EVENTS = ("easter", "black_friday", "christmas")
OFFSETS = (-1, 0, 1)
_PERSISTENCE = 0.9  # of an item's interest from week to week
_INTEREST = 0.2  # its standard deviation over time, in log units
_FIRST_WEEK = date(2021, 1, 3)


@dataclass(frozen=True, eq=False)
class ShopTruth:
    """What the simulated shop hides from a forecaster.

    Args:
        demand: uncensored demand of all simulated weeks, the future ones included, with the same
            covariates as the panel.
        items: one row an item: category, brand, level, elasticity, promotion_lift, growth a year,
            size (inverse dispersion), launch (period number of the first week).
        effects: log effect of each event by category and week offset.
        seasons: log amplitude and peak (weeks from the year's begin) by category.
        mean_without_interest: (N, W) expected demand at an interest of zero.
        interest: (N, W) latent log interest of the item; page views show it with noise.
        size: (N,) inverse dispersion.
        first: period number of step 0.
    """

    demand: Panel
    items: pl.DataFrame
    effects: pl.DataFrame
    seasons: pl.DataFrame
    mean_without_interest: FloatArray
    interest: FloatArray
    size: FloatArray
    first: int

    def quantiles(
        self, ids: Sequence[str], cutoffs: ArrayLike, horizon: int, levels: Sequence[float]
    ) -> FloatArray:
        """Quantiles (M, K, Q) of demand given prices, calendar and the interest at the cutoff."""
        at = self._cells(ids, cutoffs, horizon)
        nodes, weights = normal_nodes(11)
        centre, spread = self._interest_ahead(at)
        interest = centre[..., None] + spread[None, :, None] * nodes
        means = self.mean_without_interest[at.rows[:, None], at.steps][..., None] * np.exp(interest)
        size = np.broadcast_to(self.size[at.rows][:, None], at.steps.shape)
        return negative_binomial_quantiles(means, weights, size, checked_levels(levels))

    def sample(
        self, ids: Sequence[str], cutoffs: ArrayLike, horizon: int, n: int, seed: int = 0
    ) -> FloatArray:
        """Paths (n, M, K) of demand after each cutoff: for demand over a lead time."""
        at = self._cells(ids, cutoffs, horizon)
        rng = np.random.default_rng(seed)
        state = np.broadcast_to(self.interest[at.rows, at.cutoffs], (n, len(at.rows)))
        paths = np.empty((n, *at.steps.shape))
        noise = _INTEREST * np.sqrt(1 - _PERSISTENCE**2)
        for k in range(horizon):
            state = _PERSISTENCE * state + noise * rng.normal(size=state.shape)
            mean = self.mean_without_interest[at.rows, at.steps[:, k]] * np.exp(state)
            paths[:, :, k] = negative_binomial(rng, mean, self.size[at.rows])
        return paths

    def _cells(self, ids: Sequence[str], cutoffs: ArrayLike, horizon: int) -> Cells:
        total = self.interest.shape[1]
        return cells(self.demand.positions, self.first, total, ids, cutoffs, horizon)

    def _interest_ahead(self, at: Cells) -> tuple[FloatArray, FloatArray]:
        ahead = np.arange(1, at.steps.shape[1] + 1)
        centre = self.interest[at.rows, at.cutoffs][:, None] * _PERSISTENCE**ahead
        return centre, _INTEREST * np.sqrt(1 - _PERSISTENCE ** (2 * ahead))


def shop(
    *,
    items: int = 40,
    stores: int = 5,
    weeks: int = 156,
    horizon: int = 13,
    new_share: float = 0.2,
    stockout_rate: float = 0.03,
    return_rate: float = 0.002,
    seed: int = 0,
) -> tuple[Panel, ShopTruth]:
    """Weekly sales of ``items`` x ``stores`` with everything a planner meets.

    Demand is negative binomial; the logarithm of its mean is level + store + growth + season of
    the category + elasticity * log(price / first price) + promotion lift + event effects in the
    weeks -1, 0, 1 around moving dates + launch curve + a latent interest, an AR(1) process shared
    by an item's stores and seen through the past covariate ``page_views``. Sales are demand cut
    by the stock on hand (``censored``), less a few returned goods (which can make them negative).

    Args:
        items: number of products; each is sold in every store.
        stores: number of stores.
        weeks: observed weeks.
        horizon: further weeks for which prices, promotions and events are planned.
        new_share: share of the items launched within the observed weeks.
        stockout_rate: share of weeks with little stock.
        return_rate: share of weeks in which goods come back in bulk.
        seed: the same seed gives the same shop.

    Returns:
        The panel (known covariates ``price``, ``promotion`` and the events) and the truth.
    """
    if items < 1 or stores < 1 or weeks < 30 or horizon < 0:
        raise ParameterError(
            f"a shop needs at least 1 item, 1 store, 30 weeks and a horizon of 0, not "
            f"{items}, {stores}, {weeks}, {horizon}"
        )
    rng = np.random.default_rng(seed)
    total = weeks + horizon
    frequency = Frequency.parse("W-SUN")
    first = int(frequency.index(np.array([_FIRST_WEEK], "datetime64[us]"))[0])
    sundays = frequency.time(first + np.arange(total))
    flags = {name: _event_weeks(name, sundays) for name in EVENTS}

    # Each line of goods has its own season, sensitivity to price and way of being launched.
    kinds = len(CATEGORIES)
    amplitude = rng.uniform(0.1, 0.6, kinds)
    amplitude[CATEGORIES.index("garden")] = 0.9
    peak = rng.uniform(0, 52, kinds)
    slope = rng.uniform(-3.0, -1.4, kinds)
    effect = rng.normal([-0.05, 0.5, -0.2], [0.05, 0.25, 0.08], (kinds, len(EVENTS), len(OFFSETS)))
    effect[:, :, 0] = 0.3 * effect[:, :, 1]
    depth, haste = rng.uniform(0.8, 2.0, kinds), rng.uniform(3.0, 9.0, kinds)

    kind = rng.permutation(np.arange(items) % kinds)
    brand = rng.integers(len(BRANDS), size=items)
    brand_level = rng.normal(0, 0.3, len(BRANDS))
    level = 2.6 + brand_level[brand] + rng.normal(0, 0.7, items)
    elasticity = np.minimum(slope[kind] + rng.normal(0, 0.4, items), -0.3)
    lift = rng.normal(0.35, 0.1, items)
    growth = rng.normal(0, 0.06, items)
    size = 8 * np.exp(rng.normal(0, 0.4, items))
    launch = _launches(rng, items, weeks, new_share)
    first_price = np.round(3 * np.exp(rng.normal(0.3 * kind / kinds, 0.6, items)), 2)
    price, promotion = _prices(rng, first_price, total)
    store_level = rng.normal(0, 0.4, stores)

    year = np.arange(total)[None, :] / 52.1775
    log_mean = level[:, None] + growth[:, None] * year
    week_of_year = _weeks_into_year(sundays)
    log_mean += amplitude[kind, None] * np.cos(
        2 * np.pi * (week_of_year[None, :] - peak[kind, None]) / 52.1775
    )
    log_mean += elasticity[:, None] * np.log(price / first_price[:, None])
    log_mean += lift[:, None] * promotion
    for e, name in enumerate(EVENTS):
        for o, offset in enumerate(OFFSETS):
            log_mean += effect[kind, e, o][:, None] * _shifted(flags[name], offset)[None, :]
    age = np.arange(total)[None, :] - launch[:, None]
    new = (launch > 0)[:, None] & (age >= 0)
    curve = -depth[kind, None] * np.exp(-np.maximum(age, 0) / haste[kind, None])
    log_mean += np.where(new, curve, 0.0)
    interest = _interest(rng, items, total)
    views = rng.poisson(150 * np.exp(0.5 * (level[:, None] - 2.6) + 2 * interest)).astype(float)

    # From items to series: store by store.
    item = np.repeat(np.arange(items), stores)
    place = np.tile(np.arange(stores), items)
    base = np.exp(log_mean[item] + store_level[place, None])
    mean = base * np.exp(interest[item])
    demand = negative_binomial(rng, mean, size[item][:, None])
    sales, censored = _limit_by_stock(rng, demand, mean, stockout_rate)
    back = rng.random(sales.shape) < return_rate
    sales = sales - np.where(back, rng.poisson(2 + 0.8 * mean), 0)

    begin = launch[item]
    parts = {
        "price": price[item],
        "promotion": promotion[item],
        **{name: np.broadcast_to(flag, base.shape) for name, flag in flags.items()},
    }
    names = np.array([f"item{i + 1:03d}_store{s + 1}" for i, s in zip(item, place, strict=True)])

    def panel(values: FloatArray, steps: int, cut: NDArray[np.bool_] | None) -> Panel:
        return Panel(
            names.astype(object),
            frequency,
            first + begin,
            _begins(steps - begin),
            steps - begin,
            _flat(values[:, :steps], begin),
            censored=None if cut is None else _flat(cut[:, :steps], begin).astype(bool),
            past={"page_views": _flat(views[item][:, :steps], begin)},
            known={name: _flat(part, begin) for name, part in parts.items()},
            known_begins=_begins(total - begin),
            known_lengths=total - begin,
            static_categorical={
                "item": Categorical.from_values([f"item{i + 1:03d}" for i in item]),
                "category": Categorical.from_values([CATEGORIES[k] for k in kind[item]]),
                "brand": Categorical.from_values([BRANDS[b] for b in brand[item]]),
                "store": Categorical.from_values([f"store{s + 1}" for s in place]),
            },
            static_real={"regular_price": first_price[item].astype(np.float32)},
            events=EVENTS,
        )

    observed = panel(sales, weeks, censored)
    truth = ShopTruth(
        demand=panel(demand, total, None),
        items=pl.DataFrame(
            {
                "item": [f"item{i + 1:03d}" for i in range(items)],
                "category": [CATEGORIES[k] for k in kind],
                "brand": [BRANDS[b] for b in brand],
                "level": level,
                "elasticity": elasticity,
                "promotion_lift": lift,
                "growth": growth,
                "size": size,
                "launch": first + launch,
            }
        ),
        effects=pl.DataFrame(
            [
                {"category": c, "event": e, "offset": o, "log_effect": effect[i, j, k]}
                for i, c in enumerate(CATEGORIES)
                for j, e in enumerate(EVENTS)
                for k, o in enumerate(OFFSETS)
            ]
        ),
        seasons=pl.DataFrame(
            {"category": CATEGORIES, "log_amplitude": amplitude, "peak_week": peak}
        ),
        mean_without_interest=base,
        interest=interest[item],
        size=size[item],
        first=first,
    )
    return observed, truth


def _event_date(name: str, year: int) -> date:
    if name == "easter":
        return easter_sunday(year).astype(date)
    if name == "christmas":
        return date(year, 12, 25)
    november = date(year, 11, 1)
    fourth_thursday = november + timedelta(days=(3 - november.weekday()) % 7 + 21)
    return fourth_thursday + timedelta(days=1)


def _event_weeks(name: str, sundays: NDArray) -> FloatArray:
    """1 in the week (W,), Monday to the given Sunday, that holds the event."""
    days = sundays.astype("datetime64[D]")
    years = range(days[0].astype(object).year - 1, days[-1].astype(object).year + 2)
    dates = np.array([_event_date(name, y) for y in years], "datetime64[D]")
    ahead = (days[:, None] - dates[None, :]).astype(np.int64)
    return ((ahead >= 0) & (ahead < 7)).any(1).astype(np.float64)


def _weeks_into_year(sundays: NDArray) -> FloatArray:
    days = sundays.astype("datetime64[D]")
    return (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64) / 7


def _shifted(flag: FloatArray, offset: int) -> FloatArray:
    """The flag ``offset`` weeks after its event: offset -1 marks the week before."""
    moved = np.zeros_like(flag)
    if offset > 0:
        moved[offset:] = flag[:-offset]
    elif offset < 0:
        moved[:offset] = flag[-offset:]
    else:
        moved[:] = flag
    return moved


def _launches(rng: np.random.Generator, items: int, weeks: int, share: float) -> IntArray:
    launch = np.zeros(items, np.int64)
    new = rng.permutation(items)[: round(share * items)]
    launch[new] = rng.integers(weeks // 6, weeks - 12, len(new))
    recent = new[: len(new) // 4]  # what makes cold starts: a few weeks of history
    launch[recent] = rng.integers(weeks - 12, weeks - 2, len(recent))
    return launch


def _prices(
    rng: np.random.Generator, first_price: FloatArray, weeks: int
) -> tuple[FloatArray, FloatArray]:
    """Prices and promotion flags, each (I, W)."""
    items = len(first_price)
    changes = rng.random((items, weeks)) < 2 / 52
    change = np.where(changes, rng.choice([-0.05, 0.05], (items, weeks)), 0.0)
    change[:, 0] = 0
    regular = first_price[:, None] * np.exp(np.cumsum(change, 1))
    begins = rng.random((items, weeks)) < 0.055
    second = rng.random((items, weeks)) < 0.5
    promotion = begins.copy()
    promotion[:, 1:] |= begins[:, :-1] & second[:, :-1]
    depth = rng.choice([0.1, 0.2, 0.3, 0.4], (items, weeks))
    depth[:, 1:] = np.where(begins[:, 1:], depth[:, 1:], depth[:, :-1])
    price = np.where(promotion, regular * (1 - depth), regular)
    return np.maximum(np.round(price, 2), 0.01), promotion.astype(np.float64)


def _interest(rng: np.random.Generator, items: int, weeks: int) -> FloatArray:
    interest = np.empty((items, weeks))
    interest[:, 0] = _INTEREST * rng.normal(size=items)
    noise = _INTEREST * np.sqrt(1 - _PERSISTENCE**2)
    for t in range(1, weeks):
        interest[:, t] = _PERSISTENCE * interest[:, t - 1] + noise * rng.normal(size=items)
    return interest


def _limit_by_stock(
    rng: np.random.Generator, demand: FloatArray, mean: FloatArray, rate: float
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Sales and where the stock cut them, in spells of one to three weeks."""
    begins = rng.random(demand.shape) < rate / 2
    spell = rng.integers(1, 4, demand.shape)
    low = begins.copy()
    for later in (1, 2):
        low[:, later:] |= begins[:, :-later] & (spell[:, :-later] > later)
    stock = np.where(low, np.floor(rng.uniform(0.1, 0.8, demand.shape) * mean), np.inf)
    return np.minimum(demand, stock), demand > stock


def _begins(lengths: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def _flat(values: ArrayLike, begin: IntArray) -> NDArray[np.float32]:
    """The steps from ``begin`` on of an array (N, W), series after series."""
    values = np.asarray(values)
    return values[np.arange(values.shape[1])[None, :] >= begin[:, None]].astype(np.float32)
