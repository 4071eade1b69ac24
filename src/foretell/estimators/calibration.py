"""Post-hoc calibration: quantiles that cover as often as they say.

A network that is trained on past weeks knows its errors on weeks it was fitted to, and comes out
too sure. The remedy is honest in time: the model is fitted without the last periods of every
series, forecasts them from several origins, and what it got wrong there corrects the final model's
quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from foretell.data.panel import Panel
from foretell.errors import DataError, ParameterError
from foretell.learners.demand.forecast import Forecast, Span, interpolate_quantiles

if TYPE_CHECKING:
    from foretell.estimators.neural import NeuralForecaster

METHODS = ("cqr", "engine")
_ORIGINS = 4
_BUCKETS = 3
_SEGMENTS = 4
_SHRINKAGE = 26.0
_ENOUGH = 200


@dataclass(frozen=True, eq=False)
class Calibration:
    """Corrections of the quantiles of a forecast, by horizon bucket.

    ``"cqr"`` (Romano, Patterson and Candes 2019, one-sided, in units of the forecast's own width):
    each quantile is moved by the finite-sample quantile of how far outcomes lay above it.
    ``"engine"``: quantiles are rebuilt around the median from its past errors, standardised by a
    power of the forecast's level, by segment of level, shrunk towards all segments.

    Args:
        method: ``"cqr"`` or ``"engine"``.
        levels: (Q,) the levels that were corrected.
        edges: (H,) last horizon of each bucket.
        shifts: (H, S, Q) corrections; S is 1 for ``"cqr"``.
        span_shifts: span -> (S, Q).
        segments: (S - 1,) levels that part the segments of ``"engine"``.
        power: exponent of the level in the unit of an error, for ``"engine"``.
        floor: smallest unit.
    """

    method: str
    levels: NDArray[np.float64]
    edges: NDArray[np.int64]
    shifts: NDArray[np.float64]
    span_shifts: dict[Span, NDArray[np.float64]]
    segments: NDArray[np.float64]
    power: float
    floor: float

    @classmethod
    def learn(cls, method: str, forecast: Forecast, outcomes: NDArray[np.float32]) -> Calibration:
        """Corrections from forecasts that were made without their outcomes.

        Args:
            method: ``"cqr"`` or ``"engine"``.
            forecast: M honest forecasts.
            outcomes: (M, K), NaN where not observed.

        Raises:
            DataError: too few outcomes to learn from.
        """
        if method not in METHODS:
            raise ParameterError(f"unknown calibration {method!r}: one of {', '.join(METHODS)}")
        seen = ~np.isnan(outcomes)
        if seen.sum() < len(forecast.levels) + 1:
            raise DataError(
                f"only {int(seen.sum())} outcomes to calibrate on",
                hint="Give more series, or fewer calibration_periods",
            )
        horizon = forecast.horizon
        edges = _bucket_edges(seen.sum(axis=0))
        level = np.abs(forecast.median.astype(np.float64))
        floor = 1e-3 * float(np.median(level[seen])) or 1e-9
        draft = cls(method, forecast.levels, edges, np.zeros(0), {}, np.zeros(0), 1.0, floor)
        if method == "engine":
            errors = np.abs(outcomes - forecast.median)[seen]
            draft = replace(
                draft,
                power=_power(errors, np.maximum(level, floor)[seen]),
                segments=np.quantile(level[seen], np.arange(1, _SEGMENTS) / _SEGMENTS),
            )
        bucket = np.searchsorted(edges, np.arange(1, horizon + 1))
        tables = [
            draft._table(forecast.values[:, bucket == b], outcomes[:, bucket == b])
            for b in range(len(edges))
        ]
        spans = {}
        for span, values in forecast.spans.items():
            sums = outcomes[:, span.lead : span.horizon].sum(axis=1)
            if (~np.isnan(sums)).sum() > len(forecast.levels):
                spans[span] = draft._table(values[:, None], sums[:, None])
        return replace(draft, shifts=np.stack(tables), span_shifts=spans)

    def apply(self, forecast: Forecast) -> Forecast:
        """The forecast with corrected quantiles, which still cannot cross."""
        bucket = np.searchsorted(self.edges, np.arange(1, forecast.horizon + 1))
        bucket = np.minimum(bucket, len(self.edges) - 1)
        values = forecast.values.astype(np.float64)
        segment = self._segment(values)
        corrected = self._correct(values, self.shifts[bucket[None, :], segment])
        spans = {}
        for span, sums in forecast.spans.items():
            table = self.span_shifts.get(span)
            wide = sums.astype(np.float64)
            spans[span] = sums if table is None else self._correct(wide, table[self._segment(wide)])
        return replace(forecast, values=corrected, spans=spans)

    def _table(self, values: NDArray, outcomes: NDArray) -> NDArray[np.float64]:
        """Corrections (S, Q) from forecasts (M, K, Q) and outcomes (M, K)."""
        values = values.astype(np.float64)
        seen = ~np.isnan(outcomes)
        unit = self._unit(values)
        if self.method == "cqr":
            errors = (outcomes[..., None] - values) / unit
        else:
            errors = np.broadcast_to(
                (outcomes[..., None] - self._middle(values)) / unit, values.shape
            )
        errors, segment = errors[seen], self._segment(values)[seen]
        everyone = _conformal_quantiles(errors, self.levels)
        table = []
        for s in range(len(self.segments) + 1):
            mine = errors[segment == s]
            own = _conformal_quantiles(mine, self.levels) if len(mine) else everyone
            share = len(mine) / (len(mine) + _SHRINKAGE)
            table.append(share * own + (1 - share) * everyone)
        return np.stack(table)

    def _correct(self, values: NDArray, shifts: NDArray) -> NDArray[np.float32]:
        start = values if self.method == "cqr" else self._middle(values)
        moved = start + self._unit(values) * shifts
        # Sorting a set of quantiles brings each no farther from the true one.
        return np.sort(moved, axis=-1).astype(np.float32)

    def _unit(self, values: NDArray) -> NDArray[np.float64]:
        """Size (..., 1) in which errors of forecasts (..., Q) are measured."""
        level = np.maximum(np.abs(self._middle(values)), self.floor)
        if self.method == "engine":
            return level**self.power
        return values[..., -1:] - values[..., :1] + 0.02 * level

    def _middle(self, values: NDArray) -> NDArray[np.float64]:
        return interpolate_quantiles(values, self.levels, np.array([0.5])).astype(np.float64)

    def _segment(self, values: NDArray) -> NDArray[np.int64]:
        if not len(self.segments):
            return np.zeros(values.shape[:-1], np.int64)
        return np.searchsorted(self.segments, np.abs(self._middle(values)[..., 0]))

    def to_dict(self) -> dict[str, Any]:
        """The corrections as JSON values."""
        return {
            "method": self.method,
            "levels": self.levels.tolist(),
            "edges": self.edges.tolist(),
            "shifts": self.shifts.tolist(),
            "spans": [[s.lead, s.cover, t.tolist()] for s, t in self.span_shifts.items()],
            "segments": self.segments.tolist(),
            "power": self.power,
            "floor": self.floor,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Calibration:
        """The inverse of :meth:`to_dict`."""
        return cls(
            str(state["method"]),
            np.array(state["levels"], np.float64),
            np.array(state["edges"], np.int64),
            np.array(state["shifts"], np.float64),
            {Span(a, b): np.array(t, np.float64) for a, b, t in state["spans"]},
            np.array(state["segments"], np.float64),
            float(state["power"]),
            float(state["floor"]),
        )


def learn_calibration(model: NeuralForecaster, panel: Panel) -> Calibration:
    """Fits a copy of the model without the last periods, and learns from its errors there.

    Raises:
        DataError: the series are too short to hold periods out.
    """
    periods = model.h if model.calibration_periods is None else model.calibration_periods
    if periods < 1:
        raise ParameterError(f"{model.name}: calibration_periods must be at least 1, not {periods}")
    past = panel.cut(periods)
    if not (past.lengths > 1).any():
        raise DataError(
            f"no series is longer than the {periods} periods held out for calibration",
            series=str(panel.ids[0]),
            hint="Lower calibration_periods, or leave calibrate out",
        )
    draft = clone(model).set_params(calibrate=None)
    if model.checkpoint is not None:
        draft.set_params(checkpoint=f"{model.checkpoint}/calibration")
    draft.fit(past)
    usable = panel.select(past.lengths > 0)
    back = np.unique(np.linspace(periods, max(1, periods // 4), _ORIGINS).round().astype(int))
    return learn_from_origins(draft, usable, back.tolist(), str(model.calibrate))


def learn_from_origins(
    model: NeuralForecaster, panel: Panel, back: Sequence[int], method: str
) -> Calibration:
    """Corrections from a fitted model's forecasts at origins whose outcomes it has not seen."""
    forecast = model._predict_origins(panel, list(back))
    outcomes = panel.outcomes(list(forecast.ids), forecast.cutoffs, model.h)
    if panel.censored is not None:
        # Sales that a stock-out cut are not the demand: quantiles must not come down to them.
        rows = np.array([panel.positions[str(i)] for i in forecast.ids], np.int64)
        stops = forecast.cutoffs - panel.starts[rows] + 1 + model.h
        outcomes[panel.censored_windows(rows, stops, model.h)] = np.nan
    return Calibration.learn(method, forecast, outcomes)


def _bucket_edges(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Last horizon of each bucket: a few with about equally many outcomes, at least enough each."""
    total = int(counts.sum())
    buckets = max(1, min(_BUCKETS, len(counts), total // _ENOUGH))
    cumulative = np.cumsum(counts)
    edges = np.searchsorted(cumulative, total * np.arange(1, buckets + 1) / buckets) + 1
    # The last bucket goes on to the end, and has outcomes of its own.
    edges = edges[cumulative[np.minimum(edges, len(counts)) - 1] < total]
    return np.unique([*edges, len(counts)])


def _conformal_quantiles(errors: NDArray, levels: NDArray) -> NDArray[np.float64]:
    """Finite-sample quantile ``ceil((n + 1) a) / n`` of each column (n, Q) at its level."""
    ordered = np.sort(errors, axis=0)
    n = len(ordered)
    rank = np.clip(np.ceil((n + 1) * levels).astype(int), 1, n) - 1
    return ordered[rank, np.arange(len(levels))]


def _power(errors: NDArray, level: NDArray) -> float:
    """Exponent of the growth of errors with the level, from a log-log regression, in [0.5, 1]."""
    usable = errors > 0
    if usable.sum() < 10:
        return 1.0
    x, y = np.log(level[usable]), np.log(errors[usable])
    variance = float(np.var(x))
    return float(np.clip(np.cov(x, y, bias=True)[0, 1] / variance, 0.5, 1.0)) if variance else 1.0
