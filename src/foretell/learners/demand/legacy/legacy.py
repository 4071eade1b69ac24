"""The legacy patchwork: expert rules, textbook models, add-ons and the Distribution Engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.panel import Categorical, Panel
from foretell.errors import DataError, ParameterError
from foretell.learners.demand.forecast import DEFAULT_LEVELS, Forecast, check_levels
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.demand.legacy.analog import AnalogNew
from foretell.learners.demand.legacy.distribution_engine import DistributionEngine
from foretell.learners.demand.legacy.elasticity import PriceElasticity
from foretell.learners.demand.legacy.events import EventAddon
from foretell.learners.demand.legacy.history import History
from foretell.learners.demand.legacy.patchwork import Patchwork, Plan, Points
from foretell.learners.demand.legacy.point_models import (
    TSB,
    ExponentialSmoothing,
    MovingAverage,
    PointModel,
    SeasonalLevel,
    SeasonalNaive,
)
from foretell.learners.demand.legacy.router import Router
from foretell.learners.demand.legacy.seasonal import SeasonalAddon, strongest_group

DEFAULT_MODELS: dict[str, tuple[PointModel, ...]] = {
    "new": (MovingAverage(),),
    "intermittent": (TSB(),),
    "lumpy": (TSB(),),
    "seasonal": (SeasonalNaive(), SeasonalNaive(growth=1.0), SeasonalLevel()),
    "regular": (
        MovingAverage(),
        SeasonalNaive(),
        SeasonalNaive(growth=1.0),
        SeasonalLevel(),
        ExponentialSmoothing(seasonal_addon=True),
    ),
}
"""Point models of each route; the median of several is taken. All run on many series at once."""

_DEFAULT: Any = "default"


class LegacyForecaster(Forecaster):
    """A transparent baseline: one routed model a series, add-ons, quantiles from past errors.

    At an origin every series is routed by rules, its history is freed of event and price effects
    (and of the season, for models that use the seasonal add-on), the route's point models are
    run and their median is multiplied by the effects planned for the future. The Distribution
    Engine turns the points into quantiles with the errors of rolling origins inside the training
    part; at each of them every add-on is fitted again on what was known there.

    An origin counts for a series only if its model had the history it needs there. Where the
    history is too short for origins a full horizon before its end (104 weeks, season 52, horizon
    39 leaves 52 to 65), later origins give errors at the horizons that were observed.

    Args:
        h: periods to forecast, K.
        quantiles: ascending levels.
        router: the rules.
        models: point models of each route; ``None`` for :data:`DEFAULT_MODELS`. Routes not named
            keep the default.
        seasonal: the seasonal add-on, ``None`` for none.
        events: the event add-on, ``None`` for none.
        price: the price add-on; off where the panel has no such known covariate.
        new_items: launch curves for the route ``"new"``, ``None`` to use its models instead.
        engine: what makes the quantiles.
        season_length: periods a season; the frequency's usual one when ``None``.
        group: static category of the groups; ``None`` takes the seasonal add-on's.
        origins: rolling origins for the engine.
        bias: share of a series' past median error by which its forecasts are corrected; new and
            intermittent items are corrected in full.
        longest: periods of history looked at; four seasons, at least 200, when ``None``.
        components: return the components table with each forecast.
    """

    def __init__(
        self,
        h: int = 13,
        quantiles: Sequence[float] = DEFAULT_LEVELS,
        *,
        router: Router | None = None,
        models: Mapping[str, Sequence[PointModel]] | None = None,
        seasonal: SeasonalAddon | None = _DEFAULT,
        events: EventAddon | None = _DEFAULT,
        price: PriceElasticity | None = _DEFAULT,
        new_items: AnalogNew | None = _DEFAULT,
        engine: DistributionEngine | None = None,
        season_length: int | None = None,
        group: str | None = None,
        origins: int = 12,
        bias: float = 0.0,
        longest: int | None = None,
        components: bool = True,
    ) -> None:
        super().__init__(h, quantiles)
        self.router = router
        self.models = models
        self.seasonal = seasonal
        self.events = events
        self.price = price
        self.new_items = new_items
        self.engine = engine
        self.season_length = season_length
        self.group = group
        self.origins = origins
        self.bias = bias
        self.longest = longest
        self.components = components

    # -- fitting ---------------------------------------------------------------------------------

    def _fit(self, panel: Panel) -> None:
        if len(panel) == 0 or not panel.lengths.any():
            raise DataError("the panel has no observation", hint="Give at least one series")
        if self.origins < 1:
            raise ParameterError(f"origins must be at least 1, not {self.origins}")
        self.season_ = int(self.season_length or panel.frequency.season)
        self.plan_ = self._plan()
        self.vocabularies_ = {
            name: category.vocabulary for name, category in panel.static_categorical.items()
        }
        self.reals_ = sorted(panel.static_real)
        self.ids_ = [str(i) for i in panel.ids]
        self.group_ = self._choose_group(panel)
        groups, attributes = self._groups(panel), self._attributes(panel)
        self.patchwork_ = Patchwork(self.plan_).fit(panel, groups, attributes)
        self._fit_engine(panel, groups, attributes)

    def _plan(self) -> Plan:
        def chosen(value: Any, default: Any) -> Any:
            return default if isinstance(value, str) and value == _DEFAULT else value

        router = self.router or Router()
        router.check()
        models = {**DEFAULT_MODELS, **(self.models or {})}
        for route in router.routes:
            if not models.get(route):
                raise ParameterError(
                    f"the router's route {route!r} has no point model: add it to models="
                )
        return Plan(
            self.h,
            self.season_,
            router,
            {route: tuple(models[route]) for route in router.routes},
            chosen(self.seasonal, SeasonalAddon()),
            chosen(self.events, EventAddon()),
            chosen(self.price, PriceElasticity()),
            chosen(self.new_items, AnalogNew()),
            int(self.longest or max(200, 4 * self.season_)),
        )

    def _choose_group(self, panel: Panel) -> str | None:
        seasonal = self.plan_.seasonal
        name = self.group or (seasonal.group if seasonal is not None else None)
        if name == "auto":
            history = History.of(panel, self.plan_.longest)
            codes = {k: v.codes.astype(np.int64) for k, v in panel.static_categorical.items()}
            return strongest_group(history, panel.frequency, self.season_, codes)
        if name is not None and name not in panel.static_categorical:
            raise ParameterError(
                f"group {name!r} is not a static category of the panel: it has "
                f"{sorted(panel.static_categorical)}"
            )
        return name

    def _fit_engine(
        self,
        panel: Panel,
        groups: NDArray[np.int64],
        attributes: tuple[NDArray[np.int64], NDArray],
    ) -> None:
        rows = np.arange(len(panel))
        now = self.patchwork_.forecast(panel, groups, rows, attributes)
        new = self._new_route()
        collected: list[tuple[NDArray, ...]] = []
        for back in self._backs(panel):
            past = panel.cut(back)
            alive = np.flatnonzero((past.lengths > 0) & (now.route != new))
            if not len(alive):
                continue
            # Add-ons of that time, fitted on every series that had begun.
            begun = np.flatnonzero(past.lengths > 0)
            sub = past.select(begun)
            own = (attributes[0][begun], attributes[1][begun])
            then = Patchwork(self.plan_).fit(sub, groups[begun], own)
            points = then.forecast(
                sub, groups[begun], np.arange(len(begun)), own, route=now.route[begun]
            )
            honest = (sub.lengths >= points.needs) & (now.route[begun] != new)
            outcome = self._outcomes(panel, begun, sub.lengths)
            keep = np.flatnonzero(honest & np.isfinite(outcome).any(axis=1))
            at = begun[keep]
            collected.append(
                (points.point[keep].astype(np.float32), outcome[keep].astype(np.float32),
                 points.local[keep], now.route[at], at,
                 sub.ends[keep], np.full(len(at), back))
            )  # fmt: skip
        collected += self._launch_errors(panel, groups, attributes)
        if not any(len(part[0]) for part in collected):
            collected.append(self._last_resort(panel, now, rows))
        point, outcome, local, route, at, cutoffs, age = (
            np.concatenate(parts) for parts in zip(*collected, strict=True)
        )
        del collected, now
        self.engine_ = DistributionEngine() if self.engine is None else self._clone_engine()
        if self.engine_.method == "cqr":
            raise ParameterError("the patchwork makes points: its engine cannot be cqr")
        self.engine_.fit(
            point,
            outcome,
            groups=self._cells(route, groups[at], at),
            level=local,
            age=age,
            cutoffs=cutoffs,
        )

    def _clone_engine(self) -> DistributionEngine:
        assert self.engine is not None
        return DistributionEngine(**self.engine.get_params(deep=False))

    def _new_route(self) -> int:
        routes = self.plan_.router.routes
        return routes.index("new") if "new" in routes else -1

    def _backs(self, panel: Panel) -> list[int]:
        """Periods before the end at which to stand: as far back as models still have history."""
        length = int(np.quantile(panel.lengths, 0.9))
        needs = max(
            (m.needs(self.season_) for models in self.plan_.models.values() for m in models),
            default=1,
        )
        furthest = length - needs
        if furthest < self.h:  # the season does not fit before the horizon
            furthest = max(furthest, min(self.h, length // 2))
        furthest = int(np.clip(furthest, 1, max(4 * self.h, 2 * self.season_)))
        step = furthest / self.origins
        return sorted({max(1, round(step * (i + 1))) for i in range(self.origins)})

    def _outcomes(
        self, panel: Panel, rows: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        stops = lengths + self.h
        values = panel.windows(rows, stops, self.h).astype(np.float64)
        values[panel.censored_windows(rows, stops, self.h)] = np.nan
        return values

    def _launch_errors(
        self,
        panel: Panel,
        groups: NDArray[np.int64],
        attributes: tuple[NDArray[np.int64], NDArray],
    ) -> list[tuple[NDArray, ...]]:
        """Errors of analog forecasts of launched items, each left out of its own analogs.

        The other items' curves are those of today: the age of a launch, not the date, is what
        such a forecast extrapolates.
        """
        analog, new = self.patchwork_.new_items, self._new_route()
        if analog is None or new < 0 or not len(analog.rows_):
            return []
        rows = analog.rows_
        if len(rows) > 1000:
            rows = rows[np.linspace(0, len(rows) - 1, 1000).astype(np.int64)]
        result: list[tuple[NDArray, ...]] = []
        for age in (1, 4, 8):
            long_enough = rows[panel.lengths[rows] > age]
            if not len(long_enough):
                continue
            past = panel.cut(np.maximum(panel.lengths - age, 0)).select(long_enough)
            own = (attributes[0][long_enough], attributes[1][long_enough])
            points = self.patchwork_.forecast(
                past, groups[long_enough], long_enough, own,
                route=np.full(len(long_enough), new),
            )  # fmt: skip
            outcome = self._outcomes(panel, long_enough, past.lengths)
            result.append(
                (points.point, outcome, points.local, points.route, long_enough, past.ends,
                 panel.lengths[long_enough] - age)
            )  # fmt: skip
        return result

    def _last_resort(
        self, panel: Panel, now: Points, rows: NDArray[np.int64]
    ) -> tuple[NDArray, ...]:
        """No series has an earlier origin (one observation each): spread between the series."""
        values = panel.windows(rows, panel.lengths, 1).astype(np.float64)
        centre = float(np.nanmedian(values)) if np.isfinite(values).any() else 0.0
        count = len(rows)
        outcome = np.repeat(np.nan_to_num(values, nan=centre), self.h, axis=1)
        point = np.full((count, self.h), centre)
        return (point, outcome, np.full(count, centre), now.route, rows, panel.ends,
                np.zeros(count, np.int64))  # fmt: skip

    # -- forecasting -----------------------------------------------------------------------------

    def _predict(self, panel: Panel) -> Forecast:
        groups, attributes = self._groups(panel), self._attributes(panel)
        table = {name: i for i, name in enumerate(self.ids_)}
        rows = np.array([table.get(str(i), -1) for i in panel.ids], np.int64)
        points = self.patchwork_.forecast(panel, groups, rows, attributes)
        levels = check_levels(self.quantiles)
        values = np.empty((len(panel), self.h, len(levels)), np.float32)
        for start in range(0, len(panel), 16384):
            part = slice(start, start + 16384)
            values[part] = self.engine_.apply(
                points.point[part],
                levels.tolist(),
                groups=self._cells(points.route[part], groups[part], rows[part]),
                level=points.local[part],
                bias=self._bias(points.route[part]),
            )
        table_ = self._components(panel, points) if self.components else None
        return self._forecast(panel, values, components=table_)

    def _cells(
        self, route: NDArray[np.int64], groups: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        """The engine's groups: kind of demand, kind x group, series."""
        routes = self.plan_.router.routes
        kinds = {"new": 0, "intermittent": 1, "lumpy": 1}
        kind = np.array([kinds.get(name, 2) for name in routes], np.int64)[route]
        size = len(self.vocabularies_.get(self.group_ or "", ())) + 1
        # A launched item's errors as a new one say nothing about it today.
        own = np.where(kind == 0, -1, rows)
        return [kind, kind * size + groups, own]

    def _bias(self, route: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of past bias that is corrected (N,).

        Points of the new and the intermittent are means, far from the median of skewed demand.
        """
        keep = {"new": 1.0, "intermittent": 1.0, "lumpy": 1.0}
        routes = self.plan_.router.routes
        return np.array([keep.get(name, self.bias) for name in routes])[route]

    def _groups(self, panel: Panel) -> NDArray[np.int64]:
        if self.group_ is None:
            return np.zeros(len(panel), np.int64)
        return self._codes(panel, self.group_)

    def _codes(self, panel: Panel, name: str) -> NDArray[np.int64]:
        category = panel.static_categorical.get(name)
        if category is None:
            return np.zeros(len(panel), np.int64)
        vocabulary = self.vocabularies_[name]
        if category.vocabulary == vocabulary:
            return category.codes.astype(np.int64)
        blank = Categorical(np.zeros(0, np.int32), vocabulary)
        return blank.encode(category.values).codes.astype(np.int64)

    def _attributes(self, panel: Panel) -> tuple[NDArray[np.int64], NDArray]:
        codes = [self._codes(panel, name) for name in self.vocabularies_]
        unknown = np.full(len(panel), np.nan)
        numbers = [panel.static_real.get(name, unknown) for name in self.reals_]
        shape = (len(panel), 0)
        return (
            np.stack(codes, axis=1) if codes else np.zeros(shape, np.int64),
            np.stack(numbers, axis=1).astype(np.float64) if numbers else np.zeros(shape),
        )

    def _components(self, panel: Panel, points: Points) -> pl.DataFrame:
        """One row a series, origin and horizon: ``point = level x season x event x price``."""
        n, k = points.point.shape
        routes = self.plan_.router.routes
        names = [
            "AnalogNew"
            if route == "new" and self.plan_.new_items is not None
            else " + ".join(m.name for m in self.plan_.models[route])
            for route in routes
        ]
        reasons = self.plan_.router.reasons(points.features, points.rule)
        flags = []
        outside = np.asarray(points.extrapolated.any(axis=1))
        for i in range(n):
            found = []
            if outside[i]:
                found.append("price_extrapolated")
            if points.fallback[i]:
                found.append("fallback")
            if points.returns[i]:
                found.append("negative_sales")
            flags.append(",".join(found))
        per_series = pl.DataFrame(
            {
                "unique_id": pl.Series([str(i) for i in panel.ids], dtype=pl.String),
                "cutoff": panel.frequency.time(panel.ends),
                "route": pl.Series([routes[r] for r in points.route], dtype=pl.Categorical),
                "model": pl.Series([names[r] for r in points.route], dtype=pl.Categorical),
                "reason": pl.Series(reasons, dtype=pl.String),
                "flags": pl.Series(flags, dtype=pl.String),
            }
        )
        repeated = per_series[np.repeat(np.arange(n), k)]
        return repeated.with_columns(
            pl.Series("horizon", np.tile(np.arange(1, k + 1, dtype=np.int32), n)),
            pl.Series("point", points.point.ravel().astype(np.float32)),
            pl.Series("level", points.level.ravel().astype(np.float32)),
            pl.Series("season", points.season.ravel().astype(np.float32)),
            pl.Series("event", points.event.ravel().astype(np.float32)),
            pl.Series("price", points.price.ravel().astype(np.float32)),
        )

    # -- saving ----------------------------------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        values = super()._parameters()
        for name in ("router", "seasonal", "events", "price", "new_items", "engine"):
            part = getattr(self, name)
            if part is not None and not isinstance(part, str):
                values[name] = part.get_params(deep=False)
        if self.models is not None:
            values["models"] = {r: [m.to_json() for m in ms] for r, ms in self.models.items()}
        return values

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        values = dict(parameters)
        kinds = {
            "seasonal": SeasonalAddon,
            "events": EventAddon,
            "price": PriceElasticity,
            "new_items": AnalogNew,
            "engine": DistributionEngine,
        }
        for name, kind in kinds.items():
            if isinstance(values.get(name), dict):
                values[name] = kind(**values[name])
        if values.get("router") is not None:
            values["router"] = Router.from_json(values["router"])
        if values.get("models") is not None:
            values["models"] = {
                r: tuple(PointModel.from_json(m) for m in ms) for r, ms in values["models"].items()
            }
        values["quantiles"] = tuple(values["quantiles"])
        return values

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        patchwork, arrays = self.patchwork_.state()
        engine, own = self.engine_.state()
        arrays = {f"patchwork.{k}": v for k, v in arrays.items()}
        arrays |= {f"engine.{k}": v for k, v in own.items()}
        state = {
            "season": self.season_,
            "group": self.group_,
            "ids": self.ids_,
            "vocabularies": {k: list(v) for k, v in self.vocabularies_.items()},
            "reals": self.reals_,
            "patchwork": patchwork,
            "engine": engine,
        }
        return state, arrays

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        self.season_, self.group_ = int(state["season"]), state["group"]
        self.ids_, self.reals_ = list(state["ids"]), list(state["reals"])
        self.vocabularies_ = {k: tuple(v) for k, v in state["vocabularies"].items()}
        self.plan_ = self._plan()

        def part(name: str) -> dict[str, NDArray]:
            return {k[len(name) + 1 :]: v for k, v in arrays.items() if k.startswith(f"{name}.")}

        self.patchwork_ = Patchwork(self.plan_).restore(state["patchwork"], part("patchwork"))
        self.engine_ = DistributionEngine() if self.engine is None else self._clone_engine()
        self.engine_.restore(state["engine"], part("engine"))
