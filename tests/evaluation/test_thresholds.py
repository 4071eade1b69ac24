from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.decisions.thresholds import UncertaintyThresholdClassifier
from foretell.errors import ParameterError
from foretell.estimators.uncertainty import CallableUncertainty, EnsembleUncertainty
from foretell.evaluation.threshold_data import (
    adult_categories,
    adult_income,
    movielens_fives,
    starbucks_waves,
)
from foretell.evaluation.thresholds import (
    ThresholdData,
    ThresholdStudy,
    _moments,
    _recall_at,
    threshold_study,
)


class Known(CallableUncertainty):
    """Scores and uncertainties that stand in the table."""

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.array([0, 1])
        return self

    def __call__(self, X):
        from foretell.estimators.uncertainty import Uncertain

        return Uncertain(X[:, 0], X[:, 1])


def split(n: int, seed: int, informative: bool) -> ThresholdData:
    """Scores over-promise where the second column is high, if that is informative."""
    rng = np.random.default_rng(seed)
    X = rng.random((3 * n, 2))
    p = np.where((X[:, 1] > 0.5) & informative, 0.45 * X[:, 0], X[:, 0] ** 2)
    y = (rng.random(3 * n) < p).astype(np.int8)
    return ThresholdData("made", *((X[i::3], y[i::3]) for i in range(3)))


def study(informative: bool, **options) -> ThresholdStudy:
    return threshold_study(
        lambda seed: split(3000, seed, informative), {"known": lambda seed: Known()},
        min_precisions=(0.6, 0.7), seeds=(0, 1), methods=("mist",), n_levels=2, resamples=60,
        **({"surface_options": {"binning": "uncertainty_then_score"}} | options),
    )  # fmt: skip


def test_uncertainty_that_tells_something_gains_recall_and_none_does_not():
    gain = study(True).summary()
    assert (gain["difference"] > 0.04).all() and gain["difference_low"][1] > 0
    none = study(False).summary()
    assert none["difference"].abs().max() < 0.06
    assert (none["difference_low"] < 0).all()


def test_tables_hold_what_they_say():
    found = study(True)
    assert found.deployed.height == 2 * 2 * 2  # seeds, methods with single, targets
    row = found.deployed.row(0, named=True)
    assert row["precision_low"] < row["precision"] < row["precision_high"]
    assert set(found.deployed["method"]) == {"single", "mist"}
    rates = found.reliability.filter(pl.col("score_low") > 0.6)
    assert (rates["rate_low_uncertainty"] > rates["rate_high_uncertainty"]).all()
    assert set(found.tables()) == {"sizes", "quality", "matched", "deployed", "reliability"}
    twice = ThresholdStudy.concat([found, found])
    assert twice.matched.height == 2 * found.matched.height


def test_recall_is_read_where_precision_passes_the_target():
    label = np.array([1, 1, 0, 1, 0, 0, 1, 0])
    decisions = np.tril(np.ones((8, 8), bool)).T  # the top one, the top two, ...
    precision, recall = _moments(decisions, label, np.ones((1, 8), np.float32))
    assert precision[0] == pytest.approx(np.cumsum(label) / np.arange(1, 9))
    assert recall[0] == pytest.approx(np.cumsum(label) / 4)
    # 3/4 at four rows, 3/5 at five: the last passage of .7 lies between them.
    assert _recall_at(precision, recall, 0.7)[0] == pytest.approx(0.75)
    assert np.isnan(_recall_at(precision, recall, 0.2)[0])


def test_an_empty_study_is_refused():
    with pytest.raises(ParameterError, match="at least one provider"):
        threshold_study(split(10, 0, True), {}, min_precisions=(0.5,))


@pytest.mark.real_data
def test_the_parts_of_the_public_data(data_set):
    waves = starbucks_waves(data_set("starbucks_offers"))
    facts = waves.describe()
    assert [facts[f"{p}_rows"] for p in ("train", "holdout", "test")] == [20_244, 20_386, 20_412]
    assert 0.36 < facts["test_rate"] < facts["holdout_rate"] < 0.41
    films = movielens_fives(data_set("movielens_100k"), 0).describe()
    assert films["train_rows"] == 50_000 and 0.2 < films["test_rate"] < 0.23
    people = adult_income(data_set("adult_census"), 0)
    assert people.describe()["test_rate"] == pytest.approx(0.239, abs=0.01)
    assert len(adult_categories(data_set("adult_census"))) == 8
    assert people.train[0].shape[1] == 13


@pytest.mark.real_data
def test_surfaces_on_starbucks_offers_are_usable(data_set):
    waves = starbucks_waves(data_set("starbucks_offers"))
    provider = EnsembleUncertainty(n_members=4, random_state=0).fit(*waves.train)
    model = UncertaintyThresholdClassifier(provider, cv="prefit", min_precision=0.7)
    report = model.fit(*waves.holdout).report(*waves.test)
    # The later waves hold fewer redemptions: precision drops by about four points.
    assert 0.62 < report.precision < 0.72
    assert report.recall > 0.4
