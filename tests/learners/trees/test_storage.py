"""Saved forests, hostile folders, columns on disk, merged forests."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from scipy import sparse

from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.learners.trees import ColumnStore
from foretell.learners.trees import SparseQuantileForestRegressor as Forest

LEVELS = [0.1, 0.5, 0.9]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 5))
    X[rng.uniform(size=X.shape) < 0.4] = np.nan
    y = 2 * np.nan_to_num(X[:, 0], nan=3.0) + rng.normal(size=500)
    return X, y


@pytest.mark.parametrize("storage", ["codes", "values"])
def test_a_saved_forest_predicts_the_same(problem, tmp_path, storage):
    X, y = problem
    forest = Forest(5, leaf_storage=storage, random_state=0).fit(X, y)
    forest.save(tmp_path / "model")
    again = Forest.load(tmp_path / "model")
    np.testing.assert_array_equal(forest.predict(X, LEVELS), again.predict(X, LEVELS))
    np.testing.assert_array_equal(forest.apply(X), again.apply(X))
    assert again.get_params() == forest.get_params()
    np.testing.assert_array_equal(again.feature_importances_, forest.feature_importances_)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "forest.json",
        "forest.npz",
    ]


def test_names_records_and_groups_survive(problem, tmp_path):
    import pandas as pd

    X, y = problem
    frame = pd.DataFrame(X, columns=list("abcde"))
    groups = np.where(y > 0, "high", "low")
    forest = Forest(3, random_state=0).fit(frame, y, groups=groups)
    forest.save(tmp_path / "frame")
    again = Forest.load(tmp_path / "frame")
    assert list(again.feature_names_in_) == list("abcde")
    np.testing.assert_array_equal(
        forest.predict(frame, LEVELS, groups=groups), again.predict(frame, LEVELS, groups=groups)
    )
    records = [{"kind": "tea" if v > 0 else "milk"} for v in y]
    forest = Forest(3, random_state=0).fit(records, y)
    forest.save(tmp_path / "records")
    again = Forest.load(tmp_path / "records")
    np.testing.assert_array_equal(forest.predict(records), again.predict(records))


def test_nothing_is_saved_before_fit(tmp_path):
    with pytest.raises(Exception, match="not fitted"):
        Forest().save(tmp_path)
    assert NotFittedError.exit_code == 2


def rewrite(folder, **changes):
    """Replaces arrays of a saved forest; None drops one."""
    with np.load(folder / "forest.npz") as archive:
        arrays = dict(archive)
    arrays.update(changes)
    np.savez(folder / "forest.npz", **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def change(name, position, value):
    def apply(folder):
        with np.load(folder / "forest.npz") as archive:
            array = archive[name].copy()
        array[position] = value
        rewrite(folder, **{name: array})

    return apply


def edit_header(**changes):
    def apply(folder):
        path = folder / "forest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the folder's code was run",))


def pickled_member(folder):
    with np.load(folder / "forest.npz") as archive:
        arrays = dict(archive)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(folder / "forest.npz", "w") as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array)
            archive.writestr(
                f"{name}.npy", part.getvalue() if name != "values" else buffer.getvalue()
            )


def whole_file_pickled(folder):
    (folder / "forest.npz").write_bytes(pickle.dumps(Bomb()))


def cut_in_half(folder):
    data = (folder / "forest.npz").read_bytes()
    (folder / "forest.npz").write_bytes(data[: len(data) // 2])


ATTACKS = {
    "cycle": change("child", 0, 0),
    "child beyond the tree": change("child", 0, 10**6),
    "column that does not exist": change("feature", 0, 99),
    "column below -1": change("feature", 0, -7),
    "code beyond the responses": change("codes", 0, 60_000),
    "leaf beyond the tree": change("child", -1, 10**6),
    "pointer running backwards": change("leaf_ptr", 1, -5),
    "pointer beyond the end": change("tree_ptr", -1, 10**9),
    "weight that is not a number": change("weights", 0, np.nan),
    "response that is infinite": change("values", -1, np.inf),
    "threshold that is not a number": change("threshold", 0, np.nan),
    "array missing": lambda folder: rewrite(folder, weights=None),
    "array too many": lambda folder: rewrite(folder, surprise=np.zeros(1)),
    "wrong type": lambda folder: rewrite(folder, feature=np.zeros(3)),
    "wrong shape": lambda folder: rewrite(folder, values=np.zeros((2, 2))),
    "pickled member": pickled_member,
    "pickled file": whole_file_pickled,
    "cut in half": cut_in_half,
    "file missing": lambda folder: (folder / "forest.npz").unlink(),
    "no header": lambda folder: (folder / "forest.json").unlink(),
    "header that is no JSON": lambda folder: (folder / "forest.json").write_text("{"),
    "newer version": edit_header(version=[2, 0]),
    "version that is text": edit_header(version="1"),
    "another format": edit_header(format="joblib"),
    "parameter unknown": edit_header(parameters={"evil": 1}),
    "parameter outside its range": edit_header(parameters={"interpolation": "evil"}),
    "columns that are no number": edit_header(n_columns="5"),
    "columns that do not fit": edit_header(n_columns=3),
    "names that do not fit": edit_header(feature_names=["a"]),
    "groups that are a list": edit_header(groups=[1]),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_folders_are_refused(problem, tmp_path, attack):
    X, y = problem
    Forest(3, random_state=0).fit(X, y).save(tmp_path)
    Forest.load(tmp_path)
    ATTACKS[attack](tmp_path)
    with pytest.raises(ArtefactError):
        Forest.load(tmp_path)


def test_the_model_is_small(problem):
    X, y = problem
    big = Forest(20, random_state=0).fit(np.tile(X, (20, 1)), np.tile(y, 20))
    # at most 64 entries of 6 bytes in a leaf, and nothing that grows with rows times trees
    leaves = len(big.forest_.leaf_ptr) - 1
    assert big.forest_.nbytes <= leaves * (64 * 6 + 60) + 30_000


# -------------------------------------------------------- columns on disk


def in_blocks(X, y, weight=None, size=120):
    def blocks():
        for start in range(0, len(y), size):
            part = slice(start, start + size)
            yield X[part], y[part], None if weight is None else weight[part]

    return blocks


def test_a_store_grows_the_same_forest_as_memory(problem, tmp_path):
    X, y = problem
    weight = np.random.default_rng(1).uniform(0.5, 2, len(y))
    weight[::7] = 0
    store = ColumnStore.create(tmp_path, in_blocks(X, y, weight))
    assert (tmp_path / "bins.npy").exists()
    options = {"max_samples": 0.3, "random_state": 0, "n_jobs": 2}
    from_store = Forest(6, **options).fit_store(ColumnStore.open(tmp_path))
    in_memory = Forest(6, **options).fit(X, y, weight)
    np.testing.assert_array_equal(from_store.predict(X, LEVELS), in_memory.predict(X, LEVELS))
    assert store.columns.n_rows == (weight > 0).sum()
    with pytest.raises(ParameterError, match="oob_score"):
        Forest(2, oob_score=True).fit_store(store)


def test_a_store_samples_rows_for_its_cut_points(problem, tmp_path):
    X, y = problem
    store = ColumnStore.create(tmp_path, in_blocks(X, y), sample_rows=100)
    assert np.diff(store.columns.cut_ptr).max() < 100
    forest = Forest(20, random_state=0).fit_store(store)
    assert forest.score(X, y) > 0.6


def test_stores_that_cannot_be_used(problem, tmp_path):
    X, y = problem
    with pytest.raises(DataError, match="block 0"):
        ColumnStore.create(tmp_path, lambda: [(X, y[:-1])])
    with pytest.raises(DataError, match="no row"):
        ColumnStore.create(tmp_path, lambda: [])
    with pytest.raises(DataError, match="columns"):
        ColumnStore.create(tmp_path, lambda: [(X, y), (X[:, :2], y)])
    broken = np.where(np.arange(len(y)) == 3, np.nan, y)
    with pytest.raises(DataError, match="row 3"):
        ColumnStore.create(tmp_path, lambda: [(X, broken)])
    with pytest.raises(ArtefactError):
        ColumnStore.open(tmp_path / "nowhere")
    ColumnStore.create(tmp_path, in_blocks(X, y))
    rows = np.load(tmp_path / "rows.npy")
    rows[0] = 10**6
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ArtefactError, match="row id"):
        ColumnStore.open(tmp_path)


# ---------------------------------------------------------------- merge


def test_a_merged_forest_averages_its_parts(problem):
    X, y = problem
    parts = [Forest(4, random_state=k).fit(X[k::2], y[k::2]) for k in range(2)]
    merged = parts[0].merge(parts[1])
    assert merged.n_estimators == 8
    np.testing.assert_allclose(
        merged.predict(X), (parts[0].predict(X) + parts[1].predict(X)) / 2, atol=1e-6
    )
    points = [-1.0, 0.0, 2.0]
    np.testing.assert_allclose(
        merged.predict_cdf(X, points),
        (parts[0].predict_cdf(X, points) + parts[1].predict_cdf(X, points)) / 2,
        atol=1e-6,
    )
    with pytest.raises(DataError, match="columns"):
        merged.merge(Forest(2).fit(X[:, :2], y))


def test_absent_is_kept_by_every_sparse_format(problem):
    X, y = problem
    rows, columns = np.nonzero(~np.isnan(X))
    matrix = sparse.csr_matrix((X[rows, columns], (rows, columns)), shape=X.shape)
    forest = Forest(3, random_state=0).fit(matrix, y)
    for form in (matrix.tocsc(), matrix.tocoo(), sparse.csr_array(matrix)):
        np.testing.assert_array_equal(forest.predict(form, 0.5), forest.predict(X, 0.5))
