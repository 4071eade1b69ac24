"""Tables of what the classical patchwork learned: price elasticities and event effects."""

from __future__ import annotations

import numpy as np
import polars as pl

from foretell.data.panel import Panel
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.demand.legacy.legacy import LegacyForecaster


def legacy_effects(model: Forecaster, panel: Panel) -> dict[str, pl.DataFrame]:
    """Effects of a fitted :class:`LegacyForecaster`; empty for any other model.

    Args:
        model: the model.
        panel: the data it was fitted on, from which series take their group.

    Returns:
        ``elasticity``: ``unique_id, group, elasticity, lower, upper, identified``, one row a series
        (95 % intervals of the estimate that is shrunk to its group's; not identified where the
        price never moved); ``events``: ``event, group, offset, multiplier``, offset in periods from
        the event. Tables that the model has no add-on for are left out.
    """
    if not isinstance(model, LegacyForecaster) or not getattr(model, "is_fitted_", False):
        return {}
    names = ["all series"]
    if model.group_ is not None:
        names += [str(name) for name in model.vocabularies_[model.group_]]
    found = {}
    if model.patchwork_.price is not None:
        table = _elasticity(model, panel, names)
        if not table.is_empty():
            found["elasticity"] = table
    if model.patchwork_.events is not None:
        table = _events(model, names)
        if not table.is_empty():
            found["events"] = table
    return found


def _elasticity(model: LegacyForecaster, panel: Panel, names: list[str]) -> pl.DataFrame:
    price = model.patchwork_.price
    assert price is not None
    place = {name: i for i, name in enumerate(model.ids_)}
    rows = np.array([place.get(str(i), -1) for i in panel.ids], np.int64)
    kept = np.flatnonzero(rows >= 0)
    at = rows[kept]
    groups = model._groups(panel)[kept]
    groups = np.where(groups < price.groups_, groups, 0)
    spread, variance = price.group_spread_[groups], price.variance_[at]
    identified = np.isfinite(price.slope_[at]) & np.isfinite(variance)
    safe = np.where(identified, variance, 1.0)
    posterior = np.where(identified, spread * safe / (spread + safe), spread)
    margin = 1.96 * np.sqrt(posterior)
    value = price.elasticity_[at].astype(np.float64)
    upper = value + margin
    return pl.DataFrame(
        {
            "unique_id": pl.Series(panel.ids[kept].astype(str), dtype=pl.String),
            "group": pl.Series([names[g] for g in groups], dtype=pl.String),
            "elasticity": value,
            "lower": value - margin,
            "upper": np.minimum(upper, 0.0) if price.nonpositive else upper,
            "identified": identified,
        }
    )


def _events(model: LegacyForecaster, names: list[str]) -> pl.DataFrame:
    events = model.patchwork_.events
    assert events is not None
    offsets = range(-events.window, events.window + 1)
    rows = [
        (name, names[group], offset, float(effect))
        for name in events.names_
        for group in range(min(len(names), events.log_profile_.shape[0]))
        for offset, effect in zip(offsets, events.profile(name, group), strict=True)
    ]
    kinds = {"event": pl.String, "group": pl.String, "offset": pl.Int64, "multiplier": pl.Float64}
    return pl.DataFrame(rows, schema=kinds, orient="row")
