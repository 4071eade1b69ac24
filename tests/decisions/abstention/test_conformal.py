from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from foretell.decisions.abstention import (
    Gate,
    MondrianConformal,
    PredictionSets,
    conformal_p_values,
)
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError

SCORES = ["mahalanobis", "max_abs_z", "pca_residual", "knn"]


def patients(seed, size=4000):
    """Rows of which the septic ones lie apart and are wider spread."""
    rng = np.random.default_rng(seed)
    y = (rng.random(size) < 0.2).astype(int)
    mix = np.eye(6) + 0.3
    return rng.normal(size=(size, 6)) @ mix * (1 + y[:, None]) + 2 * y[:, None], y


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 6))
def test_p_values_are_their_definition(known, new):
    expected = (1 + sum(k >= new for k in known)) / (len(known) + 1)
    assert conformal_p_values(known, [new])[0] == expected


@pytest.mark.parametrize("score", SCORES)
def test_each_class_is_rejected_at_most_as_promised(score):
    reference, _ = patients(0)
    calibration, labels = patients(1)
    fresh, truth = patients(2)
    for alpha in (0.02, 0.05, 0.1, 0.2):
        found = MondrianConformal(score, alpha=alpha).fit(reference, calibration, labels)
        rejected = found.test(fresh).rejected
        for c in (0, 1):
            share, n = rejected[truth == c].mean(), (truth == c).sum()
            m = (labels == c).sum()
            # Binomial error of the test rows and of the calibration rows.
            slack = 3 * np.sqrt(alpha * (1 - alpha) * (1 / n + 1 / m))
            assert share <= alpha + slack, (alpha, c, share)
        if score != "pca_residual":
            assert found.test(fresh + 25).rejected.mean() > 0.99


def test_pooled_without_classes_the_sick_would_pay():
    """What Mondrian calibration is for: one pool for all rejects mostly the septic."""
    reference, _ = patients(0)
    calibration, labels = patients(1)
    fresh, truth = patients(2)
    found = MondrianConformal(alpha=0.1).fit(reference, calibration, labels)
    together = np.sort(np.concatenate(found.calibration_))
    pooled = conformal_p_values(together, found._measure(fresh)) < 0.1
    assert pooled[truth == 1].mean() > 0.25
    assert found.test(fresh).rejected[truth == 1].mean() < 0.14


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_lower_alpha_rejects_no_more(seed):
    reference, _ = patients(seed, 400)
    calibration, labels = patients(seed + 1, 400)
    fresh, _ = patients(seed + 2, 200)
    few = MondrianConformal(alpha=0.05).fit(reference, calibration, labels).test(fresh)
    many = MondrianConformal(alpha=0.2).fit(reference, calibration, labels).test(fresh)
    assert not (few.rejected & ~many.rejected).any()


def test_too_few_of_a_class_are_pooled_and_it_says_so():
    reference, _ = patients(0)
    calibration, labels = patients(1, 300)
    found = MondrianConformal().fit(reference, calibration, labels)
    assert found.pooled
    np.testing.assert_array_equal(*found.calibration_)
    assert not MondrianConformal().fit(reference, *patients(1)).pooled


@pytest.mark.parametrize("score", SCORES)
def test_saved_and_loaded_it_says_the_same(score, tmp_path):
    reference, _ = patients(0, 800)
    found = MondrianConformal(score, alpha=0.07).fit(reference, *patients(1, 2000))
    found.save(tmp_path / "gate")
    again = MondrianConformal.load(tmp_path / "gate")
    fresh, _ = patients(2, 100)
    np.testing.assert_array_equal(again.test(fresh).p_values, found.test(fresh).p_values)
    assert again.alpha == 0.07 and again.pooled == found.pooled
    (tmp_path / "gate" / "model.json").write_text("{")
    with pytest.raises(ArtefactError):
        MondrianConformal.load(tmp_path / "gate")


def test_recalibration_follows_the_ward():
    reference, _ = patients(0)
    found = MondrianConformal(alpha=0.1).fit(reference, *patients(1))
    shifted, labels = patients(2)
    shifted = shifted - 12
    before = found.test(shifted).rejected[labels == 0].mean()
    after = found.recalibrate(shifted, labels).test(shifted).rejected[labels == 0].mean()
    assert before > 0.1 and after <= 0.101


def test_prediction_sets_miss_each_class_as_promised():
    rng = np.random.default_rng(0)
    y = (rng.random(6000) < 0.2).astype(int)
    p = 1 / (1 + np.exp(-(rng.normal(size=6000) * 1.5 + 3 * y - 2)))
    sets = PredictionSets(alpha=0.1).fit(p[:3000], y[:3000])
    inside = sets.sets(p[3000:])
    for c in (0, 1):
        mine = y[3000:] == c
        assert (~inside[mine, c]).mean() <= 0.1 + 3 * np.sqrt(0.09 * 2 / mine.sum())
    assert 0 < sets.ambiguous(p[3000:]).mean() < 0.6


def test_bad_input_is_refused():
    reference, _ = patients(0, 300)
    calibration, labels = patients(1, 300)
    with pytest.raises(ParameterError, match="score must be one of"):
        MondrianConformal("distance")
    with pytest.raises(ParameterError, match="alpha"):
        MondrianConformal(alpha=1.0)
    with pytest.raises(NotFittedError):
        MondrianConformal().test(reference)
    with pytest.raises(DataError, match="class 1 has no calibration row"):
        MondrianConformal().fit(reference, calibration, np.zeros(300, int))
    with pytest.raises(DataError, match="labels must be"):
        MondrianConformal().fit(reference, calibration, labels[:-1])
    found = MondrianConformal().fit(reference, calibration, labels)
    with pytest.raises(DataError, match=r"shape \(n, 6\)"):
        found.test(reference[:, :3])
    broken = reference.copy()
    broken[4, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        found.test(broken)
    with pytest.raises(NotFittedError):
        PredictionSets().p_values([0.5])
    with pytest.raises(DataError, match="in \\[0, 1\\]"):
        PredictionSets().fit([1.5], [1])
    with pytest.raises(DataError, match="both classes"):
        PredictionSets().fit([0.5, 0.6], [1, 1])


@pytest.mark.parametrize("labels", [[1, 2], [0, float("nan")], [0, -1], [0, 0]])
def test_labels_of_newer_rows_are_0_and_1(labels):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 3))
    test = MondrianConformal().fit(rows, rows, np.arange(500) % 2)
    before = test.calibration_[1].copy()
    with pytest.raises(DataError, match="label"):
        test.recalibrate(rows, np.resize(labels, 500))
    np.testing.assert_array_equal(test.calibration_[1], before)


@pytest.mark.parametrize(
    ("calibration", "scores"),
    [([], [1.0]), ([1.0, np.nan], [1.0]), ([1.0], [np.nan])],
)
def test_p_values_need_numbers(calibration, scores):
    with pytest.raises(DataError, match="p-values need"):
        conformal_p_values(calibration, scores)


def test_a_reference_that_cannot_vary_is_refused():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(500, 3)), np.arange(500) % 2
    with pytest.raises(DataError, match="one reference row"):
        MondrianConformal("mahalanobis").fit(rows[:1], rows, labels)
    # One component of one feature is all of it: nothing would ever be left over.
    with pytest.raises(DataError, match="one feature"):
        MondrianConformal("pca_residual").fit(rows[:, :1], rows[:, :1], labels)


@pytest.mark.parametrize("score", SCORES)
def test_a_measure_that_gives_no_number_is_refused(score, tmp_path):
    """It would turn everything away, and say that nothing is like what was validated."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3))
    MondrianConformal(score).fit(rows, rows, np.arange(300) % 2).save(tmp_path / "test")
    file = tmp_path / "test" / "arrays.safetensors"
    arrays = load_file(file)
    for name in arrays:
        if name.startswith("measure"):
            arrays[name] = np.full_like(arrays[name], np.nan)
    save_file(arrays, file)
    with pytest.raises(ArtefactError):
        MondrianConformal.load(tmp_path / "test")


def test_the_horizon_of_a_gate_is_positive():
    with pytest.raises(ParameterError, match="horizon must be positive"):
        Gate(horizon=-1)
