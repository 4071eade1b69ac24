"""A forecast of a few series is that of all: what is shared between series comes from the fit."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.data import Panel
from foretell.data.simulators import shop
from foretell.estimators import MQCNN, MQDNN, MQRNN, QuantileEnsemble
from foretell.learners.demand import Forecaster, LegacyForecaster, QRFForecaster

H = 4
NEURAL = {"max_steps": 6, "batch_size": 16, "threads": 1}
MODELS = {
    "legacy": lambda: LegacyForecaster(H),
    "forest": lambda: QRFForecaster(H, n_rows=2000, n_estimators=8),
    "mq_dnn": lambda: MQDNN(H, n_rows=2000, **NEURAL),
    "mq_cnn": lambda: MQCNN(H, n_forks=4, profile_groups=["item"], **NEURAL),
    "mq_rnn": lambda: MQRNN(H, n_forks=4, profile_groups=["store"], calibrate="cqr", **NEURAL),
    "ensemble": lambda: QuantileEnsemble(
        [QRFForecaster(H, n_rows=1000, n_estimators=4), LegacyForecaster(H)]
    ),
}


@pytest.fixture(scope="module")
def panel() -> Panel:
    return shop(items=8, stores=4, weeks=110, horizon=H, seed=3)[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_few_series_are_forecast_as_among_all(name: str, panel: Panel, tmp_path) -> None:
    model = MODELS[name]().fit(panel)
    rows = np.array([1, 6, 17])
    few = panel.select(rows)
    whole, part = model.predict(panel), model.predict(few)
    np.testing.assert_allclose(part.values, whole.values[rows], rtol=1e-4, atol=1e-4)
    earlier = model.predict_origins(panel, [5]), model.predict_origins(few, [5])
    np.testing.assert_allclose(earlier[1].values, earlier[0].values[rows], rtol=1e-4, atol=1e-4)
    model.save(tmp_path / "model")
    loaded = Forecaster.load(tmp_path / "model").predict(few)
    np.testing.assert_array_equal(loaded.values, part.values)


@pytest.mark.parametrize("name", ["forest", "mq_dnn"])
def test_groups_without_their_other_members_would_look_different(name: str, panel: Panel) -> None:
    """The features read groups at all: a fit on the few alone forecasts otherwise."""
    rows = np.array([1, 6, 17])
    among_all = MODELS[name]().fit(panel).pack_
    alone = MODELS[name]().fit(panel.select(rows)).pack_
    assert among_all.groups_["all"].running["count"][0, -1] > 3 * 100
    assert alone.groups_["all"].running["count"][0, -1] <= 3 * 110
