from __future__ import annotations

import numpy as np
import pytest

from foretell.decisions.sensing import HourlySensing, NearestDonors, Panel
from foretell.errors import ArtefactError, DataError, ParameterError
from foretell.learners.artefact import save_artefact

NAMES = ["A:last", "B:last", "A:since", "age"]
"""Only A matters; its old value says half as much as its new one."""
ORDERS = [["A"], ["B"]]
PANELS = [Panel("a", (0,), 1.0), Panel("b", (1,), 1.0)]
QUICK = {"sampler": "mixture", "sampler_options": {"components": 2, "factors": 1},
         "members": 1, "hidden": (16,), "max_steps": 250, "threads": 1}  # fmt: skip


def hours(size=1500, seed=0):
    """Features, hours since, known, values before and labels."""
    rng = np.random.default_rng(seed)
    now, age = rng.normal(size=(size, 2)), rng.normal(size=size)
    before = 0.7 * now + 0.7 * rng.normal(size=(size, 2))
    label = rng.random(size) < 1 / (1 + np.exp(2 - 2.5 * now[:, 0]))
    since = np.where(rng.random((size, 2)) < 0.6, 1, 9)
    known = rng.random((size, 2)) < 0.9
    last = np.where(since < 6, now, before)
    last = np.where(known, last, 0.0)
    features = np.column_stack([last, since[:, 0], age]).astype(np.float32)
    return features, since, known, np.where(known, before, np.nan), label.astype(int)


@pytest.fixture(scope="module")
def held():
    features, since, known, before, label = hours()
    return HourlySensing.fit(NAMES, features, since, known, label, ORDERS, before=before, **QUICK)


def test_new_and_old_values_are_told_apart(held):
    features = np.array([[1.0, 2.0, 5.0, 0.3]] * 3, np.float32)
    since, known = np.array([[1, 8], [5, 6], [0, 0]]), np.array([[1, 1], [1, 1], [0, 1]], bool)
    values, seen = held.inputs(NAMES, features, since, known)
    np.testing.assert_allclose(values, [[1, 0, 0, 2, 0.3], [1, 0, 0, 2, 0.3], [0, 2, 0, 0, 0.3]],
                               atol=1e-6)  # fmt: skip
    np.testing.assert_array_equal(seen, [[1, 0, 0, 1, 1], [1, 0, 0, 1, 1], [0, 1, 0, 0, 1]])
    with pytest.raises(DataError, match="no 'age'"):
        held.inputs(NAMES[:3], features[:, :3], since, known)
    with pytest.raises(DataError, match="2 channels"):
        held.inputs(NAMES, features, since[:, :1], known)


def test_what_matters_and_is_old_is_worth_measuring(held):
    features = np.array([[0.8, 0.0, 8, 0.0]] * 2, np.float32)
    since, known = np.array([[8, 1], [1, 8]]), np.ones((2, 2), bool)
    gains = held.gain(PANELS).gains(*held.inputs(NAMES, features, since, known))
    assert gains[0, 0] > 0.02 and gains[0, 1] == 0
    assert gains[1, 0] == 0 and gains[1, 1] < 0.2 * gains[0, 0]


def test_an_old_value_counts_until_a_new_one_takes_its_place(held):
    values = np.array([[0.0, 0.0, 1.5, 0.0, 0.0], [0.0, 0.0, -1.5, 0.0, 0.0]])
    seen = np.zeros((2, 5), bool)
    seen[:, [2, 4]] = True
    high, low = held.predict_members(values, seen)[0]
    assert high > low + 0.1
    values[:, 0], seen[:, 0] = 0.5, True
    high, low = held.predict_members(values, seen)[0]
    assert high == low


def test_hours_that_were_left_out_lower_the_risk():
    features, since, known, _, label = hours(600)
    whole = HourlySensing.fit(NAMES, features, since, known, label, ORDERS, **QUICK)
    part = HourlySensing.fit(NAMES, features, since, known, label, ORDERS, share=0.1, **QUICK)
    asked = whole.inputs(NAMES, features, since, known)
    p, q = whole.predict_members(*asked), part.predict_members(*asked)
    np.testing.assert_allclose(q / (1 - q), 0.1 * p / (1 - p), rtol=1e-6)


def test_what_is_saved_says_the_same_and_holds_nobody(held, tmp_path):
    held.save(tmp_path)
    again = HourlySensing.load(tmp_path)
    features, since, known, _, _ = hours(20, seed=1)
    asked = held.inputs(NAMES, features, since, known)
    np.testing.assert_array_equal(held.gain(PANELS).gains(*asked), again.gain(PANELS).gains(*asked))
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert {f.suffix for f in files} == {".json", ".safetensors"}
    # 1,500 patients would be 120 kB.
    assert sum(f.stat().st_size for f in files) < 20_000
    save_artefact(tmp_path, "HourlySensing", {"channels": ["A"]}, {})
    with pytest.raises(ArtefactError, match="HourlySensing"):
        HourlySensing.load(tmp_path)


def test_patients_are_never_published(held):
    features, since, known, _, label = hours(200)
    with pytest.raises(ParameterError, match="nearest patients cannot be published"):
        HourlySensing.fit(
            NAMES, features, since, known, label, ORDERS, **{**QUICK, "sampler": "knn"}
        )
    donors = NearestDonors(np.zeros((5, 5)), np.ones((5, 5), bool))
    with pytest.raises(ParameterError, match="NearestDonors keeps patients"):
        HourlySensing(held.channels, held.context, 6.0, held.model, donors)


def test_what_is_wrong_is_said(held):
    features, since, known, before, label = hours(200)
    given = (NAMES, features, since, known, label)
    with pytest.raises(ParameterError, match="'C' is no channel"):
        HourlySensing.fit(*given, [["C"]], **QUICK)
    with pytest.raises(ParameterError, match="share"):
        HourlySensing.fit(*given, ORDERS, share=0.0, **QUICK)
    with pytest.raises(DataError, match="before"):
        HourlySensing.fit(*given, ORDERS, before=before[:5], **QUICK)
    with pytest.raises(ParameterError, match="5 inputs, not the 3"):
        HourlySensing(("A",), ("age",), 6.0, held.model, held.sampler)
    with pytest.raises(ParameterError, match="fresh"):
        HourlySensing(held.channels, held.context, 0.0, held.model, held.sampler)
