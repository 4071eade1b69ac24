from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

from foretell.errors import ArtefactError, ParameterError
from foretell.learners.artefact import load_artefact, save_artefact
from foretell.learners.trees import BoostedTrees


def make_table(n: int = 800, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers and two codes, a tenth of them missing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    X[:, 1] = rng.integers(0, 40, n) * 3.0
    X[:, 3] = rng.integers(0, 4, n)
    effect = X[:, 0] + np.sin(X[:, 1]) + (X[:, 3] == 2)
    y = (effect + rng.normal(size=n) > 0.3).astype(int)
    X[rng.random(X.shape) < 0.1] = np.nan
    return X, y


@pytest.fixture(scope="module")
def fitted() -> HistGradientBoostingClassifier:
    model = HistGradientBoostingClassifier(max_iter=12, categorical_features=[1, 3])
    return model.fit(*make_table())


@settings(max_examples=15, deadline=None)
@given(
    categorical=st.lists(st.sampled_from([1, 3]), unique=True),
    leaves=st.integers(2, 20),
    seed=st.integers(0, 1000),
)
def test_probabilities_are_those_of_scikit_learn(categorical, leaves, seed):
    X, y = make_table(seed=seed)
    model = HistGradientBoostingClassifier(
        max_iter=5, max_leaf_nodes=leaves, categorical_features=categorical or None, random_state=0
    ).fit(X, y)
    fresh, _ = make_table(seed=seed + 1)
    fresh[:20, 3] = 77  # a category that training never saw
    fresh[20:30] = np.nan
    fresh[30:40, 1] = -5
    kept = BoostedTrees.from_sklearn(model)
    np.testing.assert_allclose(kept.predict_proba(fresh), model.predict_proba(fresh), rtol=1e-12)


def test_what_is_loaded_predicts_the_same(fitted, tmp_path):
    kept = BoostedTrees.from_sklearn(fitted)
    kept.save(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"model.json", "arrays.safetensors"}
    X, _ = make_table(seed=5)
    again = BoostedTrees.load(tmp_path).predict_proba(X)
    np.testing.assert_array_equal(again, kept.predict_proba(X))


def test_models_that_cannot_be_kept():
    X, y = make_table()
    with pytest.raises(ParameterError, match="not those of a GradientBoostingClassifier"):
        BoostedTrees.from_sklearn(
            GradientBoostingClassifier(n_estimators=1).fit(X[:50] * 0 == 0, y[:50])
        )
    three = HistGradientBoostingClassifier(max_iter=1).fit(X, y + (X[:, 0] > 1))
    with pytest.raises(ParameterError, match="classes must be 0 and 1"):
        BoostedTrees.from_sklearn(three)


def test_another_number_of_columns(fitted):
    with pytest.raises(ParameterError, match=r"must be \(n, 4\), not \(3, 5\)"):
        BoostedTrees.from_sklearn(fitted).predict_proba(np.zeros((3, 5)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("children", lambda a: a * 0),  # a loop that would never end
        ("children", lambda a: a + 10**6),
        ("feature", lambda a: a + 9),
        ("left_set", lambda a: a + 10**6),
        ("known_set", lambda a: a * 0 - 1),
        ("roots", lambda a: a - 1),
        ("order", lambda a: a + 1),
        ("threshold", lambda a: a[1:]),
        ("category_ends", lambda a: a + 1),
        ("sets", lambda a: a[:, :4]),
        ("feature", lambda a: a.astype(float)),
    ],
)
def test_hostile_arrays_are_refused(fitted, tmp_path, name, change):
    BoostedTrees.from_sklearn(fitted).save(tmp_path)
    config, arrays = load_artefact(tmp_path, "BoostedTrees")
    save_artefact(tmp_path, "BoostedTrees", config, {**arrays, name: change(arrays[name])})
    with pytest.raises(ArtefactError, match="is damaged"):
        BoostedTrees.load(tmp_path)


def test_missing_arrays_are_named(fitted, tmp_path):
    BoostedTrees.from_sklearn(fitted).save(tmp_path)
    config, arrays = load_artefact(tmp_path, "BoostedTrees")
    del arrays["roots"]
    save_artefact(tmp_path, "BoostedTrees", config, arrays)
    with pytest.raises(ArtefactError, match="lacks roots"):
        BoostedTrees.load(tmp_path)
