"""Quantiles of the demand over a protection period, from what a forecast holds."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError
from foretell.learners.demand.forecast import Forecast, Span, interpolate_quantiles

Dependence = Literal["rank", "independent"]
_DRAWS_AT_ONCE = 4_000_000


class PeriodDemand(NamedTuple):
    """Quantiles (M,) and how they were had: ``period``, ``span``, ``rank`` or ``independent``."""

    quantile: NDArray[np.float64]
    method: str


def demand_quantile(
    forecast: Forecast,
    periods: int,
    fractile: NDArray[np.float64],
    *,
    dependence: Dependence = "rank",
    samples: int = 2000,
    seed: int = 0,
) -> PeriodDemand:
    """Quantile of the demand over the next ``periods`` periods.

    Quantiles do not add. Where the forecast carries the span of exactly these periods (or it is one
    period only), its own quantiles are used. Otherwise periods are summed under an assumption that
    the result names: ``rank`` (all periods high or low together: the sum of quantiles, an upper
    bound for high fractiles) or ``independent`` (sampled, too narrow when demand drifts).

    Args:
        forecast: M rows.
        periods: number P >= 1 of periods after the cutoff.
        fractile: (M,) levels in (0, 1), one a row.
        dependence: the assumption between periods where the forecast has no such span.
        samples: number of sample paths for ``independent``.
        seed: of the samples, which all rows share.

    Raises:
        ParameterError: the forecast does not reach so far, or a fractile is outside (0, 1).
    """
    fractile = np.broadcast_to(np.asarray(fractile, np.float64), (len(forecast),))
    if np.any(~((fractile > 0) & (fractile < 1))):
        raise ParameterError("fractiles must lie inside (0, 1)")
    span = Span(0, periods)
    if span in forecast.spans:
        return PeriodDemand(_pick(forecast.spans[span], forecast.levels, fractile), "span")
    if periods > forecast.horizon:
        raise ParameterError(
            f"orders must cover {periods} periods (lead time and review), but the forecast reaches "
            f"{forecast.horizon}: forecast further or shorten them"
        )
    values = forecast.values[:, :periods]
    if periods == 1:
        return PeriodDemand(_pick(values[:, 0], forecast.levels, fractile), "period")
    if dependence == "rank":
        total = np.zeros(len(forecast))
        for k in range(periods):
            total += _pick(values[:, k], forecast.levels, fractile)
        return PeriodDemand(total, "rank")
    if dependence != "independent":
        raise ParameterError(f"dependence must be 'rank' or 'independent', not {dependence!r}")
    if samples < 2:
        raise ParameterError(f"samples must be at least 2, not {samples}")
    rng = np.random.default_rng(seed)
    # Stratified: each stratum of (0, 1) once a period, in an order of its own.
    strata = np.stack([rng.permutation(samples) for _ in range(periods)])
    uniforms = (strata + rng.uniform(size=strata.shape)) / samples
    uniforms = np.clip(uniforms, 1e-9, 1 - 1e-9)
    result = np.empty(len(forecast))
    step = max(1, _DRAWS_AT_ONCE // samples)
    for begin in range(0, len(forecast), step):
        part = slice(begin, begin + step)
        total = np.zeros((len(values[part]), samples))
        for k in range(periods):
            total += interpolate_quantiles(values[part, k], forecast.levels, uniforms[k])
        total.sort(axis=1)
        place = np.clip(fractile[part] * samples - 0.5, 0, samples - 1)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, samples - 1)
        rows = np.arange(len(total))
        share = place - low
        result[part] = (1 - share) * total[rows, low] + share * total[rows, high]
    return PeriodDemand(result, "independent")


def _pick(
    values: NDArray, levels: NDArray[np.float64], fractile: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One quantile of each row of (M, Q)."""
    result = np.empty(len(values))
    for level in np.unique(fractile):
        rows = fractile == level
        wanted = np.array([level])
        result[rows] = interpolate_quantiles(values[rows], levels, wanted)[:, 0]
    return result
