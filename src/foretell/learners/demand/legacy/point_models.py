"""Point models of the patchwork: each forecasts many histories at once."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.errors import ParameterError
from foretell.learners.demand.legacy.history import last_values, row_mean, trailing_mean
from foretell.learners.demand.legacy.kernels import croston, exponential_smoothing
from foretell.learners.demand.legacy.spread import current_spread


class PointModel(BaseEstimator):
    """A forecaster of single numbers from a history (N, T) with gaps.

    The forecaster around it takes events and price effects out of the history first, and the
    seasonal add-on too where :attr:`seasonal_addon` is true; it multiplies them back afterwards.
    """

    kinds: ClassVar[dict[str, type[PointModel]]] = {}
    seasonal_addon: bool = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        PointModel.kinds[cls.__name__] = cls

    @property
    def name(self) -> str:
        """What the components table calls it."""
        return type(self).__name__

    def needs(self, season: int) -> int:
        """Periods of history without which the model is not itself (it may still fall back)."""
        return 1

    @abstractmethod
    def forecast(
        self, history: NDArray, h: int, season: int, weights: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Points (N, h) after a history (N, T); NaN rows where nothing can be said.

        Args:
            history: past values, NaN where unknown.
            h: periods ahead.
            season: periods a season.
            weights: (N, T) weight of each value in a level, or ``None``. For models behind the
                seasonal add-on it is the season itself: a value divided by a small season is as
                much less certain, and the weighted mean is the ratio of sums.
        """

    @staticmethod
    def from_json(value: dict[str, Any]) -> PointModel:
        """The model of ``{"kind": name, **parameters}``."""
        parameters = dict(value)
        kind = parameters.pop("kind")
        if kind not in PointModel.kinds:
            raise ParameterError(f"point model {kind!r} is not one of {sorted(PointModel.kinds)}")
        return PointModel.kinds[kind](**parameters)

    def to_json(self) -> dict[str, Any]:
        """The inverse of :meth:`from_json`."""
        return {"kind": type(self).__name__, **self.get_params(deep=False)}


def _flat(level: NDArray, h: int) -> NDArray[np.float64]:
    return np.repeat(level[:, None], h, axis=1)


class Naive(PointModel):
    """The last observed value."""

    def forecast(
        self, history: NDArray, h: int, season: int, weights: NDArray | None = None
    ) -> NDArray[np.float64]:
        """See :meth:`PointModel.forecast`."""
        return _flat(last_values(history), h)


class MovingAverage(PointModel):
    """The mean of the last periods.

    Args:
        window: periods; a quarter season when ``None`` (at least 7), 13 without a season.
        seasonal_addon: average what the seasonal add-on leaves, and multiply its index back.
    """

    def __init__(self, window: int | None = None, seasonal_addon: bool = False) -> None:
        self.window = window
        self.seasonal_addon = seasonal_addon

    def forecast(
        self, history: NDArray, h: int, season: int, weights: NDArray | None = None
    ) -> NDArray[np.float64]:
        """See :meth:`PointModel.forecast`."""
        return _flat(trailing_mean(history, self.window or default_window(season), weights), h)


class SeasonalLevel(MovingAverage):
    """The trailing level times the group's seasonal index: for strong seasons on short histories.

    Args:
        window: periods of the trailing level; see :class:`MovingAverage`.
    """

    def __init__(self, window: int | None = None) -> None:
        super().__init__(window, seasonal_addon=True)

    def needs(self, season: int) -> int:
        """See :meth:`PointModel.needs`."""
        return season // 2

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return ["window"]


class SeasonalNaive(PointModel):
    """The value one season earlier; where it is missing, the last value.

    Args:
        lags: seasons back to average: ``(1,)``, or ``(1, 2)`` for two years.
        smooth: neighbours on each side of the lagged value that are averaged with it.
        growth: power of the year-on-year ratio of recent sales by which the forecast is
            multiplied; 0 for none, 1 for all of it.
        window: periods over which the ratio is taken; a quarter season when ``None``.
        fallback: ``"last"`` value or trailing ``"mean"`` where the lagged value is missing.
    """

    def __init__(
        self,
        lags: tuple[int, ...] = (1,),
        smooth: int = 0,
        growth: float = 0.0,
        window: int | None = None,
        fallback: str = "last",
    ) -> None:
        self.lags = lags
        self.smooth = smooth
        self.growth = growth
        self.window = window
        self.fallback = fallback

    def needs(self, season: int) -> int:
        """See :meth:`PointModel.needs`."""
        return season

    def forecast(
        self, history: NDArray, h: int, season: int, weights: NDArray | None = None
    ) -> NDArray[np.float64]:
        """See :meth:`PointModel.forecast`."""
        n, width = history.shape
        steps = np.arange(h)
        window = self.window or default_window(season)
        if self.growth and width > season > 1:
            ratio = self._growth(history, season, window)
        else:
            ratio = np.ones(n)
        parts = []
        for lag in self.lags:
            for side in range(-self.smooth, self.smooth + 1):
                back = season * (lag + steps // season)  # beyond a season: the same season again
                place = width + steps - back + side
                ok = (place >= 0) & (place < width)
                part = np.where(ok, history[:, np.clip(place, 0, width - 1)], np.nan)
                parts.append(part * ratio[:, None] ** (self.growth * lag))
        stacked = np.stack(parts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            result = np.nanmean(stacked, axis=0)
        rest = last_values(history) if self.fallback == "last" else trailing_mean(history, window)
        return np.where(np.isfinite(result), result, rest[:, None])

    @staticmethod
    def _growth(history: NDArray, season: int, window: int) -> NDArray[np.float64]:
        """Ratio of the last ``window`` values to those a season earlier, over shared cells."""
        width = history.shape[1]
        window = min(window, width - season)
        now = history[:, width - window :]
        then = history[:, width - window - season : width - season]
        both = np.isfinite(now) & np.isfinite(then)
        top = np.where(both, now, 0.0).sum(axis=1)
        bottom = np.where(both, then, 0.0).sum(axis=1)
        enough = (both.sum(axis=1) >= max(1, window // 2)) & (top > 0) & (bottom > 0)
        return np.where(enough, np.clip(top / np.where(enough, bottom, 1.0), 0.25, 4.0), 1.0)


class ExponentialSmoothing(PointModel):
    """Simple exponential smoothing, alpha by the least squared one-step error.

    Args:
        alphas: candidates.
        seasonal_addon: smooth what the seasonal add-on leaves.
    """

    def __init__(
        self,
        alphas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
        seasonal_addon: bool = False,
    ) -> None:
        self.alphas = alphas
        self.seasonal_addon = seasonal_addon

    def forecast(
        self, history: NDArray, h: int, season: int, weights: NDArray | None = None
    ) -> NDArray[np.float64]:
        """See :meth:`PointModel.forecast`."""
        level, _ = exponential_smoothing(np.ascontiguousarray(history), np.array(self.alphas))
        return _flat(level, h)


class Croston(PointModel):
    """Croston 1972: smoothed size over smoothed interval.

    Args:
        alpha: smoothing constant.
    """

    _kind: ClassVar[int] = 0

    def __init__(self, alpha: float = 0.1) -> None:
        self.alpha = alpha

    def forecast(
        self, history: NDArray, h: int, season: int, weights: NDArray | None = None
    ) -> NDArray[np.float64]:
        """See :meth:`PointModel.forecast`."""
        return _flat(croston(np.ascontiguousarray(history), float(self.alpha), self._kind), h)


class SBA(Croston):
    """Syntetos & Boylan 2005: Croston's rate times ``1 - alpha / 2``, which takes off its bias."""

    _kind = 1


class TSB(Croston):
    """Teunter, Syntetos & Babai 2011: smooths the probability of demand every period."""

    _kind = 2


class StatsForecastModel(PointModel):
    """Any model of statsforecast, one series after the other: slow, so only where routed.

    Gaps are filled by linear interpolation first (the models know none).

    Args:
        model: class name in ``statsforecast.models``: ``"AutoETS"``, ``"AutoTheta"``,
            ``"AutoARIMA"``, ``"Holt"``, ``"HoltWinters"``, ``"SimpleExponentialSmoothing"``...
        max_series: at most this many series, those that sold most; the others get no forecast
            of this model and rely on the rest of their route.
        longest: periods of history given to the model.
        n_jobs: processes; 1 runs in this one. Within
            :func:`~foretell.learners.demand.legacy.spread.spreading` the series go there instead.
        options: further arguments of the model's class.
    """

    def __init__(
        self,
        model: str = "AutoETS",
        max_series: int | None = 5000,
        longest: int = 260,
        n_jobs: int = 1,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.max_series = max_series
        self.longest = longest
        self.n_jobs = n_jobs
        self.options = options

    @property
    def name(self) -> str:
        """See :attr:`PointModel.name`."""
        return self.model

    def forecast(
        self, history: NDArray, h: int, season: int, weights: NDArray | None = None
    ) -> NDArray[np.float64]:
        """See :meth:`PointModel.forecast`."""
        from joblib import Parallel, delayed

        n = len(history)
        rows = np.flatnonzero(np.isfinite(history).any(axis=1))
        if self.max_series is not None and len(rows) > self.max_series:
            volume = np.nan_to_num(row_mean(history[rows]))
            rows = np.sort(rows[np.argsort(-volume, kind="stable")[: self.max_series]])
        result = np.full((n, h), np.nan)
        spread = current_spread()
        if spread is None:
            pieces = 4 * max(1, self.n_jobs)
        else:
            pieces = -(-len(rows) // spread.rows_at_once)
        parts = np.array_split(rows, max(1, min(len(rows), pieces)))
        values = history[:, -self.longest :]
        jobs = [(self.model, self.options or {}, values[part], h, season) for part in parts]
        if spread is not None and len(parts) > 1:
            found = spread.map(_run_statsforecast, *zip(*jobs, strict=True))
        else:
            found = Parallel(n_jobs=self.n_jobs)(delayed(_run_statsforecast)(*job) for job in jobs)
        for part, points in zip(parts, found, strict=True):
            result[part] = points
        return result


def _run_statsforecast(
    name: str, options: dict[str, Any], values: NDArray, h: int, season: int
) -> NDArray[np.float64]:
    import inspect

    from statsforecast import models

    if not hasattr(models, name):
        raise ParameterError(f"statsforecast has no model {name!r}")
    factory = getattr(models, name)
    takes = inspect.signature(factory).parameters
    arguments = dict(options)
    if "season_length" in takes:
        arguments.setdefault("season_length", season)
    if name == "SimpleExponentialSmoothing":
        arguments.setdefault("alpha", 0.2)
    result = np.full((len(values), h), np.nan)
    for i, row in enumerate(values):
        seen = np.flatnonzero(np.isfinite(row))
        filled = np.interp(np.arange(seen[0], seen[-1] + 1), seen, row[seen])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                points = factory(**arguments).forecast(y=filled, h=h)["mean"]
        except TypeError:
            raise  # wrong options
        except Exception:
            # statsforecast raises plain exceptions for histories that are too short or constant;
            # the other models of the route, or the fallback, answer for them.
            continue
        result[i] = np.where(np.isfinite(points), points, np.nan)
    return result


def default_window(season: int) -> int:
    """Trailing window for a level: a quarter of a long season, whole short seasons."""
    if season <= 1:
        return 13
    if season >= 28:
        return season // 4
    return season * -(-7 // season)


def median_of(parts: list[NDArray]) -> NDArray[np.float64]:
    """Median over models (N, h), of those that answered."""
    if len(parts) == 1:
        return parts[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(np.stack(parts), axis=0)
