"""Forecasters in GluonTS' clothes: its own evaluation finds the figures that ours finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foretell.data import Panel, from_gluonts, to_gluonts
from foretell.data.frequency import Frequency
from foretell.data.simulators import shop
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.estimators import MQCNN
from foretell.evaluation.metrics import coverage, wape, weighted_quantile_loss
from foretell.learners.demand import Forecaster, LegacyForecaster, QRFForecaster
from foretell.learners.demand.gluonts_predictor import panel_of_entries

H = 4
MODELS = {
    "legacy": lambda: LegacyForecaster(H),
    "forest": lambda: QRFForecaster(H, n_rows=1000, n_estimators=5),
    "mq_cnn": lambda: MQCNN(H, n_forks=4, max_steps=5, batch_size=16, threads=1),
}


@pytest.fixture(scope="module")
def panel() -> Panel:
    made = shop(items=5, stores=3, weeks=90, horizon=H, seed=2)[0]
    return replace(made, censored=None)  # GluonTS has no place for it


@pytest.fixture(scope="module")
def fitted(panel: Panel) -> dict[str, Forecaster]:
    return {name: make().fit(panel.cut(H)) for name, make in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_gluonts_own_evaluation_agrees_with_ours(
    name: str, fitted: dict[str, Forecaster], panel: Panel
) -> None:
    gluonts: Any = pytest.importorskip("gluonts.evaluation")
    from gluonts.dataset.common import ListDataset
    from gluonts.model.forecast import QuantileForecast
    from gluonts.model.predictor import Predictor

    model = fitted[name]
    predictor = model.to_gluonts_predictor(series_at_once=7)
    assert isinstance(predictor, Predictor)
    dataset = ListDataset(list(to_gluonts(panel)), freq=panel.frequency.alias)
    forecasts, series = gluonts.make_evaluation_predictions(dataset, predictor)
    forecasts = list(forecasts)
    assert all(isinstance(f, QuantileForecast) for f in forecasts)
    assert [f.item_id for f in forecasts] == list(panel.ids)
    ours = model.predict(panel.cut(H))
    for forecast, row, entry in zip(forecasts, ours.values, dataset, strict=True):
        np.testing.assert_allclose(forecast.quantile(0.3), row[:, 2], rtol=1e-4, atol=1e-4)
        assert forecast.start_date == entry["start"] + len(entry["target"]) - H
    evaluator = gluonts.Evaluator(quantiles=list(ours.levels), num_workers=0)
    found, _ = evaluator(series, forecasts)
    y = panel.windows(np.arange(len(panel)), panel.lengths, H)
    assert found["mean_wQuantileLoss"] == pytest.approx(
        weighted_quantile_loss(y, ours.values, ours.levels), rel=1e-4
    )
    assert found["ND"] == pytest.approx(wape(y, ours.median), rel=1e-4)
    assert found["Coverage[0.9]"] == pytest.approx(coverage(y, ours.values)[-1], abs=0.02)


def test_a_predictor_is_written_and_read_back(fitted, panel: Panel, tmp_path) -> None:
    pytest.importorskip("gluonts")
    from gluonts.model.predictor import Predictor

    predictor = fitted["forest"].to_gluonts_predictor()
    predictor.serialize(tmp_path)
    loaded = Predictor.deserialize(tmp_path)
    entries = list(to_gluonts(panel.cut(H)))[:3]
    for one, other in zip(predictor.predict(entries), loaded.predict(entries), strict=True):
        np.testing.assert_array_equal(one.forecast_array, other.forecast_array)


def test_windows_of_one_item_and_items_without_a_name(fitted, panel: Panel) -> None:
    pytest.importorskip("gluonts")
    predictor = fitted["legacy"].to_gluonts_predictor()
    entry = next(to_gluonts(panel.cut(H)))
    cut = {key: entry[key][..., :-3] for key in ("target", "past_feat_dynamic_real")}
    shorter = {**entry, **cut}
    nameless = [{k: v for k, v in e.items() if k != "item_id"} for e in (entry, entry)]
    forecasts = list(predictor.predict([entry, shorter, *nameless], num_samples=100))
    assert [f.item_id for f in forecasts] == [entry["item_id"]] * 2 + [None] * 2
    assert forecasts[1].start_date == forecasts[0].start_date - 3
    np.testing.assert_array_equal(forecasts[2].forecast_array, forecasts[3].forecast_array)


def test_integer_time_is_the_number_of_the_period() -> None:
    gluonts = pytest.importorskip("gluonts")
    import pandas as pd

    assert gluonts is not None
    series = [np.sin(np.arange(60) / 3) + 5, np.cos(np.arange(50) / 3) + 4]
    panel = Panel.from_arrays(series, frequency=Frequency())
    model = LegacyForecaster(H).fit(panel)
    start = pd.Period("2020-01-01 00", freq="h")
    entries = [{"start": start, "target": s.astype(np.float32)} for s in series]
    forecasts = list(model.to_gluonts_predictor().predict(entries))
    assert forecasts[0].start_date == start + 60
    assert forecasts[0].forecast_array.shape == (9, H)


def test_columns_and_categories_are_those_of_the_fit(fitted, panel: Panel) -> None:
    entries = list(to_gluonts(panel))
    read = panel_of_entries(fitted["forest"], entries)
    assert read.fingerprint() == panel.fingerprint()
    strange = {**entries[0], "feat_static_cat": np.array([99, 1, 1, 1])}
    category = next(iter(panel.static_categorical))
    assert panel_of_entries(fitted["forest"], [strange]).static_categorical[category].codes[0] == 0
    bare = {**entries[0], "feat_dynamic_real": entries[0]["feat_dynamic_real"][:1]}
    with pytest.raises(DataError, match=r"feat_dynamic_real has 1 rows, the fit had 5: price"):
        panel_of_entries(fitted["forest"], [bare])


def test_a_forecaster_of_gluonts_dicts_takes_their_numbers_as_names(panel: Panel) -> None:
    entries = list(to_gluonts(panel))
    own = from_gluonts(entries)
    model = LegacyForecaster(H).fit(own)
    assert panel_of_entries(model, entries).fingerprint() == own.fingerprint()


def test_what_cannot_be_made_is_refused(fitted) -> None:
    with pytest.raises(NotFittedError):
        LegacyForecaster(H).to_gluonts_predictor()
    with pytest.raises(ParameterError, match="series_at_once"):
        fitted["legacy"].to_gluonts_predictor(series_at_once=0)
