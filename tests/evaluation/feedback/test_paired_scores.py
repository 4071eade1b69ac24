"""Paired bootstrap of NLL, AUC and calibration ratio."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from foretell.errors import ParameterError
from foretell.evaluation.feedback import compare_probabilities
from foretell.evaluation.feedback.binary_metrics import area_under_roc, negative_log_likelihood


def data(n=800, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.standard_normal(n)
    p = 1 / (1 + np.exp(-score))
    y = (rng.random(n) < p).astype(int)
    other = 1 / (1 + np.exp(-(0.5 * score + rng.standard_normal(n))))
    return y, {"good": p, "poor": other, "worst": np.full(n, 0.2)}


def row(table, method, metric, versus=None, group="all"):
    for found in table.iter_rows(named=True):
        key = (found["method"], found["metric"], found["versus"], found["group"])
        if key == (method, metric, versus, group):
            return found
    raise AssertionError((method, metric, versus, group))


def test_estimates_are_the_scores():
    y, p = data()
    p["rounded"] = np.round(p["good"], 1).clip(0.05, 0.95)  # ties
    table = compare_probabilities(y, p, references=["poor"], resamples=10)
    for name, value in p.items():
        assert row(table, name, "nll")["estimate"] == pytest.approx(log_loss(y, value))
        assert row(table, name, "auc")["estimate"] == pytest.approx(roc_auc_score(y, value))
        assert row(table, name, "ratio")["estimate"] == pytest.approx(value.mean() / y.mean())
    found = row(table, "good", "auc", "poor")["estimate"]
    assert found == pytest.approx(roc_auc_score(y, p["good"]) - roc_auc_score(y, p["poor"]))


def test_intervals_are_those_of_a_bootstrap_of_rows():
    y, p = data(400)
    table = compare_probabilities(y, p, references=["poor"], resamples=1500)
    rng = np.random.default_rng(1)
    draws = {"auc": [], "nll": [], "difference": []}
    for _ in range(1000):
        at = rng.integers(0, len(y), len(y))
        good, poor = area_under_roc(y[at], p["good"][at]), area_under_roc(y[at], p["poor"][at])
        draws["auc"].append(good)
        draws["nll"].append(negative_log_likelihood(y[at], p["good"][at]))
        draws["difference"].append(good - poor)
    for name, found in (
        ("auc", row(table, "good", "auc")),
        ("nll", row(table, "good", "nll")),
        ("difference", row(table, "good", "auc", "poor")),
    ):
        lower, upper = np.quantile(draws[name], [0.025, 0.975])
        width = upper - lower
        assert found["lower"] == pytest.approx(lower, abs=0.2 * width), name
        assert found["upper"] == pytest.approx(upper, abs=0.2 * width), name


def test_clusters_widen_intervals():
    y, p = data(300)
    many = {k: np.tile(v, 4) for k, v in p.items()}
    alone = compare_probabilities(np.tile(y, 4), many)
    together = compare_probabilities(np.tile(y, 4), many, clusters=np.tile(np.arange(300), 4))
    single = compare_probabilities(y, p)

    def width(table):
        found = row(table, "good", "nll")
        return found["upper"] - found["lower"]

    assert width(together) == pytest.approx(width(single), rel=1e-6)
    assert width(alone) == pytest.approx(width(single) / 2, rel=0.15)


def test_groups_seeds_and_the_gap():
    y, p = data(600)
    groups = np.repeat(["a", "b"], 300)
    seeds = {"good": np.stack([p["good"], p["poor"]]), "worst": p["worst"], "poor": p["poor"]}
    table = compare_probabilities(y, seeds, groups=groups, gap=("worst", "poor"), resamples=50)
    found = [row(table, "good", "nll", group=g)["estimate"] for g in ("a", "b")]
    half = [log_loss(y[:300], p[k][:300]) for k in ("good", "poor")]
    assert found[0] == pytest.approx(np.mean(half))
    assert row(table, "good", "nll")["estimate"] == pytest.approx(np.mean(found))
    closed = row(table, "good", "gap_closed")["estimate"]
    scores = {k: row(table, k, "nll")["estimate"] for k in seeds}
    expected = (scores["worst"] - scores["good"]) / (scores["worst"] - scores["poor"])
    assert closed == pytest.approx(expected)
    none = compare_probabilities(y, seeds, gap=("poor", "worst"), resamples=20)
    assert np.isnan(row(none, "good", "gap_closed")["estimate"])


def test_one_class_has_no_auc():
    table = compare_probabilities(np.zeros(5), {"m": np.full(5, 0.1)}, resamples=20)
    assert np.isnan(row(table, "m", "auc")["estimate"])
    assert row(table, "m", "nll")["estimate"] == pytest.approx(-np.log(0.9))


@pytest.mark.parametrize(
    ("y", "p", "options", "message"),
    [
        ([0, 2], {"m": [0.1, 0.2]}, {}, "labels 0 and 1"),
        ([0, 1], {}, {}, "no method"),
        ([0, 1], {"m": [0.1]}, {}, "1 probabilities for 2 rows"),
        ([0, 1], {"m": [0.1, np.nan]}, {}, "no probabilities"),
        ([0, 1], {"m": [0.1, 0.2]}, {"references": ["x"]}, "not among the methods"),
        ([0, 1], {"m": [0.1, 0.2]}, {"clusters": [1]}, "one value a row"),
    ],
)
def test_bad_input(y, p, options, message):
    with pytest.raises(ParameterError, match=message):
        compare_probabilities(y, p, **options)
