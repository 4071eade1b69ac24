from __future__ import annotations

import numpy as np
import pytest

from foretell.data.simulators.shop import shop
from foretell.errors import ParameterError
from foretell.estimators import MQCNN, MQDNN, MQRNN
from foretell.evaluation import LeakageError, leakage_check
from foretell.evaluation.leakage import corrupt_after
from foretell.learners.demand.legacy.legacy import LegacyForecaster
from foretell.learners.demand.quantile_forest import QRFForecaster


def test_an_honest_model_passes_all_three(kit):
    report = leakage_check(kit.EmpiricalQuantiles(h=3, shrink=0.5), kit.random_panel())
    assert report.passed
    assert [c.name for c in report.checks] == ["fit", "predict", "origins"]
    assert report.to_polars()["differing"].to_list() == [0, 0, 0]


@pytest.mark.parametrize(
    ("cheat", "check"),
    [("PeeksInFit", "fit"), ("PeeksInPredict", "predict"), ("PeeksAcrossOrigins", "origins")],
)
def test_each_kind_of_leak_is_found_and_named(kit, cheat, check):
    model = getattr(kit, cheat)(h=3)
    report = leakage_check(model, kit.random_panel(), raises=False)
    failed = [c for c in report.checks if not c.passed]
    assert failed[0].name == check
    assert failed[0].largest > 0
    with pytest.raises(LeakageError, match=rf"\({check}\).*first series '\d'"):
        leakage_check(model, kit.random_panel())


def test_only_the_peeking_series_is_named(kit):
    report = leakage_check(kit.PeeksInPredict(h=3), kit.random_panel(), raises=False)
    bad = next(c for c in report.checks if not c.passed)
    assert (bad.first, bad.differing, bad.rows) == ("1", 1, 3)


def test_corruption_touches_the_future_only(kit):
    panel = kit.random_panel()
    past = {"price": np.ones(len(panel.target), np.float32)}
    known = {"promo": np.ones(len(panel.target), np.float32)}
    panel = type(panel)(
        panel.ids, panel.frequency, panel.starts, panel.begins, panel.lengths, panel.target,
        np.zeros(len(panel.target), bool), past, known, panel.begins, panel.lengths,
    )  # fmt: skip
    other = corrupt_after(panel, 5)
    for i in range(len(panel)):
        np.testing.assert_array_equal(panel.series(i)[:-5], other.series(i)[:-5])
        assert np.all(panel.series(i)[-5:] != other.series(i)[-5:])
    assert (other.past["price"] != 1).sum() == 15
    np.testing.assert_array_equal(other.known["promo"], 1)
    assert np.isnan(other.target).any() and other.censored.any()
    assert not np.isnan(panel.target).any(), "the given panel must stay as it is"


def test_origins_that_cannot_be(kit):
    with pytest.raises(ParameterError, match="at least 1 period"):
        leakage_check(kit.EmpiricalQuantiles(h=3), kit.random_panel(), back=[0])
    with pytest.raises(ParameterError, match="no series has a value"):
        leakage_check(kit.EmpiricalQuantiles(h=3), kit.random_panel(), back=[40])


@pytest.fixture(scope="module")
def shop_panel():
    """Simulated sales with prices, promotions, events, page views and stock-outs."""
    panel, _ = shop(items=12, weeks=120, seed=0)
    return panel.select(np.arange(10))


@pytest.mark.parametrize(
    "model",
    [
        MQCNN(h=4, max_steps=3, batch_size=16, threads=1, span_targets=[(0, 2)]),
        MQRNN(h=4, max_steps=3, batch_size=16, threads=1),
        MQDNN(h=4, max_steps=3, batch_size=16, threads=1),
        LegacyForecaster(h=4),
        QRFForecaster(h=4, n_estimators=5, n_rows=2000),
    ],
    ids=lambda model: type(model).__name__,
)
def test_the_library_s_own_models_do_not_look_ahead(model, shop_panel):
    assert leakage_check(model, shop_panel).passed
