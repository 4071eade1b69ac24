"""MQ-CNN on public data: the figures of the standard protocols, with the recipes' settings."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.data.public.demand import favorita, m4, walmart
from foretell.estimators import MQCNN
from foretell.evaluation.metrics import (
    coverage,
    crossing_rate,
    mase,
    seasonal_scale,
    weighted_quantile_loss,
)

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

WALMART = {"n_forks": 8, "max_steps": 300, "past": [], "static": [], "profile_groups": ["Dept"]}
FAVORITA = {
    "n_forks": 8,
    "max_steps": 400,
    "dropout": 0.1,
    "static": [],
    "profile_groups": ["product"],
    "seeds": 2,
}
HOURLY = {"n_forks": 16, "max_steps": 1000, "batch_size": 32, "loss_weight": 0.0}


def wql(panel, forecast):
    y = panel.outcomes(list(forecast.ids), forecast.cutoffs, forecast.horizon)
    assert crossing_rate(forecast.values) == 0
    return weighted_quantile_loss(y, forecast.values, forecast.levels), y


def test_walmart(data_set):
    panel = walmart(data_set("walmart_store_sales"))
    model = MQCNN(h=39, **WALMART, calibrate="cqr").fit(panel.cut(39))
    forecast = model.predict_origins(panel, [39])
    score, y = wql(panel, forecast)
    assert score <= 0.085
    assert np.abs(coverage(y, forecast.values) - forecast.levels).max() <= 0.06
    last = MQCNN(h=39, **{**WALMART, "fork_draw": "last", "n_forks": 1}).fit(panel.cut(39))
    # One window a series, as public code trains by default.
    assert wql(panel, last.predict_origins(panel, [39]))[0] >= 1.3 * score


def test_favorita(data_set):
    panel = favorita(data_set("favorita_weekly_21_stores"))
    model = MQCNN(h=13, **FAVORITA).fit(panel.cut(171 - 118))
    back = [171 - week for week in (118, 126, 134, 142, 150, 158)]
    assert wql(panel, model.predict_origins(panel, back))[0] <= 0.198


def test_m4_hourly(data_set):
    panel = m4(data_set("m4"), "hourly")
    model = MQCNN(h=48, season_length=(24, 168), **HOURLY).fit(panel.cut(48))
    forecast = model.predict_origins(panel, [48])
    score, y = wql(panel, forecast)
    scales = np.array([seasonal_scale(series[:-48], 24) for series in panel])
    assert score <= 0.037
    assert mase(y, forecast.median, scales) <= 1.15
