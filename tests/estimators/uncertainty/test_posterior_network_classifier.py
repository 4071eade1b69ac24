from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from foretell.errors import ArtefactError, ParameterError
from foretell.estimators.uncertainty import PosteriorNetworkClassifier


def make(**options):
    small = {"hidden_sizes": (32,), "latent_size": 3, "flow_layers": 4, "min_steps": 250,
             "epochs": 1, "learning_rate": 5e-3, "random_state": 0, "threads": 1}  # fmt: skip
    return PosteriorNetworkClassifier(**(small | options))


@pytest.fixture(scope="module", params=["per_class", "single"])
def model(request, table):
    return make(variant=request.param).fit(*table(2000, 0))


def test_uncertainties_are_those_of_the_beta_distribution(model, table):
    X, _ = table(100, 1)
    alpha = model.concentration(X)
    beta = stats.beta(alpha[:, 1], alpha[:, 0])
    expected = {
        "negative_log_evidence": -np.log(alpha.sum(1)),
        "differential_entropy": beta.entropy(),
        "std": beta.std(),
    }
    for name, values in expected.items():
        model.uncertainty = name
        seen = model(X)
        assert seen.score == pytest.approx(beta.mean())
        assert seen.uncertainty == pytest.approx(values, abs=1e-6)
    model.uncertainty = "negative_log_evidence"


def test_it_learns_and_knows_what_it_has_not_seen(model, table):
    X, y = table(1000, 2)
    seen = model(X)
    assert ((seen.score > 0.5) == y).mean() > 0.72  # the true model reaches 0.78
    away = model(np.array([[9.0, 9.0, 9.0], [-9.0, 9.0, -9.0]]))
    assert away.uncertainty.min() > np.quantile(seen.uncertainty, 0.9)


def test_thinned_negatives_are_counted_back(table):
    X, y = table(6000, 3)
    rng = np.random.default_rng(0)
    kept = (y == 1) | (rng.random(len(y)) < 0.2)
    plain = make().fit(X[kept], y[kept])
    whole = make(negative_sampling_rate=0.2).fit(X[kept], y[kept])
    new, labels = table(3000, 4)
    rate = labels.mean()
    assert plain(new).score.mean() > rate + 0.15
    assert whole(new).score.mean() == pytest.approx(rate, abs=0.07)


def test_categories_are_embedded_and_unknown_ones_count_as_none(table):
    rng = np.random.default_rng(0)
    code = rng.integers(1, 6, size=2000)
    y = (rng.random(2000) < np.array([0, 0.1, 0.9, 0.1, 0.9, 0.5])[code]).astype(int)
    X = np.column_stack([code, rng.normal(size=2000)])
    model = make(categorical_features=[0]).fit(X, y)
    at = np.column_stack([np.arange(1, 6), np.zeros(5)])
    assert (model(at).score[:4] > 0.5).tolist() == [False, True, False, True]
    unknown = model(np.array([[77.0, 0.0], [0.0, 0.0]])).score
    assert unknown[0] == pytest.approx(unknown[1], rel=1e-5)


def test_saved_and_loaded_it_says_the_same(model, table, tmp_path):
    X, _ = table(50, 5)
    model.save(tmp_path / "model")
    again = PosteriorNetworkClassifier.load(tmp_path / "model")
    assert np.array_equal(again(X).uncertainty, model(X).uncertainty)
    assert again.get_params() == model.get_params()
    (tmp_path / "model" / "arrays.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtefactError):
        PosteriorNetworkClassifier.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uncertainty": "entropy"}, "negative_log_evidence, differential_entropy, std"),
        ({"negative_sampling_rate": 0.0}, r"in \(0, 1\]"),
        ({"variant": "two"}, "per_class, single"),
        ({"validation_fraction": 1.0}, r"validation_fraction must lie in \[0, 1\)"),
        ({"categorical_features": ["price"]}, "'price'"),
    ],
)
def test_parameters_out_of_range_are_named(table, options, message):
    with pytest.raises(ParameterError, match=message):
        make(**options).fit(*table(60, 0))
