"""The patchwork at one origin: add-ons fitted on what was known, and points made with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from foretell.data.panel import Panel
from foretell.learners.demand.legacy.analog import AnalogNew
from foretell.learners.demand.legacy.elasticity import PriceElasticity
from foretell.learners.demand.legacy.events import EventAddon
from foretell.learners.demand.legacy.history import History, last_values, trailing_mean
from foretell.learners.demand.legacy.point_models import PointModel, default_window, median_of
from foretell.learners.demand.legacy.router import Router
from foretell.learners.demand.legacy.seasonal import SeasonalAddon

CHUNK = 16384
"""Series that are forecast at a time: what bounds memory."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What the patchwork is made of; unfitted, shared by every origin."""

    h: int
    season: int
    router: Router
    models: Mapping[str, Sequence[PointModel]]
    seasonal: SeasonalAddon | None
    events: EventAddon | None
    price: PriceElasticity | None
    new_items: AnalogNew | None
    longest: int


@dataclass(eq=False)
class Points:
    """Point forecasts of N series with what made them up."""

    point: NDArray[np.float64]
    level: NDArray[np.float64]
    season: NDArray[np.float64]
    event: NDArray[np.float64]
    price: NDArray[np.float64]
    local: NDArray[np.float64]
    route: NDArray[np.int64]
    rule: NDArray[np.int64]
    features: dict[str, NDArray[np.float64]]
    extrapolated: NDArray[np.bool_]
    fallback: NDArray[np.bool_]
    returns: NDArray[np.bool_]
    needs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def concat(cls, parts: Sequence[Points]) -> Points:
        """Parts below one another."""
        if len(parts) == 1:
            return parts[0]
        arrays: dict[str, Any] = {}
        for name in cls.__dataclass_fields__:
            if name == "features":
                keys = parts[0].features
                arrays[name] = {k: np.concatenate([p.features[k] for p in parts]) for k in keys}
            else:
                arrays[name] = np.concatenate([getattr(p, name) for p in parts])
        return cls(**arrays)


class Patchwork:
    """Add-ons fitted on a panel, and the point forecasts they lead to."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seasonal: SeasonalAddon | None = None
        self.events: EventAddon | None = None
        self.price: PriceElasticity | None = None
        self.new_items: AnalogNew | None = None

    def fit(
        self,
        panel: Panel,
        groups: NDArray[np.int64],
        attributes: tuple[NDArray[np.int64], NDArray],
    ) -> Self:
        """Learns the add-ons from a panel's past.

        Args:
            panel: the series; positions in it become the rows that add-ons know.
            groups: (N,) group codes.
            attributes: static category codes (N, C) and numbers (N, R), for analogs.
        """
        plan = self.plan
        history = History.of(panel, plan.longest)
        rows = np.arange(len(panel))
        values = history.values
        width = values.shape[1]
        if plan.events is not None:
            self.events = clone(plan.events).fit(panel, history, groups, rows)
            values = values / self.events.factor(panel, rows, panel.lengths, width, groups)
        self._fit_seasonal(values, history, panel, groups)
        if self._priced(panel):
            assert plan.price is not None
            prices = panel.known_windows(plan.price.column, rows, panel.lengths, width)
            feature = self._feature(panel, rows, panel.lengths, width)
            # The season of the group, not of the series: a series' own index has learned from
            # its own price cuts, and would hide a part of their effect.
            season = self._season(history.periods, groups, np.full(len(panel), -1))
            self.price = clone(plan.price).fit(
                values / season, prices.astype(float), groups, feature
            )
            effect, _ = self.price.factor(prices.astype(float), width, rows, groups, feature)
            values = values / effect
            self._fit_seasonal(values, history, panel, groups)
        seasonless = values / self._season(history.periods, groups, rows)
        if plan.new_items is not None:
            self.new_items = self._fit_analog(history, seasonless, rows, attributes, panel)
        return self

    def _fit_seasonal(
        self, values: NDArray, history: History, panel: Panel, groups: NDArray[np.int64]
    ) -> None:
        if self.plan.seasonal is None:
            return
        freed = History(values, history.ends, history.lengths)
        self.seasonal = clone(self.plan.seasonal).fit(
            freed, panel.frequency, self.plan.season, groups
        )

    def _fit_analog(
        self,
        history: History,
        seasonless: NDArray,
        rows: NDArray[np.int64],
        attributes: tuple[NDArray[np.int64], NDArray],
        panel: Panel,
    ) -> AnalogNew:
        """The library: series whose launch was seen, or all where none was."""
        plan = self.plan
        assert plan.new_items is not None
        observed = np.isfinite(seasonless).sum(axis=1)
        long_enough = observed >= 8
        launched = long_enough & (panel.starts > panel.starts.min(initial=0) + 4)
        launched &= history.lengths <= seasonless.shape[1]
        if launched.sum() < 10:
            launched = long_enough
        chosen = np.flatnonzero(launched)
        if len(chosen) > plan.new_items.max_library:
            latest = np.argsort(panel.starts[chosen], kind="stable")
            chosen = np.sort(chosen[latest[-plan.new_items.max_library :]])
        curves = launch_curves(seasonless[chosen], history.lengths[chosen], plan.new_items.ages)
        return clone(plan.new_items).fit(
            curves, attributes[0][chosen], attributes[1][chosen], rows[chosen]
        )

    def forecast(
        self,
        panel: Panel,
        groups: NDArray[np.int64],
        rows: NDArray[np.int64],
        attributes: tuple[NDArray[np.int64], NDArray],
        *,
        route: NDArray[np.int64] | None = None,
    ) -> Points:
        """Points after the ends of a panel's series.

        Args:
            panel: the series.
            groups: (N,) group codes.
            rows: (N,) positions in the panel of the fit, -1 for series that were not there.
            attributes: as in :meth:`fit`.
            route: (N,) routes to take instead of the router's.
        """
        parts = []
        for start in range(0, max(1, len(panel)), CHUNK):
            part = np.arange(start, min(start + CHUNK, len(panel)))
            own = (attributes[0][part], attributes[1][part])
            chosen = None if route is None else route[part]
            parts.append(self._chunk(panel.select(part), groups[part], rows[part], own, chosen))
        return Points.concat(parts)

    def _chunk(
        self,
        panel: Panel,
        groups: NDArray[np.int64],
        rows: NDArray[np.int64],
        attributes: tuple[NDArray[np.int64], NDArray],
        route: NDArray[np.int64] | None,
    ) -> Points:
        plan, h = self.plan, self.plan.h
        history = History.of(panel, plan.longest)
        n, width = history.values.shape
        everyone = np.arange(n)
        decided, features, rule = plan.router.route(history.values, plan.season)
        route = decided if route is None else route
        stops, size = panel.lengths + h, width + h
        event = np.ones((n, size))
        if self.events is not None:
            event = self.events.factor(panel, everyone, stops, size, groups)
        price, outside = np.ones((n, size)), np.zeros((n, size), bool)
        if self.price is not None and self._priced(panel):
            prices = panel.known_windows(self.price.column, everyone, stops, size).astype(float)
            feature = self._feature(panel, everyone, stops, size)
            price, outside = self.price.factor(prices, width, rows, groups, feature)
        periods = np.concatenate([history.periods, history.future(h)], axis=1)
        season = self._season(periods, groups, rows)
        adjusted = history.values / (event[:, :width] * price[:, :width])
        seasonless = adjusted / season[:, :width]

        base = np.full((n, h), np.nan)
        used = np.zeros(n, bool)
        needs = np.zeros(n, np.int64)
        for r, name in enumerate(plan.router.routes):
            at = np.flatnonzero(route == r)
            if not len(at):
                continue
            if name == "new" and self.new_items is not None:
                ages = history.lengths[at]
                base[at] = self.new_items.forecast(
                    seasonless[at], ages, h, attributes[0][at], attributes[1][at], rows[at]
                )
                used[at] = True
                continue
            needs[at] = max((m.needs(plan.season) for m in plan.models[name]), default=1)
            base[at], used[at] = self._ensemble(
                plan.models[name], adjusted[at], seasonless[at], season[at]
            )
        fallback = np.asarray(~np.isfinite(base).all(axis=1))
        if fallback.any():
            rest = np.nan_to_num(last_values(seasonless[fallback]))
            base[fallback] = np.where(np.isfinite(base[fallback]), base[fallback], rest[:, None])
        shown = np.where(used[:, None], season[:, width:], 1.0)
        multiplied = shown * event[:, width:] * price[:, width:]
        # Models without the seasonal add-on carry the season inside their level.
        point = np.maximum(base, 0) * multiplied
        local = np.nan_to_num(trailing_mean(history.values, default_window(plan.season)))
        with np.errstate(invalid="ignore"):
            negative = (np.nan_to_num(history.values) < 0).any(axis=1)
            negative |= (base < 0).any(axis=1)
        return Points(
            point, np.maximum(base, 0), shown, event[:, width:], price[:, width:],
            np.maximum(local, 0), route, rule, features, outside[:, width:], fallback,
            np.asarray(negative), needs,
        )  # fmt: skip

    def _ensemble(
        self,
        models: Sequence[PointModel],
        adjusted: NDArray,
        seasonless: NDArray,
        season: NDArray,
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Median of a route's models, and whether its season is the add-on's.

        With both kinds in a route the median is taken of whole forecasts and then divided by the
        add-on's season, so that level x season is the forecast again.
        """
        plan, width = self.plan, adjusted.shape[1]
        parts = []
        addon = any(m.seasonal_addon for m in models)
        for model in models:
            if model.seasonal_addon:
                past = season[:, :width]
                parts.append(model.forecast(seasonless, plan.h, plan.season, past))
                continue
            points = model.forecast(adjusted, plan.h, plan.season)
            parts.append(points / season[:, width:] if addon else points)
        return median_of(parts), np.full(len(adjusted), addon)

    def _season(
        self, periods: NDArray[np.int64], groups: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        if self.seasonal is None:
            return np.ones(periods.shape)
        return self.seasonal.factor(periods, groups, rows)

    def _priced(self, panel: Panel) -> bool:
        return self.plan.price is not None and self.plan.price.column in panel.known

    def _feature(
        self, panel: Panel, rows: NDArray[np.int64], stops: NDArray[np.int64], length: int
    ) -> NDArray | None:
        price = self.plan.price
        if price is None or price.feature is None or price.feature not in panel.known:
            return None
        return panel.known_windows(price.feature, rows, stops, length).astype(float)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """Fitted add-ons as JSON values and arrays."""
        state: dict[str, Any] = {}
        arrays: dict[str, NDArray] = {}
        for name in ("seasonal", "events", "price", "new_items"):
            addon = getattr(self, name)
            if addon is not None:
                state[name], own = addon.state()
                arrays |= {f"{name}.{key}": value for key, value in own.items()}
        return state, arrays

    def restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> Self:
        """The inverse of :meth:`state`."""
        for name, values in state.items():
            own = {k[len(name) + 1 :]: v for k, v in arrays.items() if k.startswith(f"{name}.")}
            setattr(self, name, clone(getattr(self.plan, name)).restore(values, own))
        return self


def launch_curves(values: NDArray, lengths: NDArray[np.int64], ages: int) -> NDArray[np.float64]:
    """Sales by age since launch (N, ages) of right-aligned histories (N, T)."""
    width = values.shape[1]
    place = width - np.minimum(lengths, width)[:, None] + np.arange(ages)
    inside = place < width
    return np.where(inside, np.take_along_axis(values, np.minimum(place, width - 1), 1), np.nan)


__all__ = ["Patchwork", "Plan", "Points", "launch_curves"]
