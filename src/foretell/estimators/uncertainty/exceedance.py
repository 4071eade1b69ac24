"""Demand forecasts as scores of an event: demand above a threshold."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import DataError, ParameterError
from foretell.estimators.uncertainty.provider import Uncertain, UncertaintyProvider
from foretell.learners.demand.forecast import Forecast, Span, interpolate_quantiles
from foretell.learners.demand.forecaster import Forecaster

_GRID = np.linspace(0.001, 0.999, 999)


class ExceedanceUncertainty(UncertaintyProvider):
    """Scores the event that demand exceeds a threshold, from quantile forecasts.

    Called with a panel, or with a :class:`Forecast` (one for each member) where forecasts are
    there already. The score is ``P(Y > threshold)``, read off the quantiles. The uncertainty is

    - ``members``: standard deviation of the score over several forecasters, or over the networks
      of one that was fitted with several seeds;
    - ``spread``: ``(q90 - q10) / (|q90| + |q10|)`` of the demand itself, in [0, 1] and without
      unit; 0 where both are 0.

    Args:
        model: a fitted forecaster or several, whose forecasts are averaged level by level.
        threshold: in the series' unit, one for all rows or ``(M,)``.
        horizon: period ahead that is asked about, from 1; ignored with ``span``.
        span: sum of periods that is asked about; the forecaster must forecast it.
        uncertainty: ``members`` or ``spread``; ``auto`` takes members where there are several.
    """

    def __init__(
        self,
        model: Forecaster | Sequence[Forecaster] | None,
        *,
        threshold: ArrayLike,
        horizon: int = 1,
        span: Span | None = None,
        uncertainty: str = "auto",
    ) -> None:
        if uncertainty not in ("auto", "members", "spread"):
            raise ParameterError(
                f"uncertainty must be auto, members or spread, not {uncertainty!r}"
            )
        if horizon < 1:
            raise ParameterError(f"horizon counts from 1, not {horizon!r}")
        self.members = [] if model is None else _members(model)
        if uncertainty == "members" and len(self.members) < 2:
            raise ParameterError(
                "the uncertainty 'members' needs several forecasters, or one fitted with seeds > 1"
            )
        self.threshold = np.asarray(threshold, np.float64)
        self.horizon, self.span, self.uncertainty = horizon, span, uncertainty

    def __call__(self, X: Any) -> Uncertain:
        """Score and uncertainty ``(M,)`` of each (series, origin) pair.

        Args:
            X: a panel, a forecast, or a sequence of forecasts, one a member.

        Raises:
            DataError: the forecasts do not reach the horizon or lack the span.
        """
        if isinstance(X, Forecast):
            forecasts = [X]
        elif isinstance(X, Sequence):
            forecasts = list(X)
        elif self.members:
            forecasts = [member.predict(X) for member in self.members]
        else:
            raise ParameterError("there is no forecaster: give one, or call with forecasts")
        quantiles = [self._quantiles(forecast) for forecast in forecasts]
        scores = np.column_stack([self._exceeding(q) for q in quantiles])
        how = self.uncertainty
        if how == "auto":
            how = "members" if len(forecasts) > 1 else "spread"
        if how == "members":
            return Uncertain(scores.mean(axis=1), scores.std(axis=1))
        mean = np.mean(quantiles, axis=0)
        low, high = mean[:, 99], mean[:, 899]  # 0.1 and 0.9 of the grid
        size = np.abs(low) + np.abs(high)
        spread = np.divide(high - low, size, out=np.zeros_like(size), where=size > 0)
        return Uncertain(scores.mean(axis=1), spread)

    def _quantiles(self, forecast: Forecast) -> NDArray[np.float64]:
        """``(M, 999)`` quantiles of what is asked about."""
        if self.span is not None:
            if self.span not in forecast.spans:
                raise DataError(
                    f"the forecast of {forecast.model} has no {self.span}",
                    hint=f"It has {sorted(forecast.spans)}",
                )
            values = forecast.spans[self.span]
        else:
            if self.horizon > forecast.horizon:
                raise DataError(
                    f"period {self.horizon} ahead was asked for, the forecast of {forecast.model} "
                    f"ends after {forecast.horizon}"
                )
            values = forecast.values[:, self.horizon - 1]
        return interpolate_quantiles(values, forecast.levels, _GRID).astype(np.float64)

    def _exceeding(self, quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
        """``P(Y > threshold)`` ``(M,)``; mass on the threshold itself does not exceed it."""
        threshold = np.broadcast_to(self.threshold, len(quantiles))
        count = (quantiles <= threshold[:, None]).sum(axis=1)
        last = len(_GRID) - 1
        lower, upper = np.clip(count - 1, 0, last), np.clip(count, 0, last)
        rows = np.arange(len(quantiles))
        gap = quantiles[rows, upper] - quantiles[rows, lower]
        step = np.divide(
            threshold - quantiles[rows, lower], gap, out=np.zeros_like(gap), where=gap > 0
        )
        below = _GRID[lower] + np.clip(step, 0, 1) * (_GRID[upper] - _GRID[lower])
        below = np.where(count == 0, 0.0, np.where(count > last, 1.0, below))
        return 1.0 - below


def _members(model: Forecaster | Sequence[Forecaster]) -> list[Forecaster]:
    if not isinstance(model, Forecaster):
        return list(model)
    networks = getattr(model, "learners_", [])
    if len(networks) < 2:
        return [model]
    members = []
    for network in networks:
        member = copy.copy(model)
        member.learners_ = [network]  # type: ignore[attr-defined]
        members.append(member)
    return members
