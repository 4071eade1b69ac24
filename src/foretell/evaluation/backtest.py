"""Rolling-origin backtests: what a model would have said, and what then happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import clone

from foretell.data.panel import Panel
from foretell.errors import DataError, ParameterError
from foretell.evaluation.history import history_at
from foretell.learners.demand.forecast import Forecast
from foretell.learners.demand.forecaster import Forecaster


class Executor(Protocol):
    """What can map a function over units of work, as ``concurrent.futures`` executors do."""

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterable[Any]:
        """Results in the order of the arguments."""
        ...


@dataclass(frozen=True)
class Window:
    """One unit of work: fit once, then forecast from one or more origins.

    Args:
        model: unfitted, unless ``fit_back`` is ``None``.
        back: origins, in periods before each series' end, largest (earliest) first.
        fit_back: where the training part ends, likewise; ``None`` for a model fitted before.
        min_history: a series needs that many observed values at an origin to be forecast there.
        keep_model: hand the fitted model back.
    """

    model: Forecaster
    back: tuple[int, ...]
    fit_back: int | None
    min_history: int = 1
    keep_model: bool = False


@dataclass(frozen=True)
class WindowResult:
    """What one :class:`Window` gave.

    ``back`` (M,) is the origin of each forecast row; ``skipped`` counts the (series, origin) pairs
    without enough history; seconds are wall time.
    """

    forecast: Forecast
    back: NDArray[np.int64]
    fit_back: int | None
    fit_seconds: float
    predict_seconds: float
    fitted_series: int
    skipped: int
    model: Forecaster | None


@dataclass(frozen=True, eq=False)
class Backtest:
    """Forecasts from all origins beside the outcomes.

    Args:
        forecast: M rows, one a series and origin.
        truth: (M, K) outcomes, NaN where nothing was observed.
        back: (M,) periods between a row's origin and its series' end.
        fits: the units of work that made it, in order of time, without their forecasts.
        model: the last fitted model.
        skipped: number of (series, origin) pairs left out for want of history.
    """

    forecast: Forecast
    truth: NDArray[np.float32]
    back: NDArray[np.int64]
    fits: tuple[WindowResult, ...]
    model: Forecaster | None = None
    skipped: int = 0

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.forecast.model

    @property
    def fit_seconds(self) -> float:
        """Wall time of all fits."""
        return sum(fit.fit_seconds for fit in self.fits)

    @property
    def predict_seconds(self) -> float:
        """Wall time of all predictions."""
        return sum(fit.predict_seconds for fit in self.fits)

    def to_polars(self) -> pl.DataFrame:
        """Cross-validation table in Nixtla's shape.

        Columns ``unique_id, ds, cutoff, y``, then ``<Model>`` (the median) and ``<Model>-q0.1`` and
        so on, one a level; ``y`` is null where nothing was observed.
        """
        table = self.forecast.to_polars()
        name = self.name
        levels = [f"q{level:g}" for level in self.forecast.levels]
        return table.select(
            "unique_id",
            "ds",
            "cutoff",
            pl.Series("y", self.truth.ravel()).fill_nan(None),
            pl.Series(name, self.forecast.median.ravel()),
            *[pl.col(level).alias(f"{name}-{level}") for level in levels],
        )


def backtest(
    model: Forecaster,
    panel: Panel,
    *,
    h: int | None = None,
    n_windows: int = 1,
    step_size: int | None = None,
    refit: bool | int = False,
    back: Sequence[int] | None = None,
    fitted: bool = False,
    min_history: int = 1,
    executor: Executor | None = None,
) -> Backtest:
    """Forecasts from rolling origins, each made with what was known there and nothing later.

    The last origin lies ``h`` periods before each series' own end, the others ``step_size``
    earlier each. Without ``refit`` the model is fitted once, on what lies before the first origin,
    and forecasts all origins in one call; data after the last origin are cut off before the model
    sees the panel, and :func:`foretell.evaluation.leakage.leakage_check` proves that a model does
    not look past an origin within it.

    Args:
        model: cloned before it is fitted; the given object stays as it is.
        panel: the series with their outcomes.
        h: periods to forecast and score; at most the model's own ``h``, which is the default.
        n_windows: number of origins.
        step_size: periods between origins; ``h`` when ``None`` (no outcome is scored twice).
        refit: fit anew before every origin (``True``) or before every so-many-th (an integer).
        back: the origins themselves, in periods before each series' end; replaces ``n_windows``
            and ``step_size``.
        fitted: the model has been fitted already, on data before the first origin: use it as it is.
        min_history: observed values that a series needs at an origin to be forecast there.
        executor: maps units of work; in this process, one after the other, when ``None``. Each
            call is ``run_window(window, panel)`` and can be pickled.

    Raises:
        ParameterError: the origins reach beyond every series, or an argument is out of range.
        DataError: no series has enough history before the first origin.
    """
    horizon = model.h if h is None else h
    if not 1 <= horizon <= model.h:
        raise ParameterError(
            f"h={horizon} is outside 1..{model.h}: {model.name} was set up for {model.h} periods"
        )
    origins = _origins(panel, horizon, n_windows, step_size, back)
    if min_history < 1:
        raise ParameterError(f"min_history must be at least 1, not {min_history}")
    if fitted and refit:
        raise ParameterError("fitted=True and refit contradict each other")
    windows = _windows(model, origins, refit, fitted, min_history)
    if executor is None:
        results = [run_window(window, panel) for window in windows]
    else:
        results = list(executor.map(run_window, windows, [panel] * len(windows)))
    forecast = Forecast.concat([r.forecast for r in results])
    if forecast.horizon > horizon:
        forecast = forecast.first(horizon)
    return Backtest(
        forecast,
        panel.outcomes(list(forecast.ids), forecast.cutoffs, horizon),
        np.concatenate([r.back for r in results]),
        tuple(
            replace(r, forecast=r.forecast.select(np.zeros(0, int)), model=None) for r in results
        ),
        results[-1].model,
        sum(r.skipped for r in results),
    )


def run_window(window: Window, panel: Panel) -> WindowResult:
    """Does one unit of work; runs in any process that has foretell."""
    model = window.model
    fitted_series, fit_seconds = 0, 0.0
    if window.fit_back is not None:
        model = clone(model)
        known = panel.cut(window.fit_back)
        enough = _observed_at(panel, window.fit_back) >= window.min_history
        if not enough.any():
            raise DataError(
                f"no series has {window.min_history} observed values {window.fit_back} periods "
                "before its end",
                hint="Use fewer or later windows, or longer series",
            )
        known = known if enough.all() else known.select(enough)
        fitted_series = len(known)
        started = time.perf_counter()
        model.fit(known)
        fit_seconds = time.perf_counter() - started
    forecast, back, skipped, predict_seconds = _predict(model, panel, window)
    return WindowResult(
        forecast,
        back,
        window.fit_back,
        fit_seconds,
        predict_seconds,
        fitted_series,
        skipped,
        model if window.keep_model else None,
    )


def join_tables(backtests: Sequence[Backtest]) -> pl.DataFrame:
    """Cross-validation tables of several models side by side, on ``unique_id, ds, cutoff, y``."""
    if not backtests:
        raise ParameterError("there is no backtest to join")
    names = [b.name for b in backtests]
    if len(set(names)) < len(names):
        raise ParameterError(f"two backtests have the same model name: {names}; give an alias")
    table = backtests[0].to_polars()
    for other in backtests[1:]:
        table = table.join(
            other.to_polars().drop("y"),
            on=["unique_id", "ds", "cutoff"],
            how="left",
            maintain_order="left",
        )
    return table


def _origins(
    panel: Panel,
    horizon: int,
    n_windows: int,
    step_size: int | None,
    back: Sequence[int] | None,
) -> tuple[int, ...]:
    if len(panel) == 0:
        raise DataError("the panel holds no series")
    if back is None:
        step = horizon if step_size is None else step_size
        if n_windows < 1 or step < 1:
            raise ParameterError(
                f"n_windows and step_size must be at least 1, not {n_windows} and {step}"
            )
        origins = [horizon + i * step for i in range(n_windows)]
    else:
        origins = [int(b) for b in back]
        if not origins or min(origins) < 0 or len(set(origins)) < len(origins):
            raise ParameterError(f"back must be different numbers >= 0, not {origins}")
    longest = int(panel.lengths.max())
    if max(origins) >= longest:
        raise ParameterError(
            f"the first origin lies {max(origins)} periods back, but the longest series "
            f"({panel.ids[int(panel.lengths.argmax())]!r}) has {longest} periods: use fewer "
            "windows, a smaller step or a shorter horizon"
        )
    return tuple(sorted(origins, reverse=True))


def _windows(
    model: Forecaster,
    origins: tuple[int, ...],
    refit: bool | int,
    fitted: bool,
    min_history: int,
) -> list[Window]:
    every = len(origins) if refit is False else int(refit)
    if every < 1:
        raise ParameterError(f"refit must be False, True or a number >= 1, not {refit!r}")
    blank = model if fitted else clone(model)
    return [
        Window(
            blank,
            origins[i : i + every],
            None if fitted else origins[i],
            min_history,
            keep_model=i + every >= len(origins),
        )
        for i in range(0, len(origins), every)
    ]


def _predict(
    model: Forecaster, panel: Panel, window: Window
) -> tuple[Forecast, NDArray[np.int64], int, float]:
    """Series are grouped by the first origin at which they had begun, one call a group."""
    last = window.back[-1]
    known = panel.cut(last)
    enough = np.stack([_observed_at(panel, b) >= window.min_history for b in window.back])
    first = np.where(enough.any(axis=0), enough.argmax(axis=0), -1)
    parts: list[Forecast] = []
    places: list[tuple[NDArray, NDArray]] = []
    seconds = 0.0
    for begin in np.unique(first[first >= 0]):
        rows = np.flatnonzero(first == begin)
        origins = window.back[begin:]
        group = known if len(rows) == len(panel) else known.select(rows)
        started = time.perf_counter()
        parts.append(model.predict_origins(group, [b - last for b in origins]))
        seconds += time.perf_counter() - started
        if len(parts[-1]) != len(rows) * len(origins):
            raise ParameterError(
                f"{model.name} returned {len(parts[-1])} rows for {len(rows)} series at "
                f"{len(origins)} origins"
            )
        places.append((np.repeat(origins, len(rows)), np.tile(rows, len(origins))))
    if not parts:
        raise DataError(
            f"no series has {window.min_history} observed values at any of the origins "
            f"{list(window.back)} periods back"
        )
    forecast = parts[0] if len(parts) == 1 else Forecast.concat(parts)
    back = np.concatenate([p[0] for p in places]).astype(np.int64)
    rows = np.concatenate([p[1] for p in places])
    if len(parts) > 1:
        order = np.lexsort((rows, -back))
        forecast, back = forecast.select(order), back[order]
    return forecast, back, enough.size - len(forecast), seconds


def _observed_at(panel: Panel, back: int) -> NDArray[np.int64]:
    rows = np.arange(len(panel))
    return history_at(panel, rows, panel.ends - back, season=1).observed
