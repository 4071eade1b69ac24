"""Methods on the streams whose truth is known: the published order, and where it turns."""

from __future__ import annotations

import polars as pl
import pytest

from foretell.data.simulators.funnel_stream import FUNNEL_STREAMS, funnel_stream
from foretell.estimators.feedback import DelayedFeedbackClassifier
from foretell.evaluation.feedback import PrequentialResult, prequential


def _play(
    stream: str, methods: tuple[str, ...], seeds: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """Mean figures of each ``method`` or ``method/auxiliary`` over streams."""
    results = []
    for seed in seeds:
        log, truth = funnel_stream(stream, seed=seed)
        classifiers = {}
        for name in methods:
            method, _, auxiliary = name.partition("/")
            classifiers[name] = DelayedFeedbackClassifier(
                method=method, auxiliary=auxiliary or "auto", hidden_sizes=(32,),
                engagement=("view",) if method == "funnel" else (), batch_norm=False,
                learning_rate=1e-2, waiting_time=FUNNEL_STREAMS[stream].waiting_time,
            )  # fmt: skip
        results.append(
            prequential(
                classifiers, log, 240.0, 600.0, "1h", truth=truth.conversion(), references=(),
                seeds=(seed,), stream=str(seed),
            )
        )  # fmt: skip
    runs = PrequentialResult.join(results).per_run()
    table = runs.group_by("method").agg(pl.col("kl", "ratio").mean())
    return {row["method"]: row for row in table.to_dicts()}


def test_weights_and_engagement_pay_under_drift():
    found = _play("default", ("vanilla", "esdfm/frozen", "funnel/frozen"), (0,))
    kl = {name: row["kl"] for name, row in found.items()}
    assert kl["esdfm/frozen"] <= 0.85 * kl["vanilla"]
    assert kl["funnel/frozen"] <= 0.95 * kl["esdfm/frozen"]
    assert found["vanilla"]["ratio"] <= 0.88
    assert 0.9 <= found["funnel/frozen"]["ratio"] <= 1.1


@pytest.mark.slow
def test_slow_conversions_under_fast_drift():
    methods = (
        "vanilla", "wait", "fnw", "esdfm/frozen", "defuse/self", "funnel/self", "funnel/frozen",
        "oracle",
    )  # fmt: skip
    found = _play("default", methods, (0, 1, 2, 3, 4))
    kl = {name: row["kl"] for name, row in found.items()}
    funnel = min(kl["funnel/self"], kl["funnel/frozen"])
    assert kl["esdfm/frozen"] <= 0.85 * kl["vanilla"]
    assert kl["fnw"] <= 0.90 * kl["vanilla"]
    assert funnel <= 0.95 * kl["esdfm/frozen"]
    assert funnel <= 0.75 * kl["vanilla"]
    assert kl["defuse/self"] <= 1.05 * kl["esdfm/frozen"]
    assert kl["wait"] >= 2 * kl["vanilla"]
    assert kl["oracle"] < funnel
    for name in ("fnw", "esdfm/frozen", "funnel/self", "funnel/frozen"):
        assert 0.93 <= found[name]["ratio"] <= 1.07, name
    assert found["vanilla"]["ratio"] <= 0.88


@pytest.mark.slow
def test_fast_conversions_under_slow_drift():
    methods = ("vanilla", "defer/self", "defuse/self", "funnel/self", "esdfm/self", "oracle")
    kl = {name: row["kl"] for name, row in _play("short_window", methods, (0, 1, 2)).items()}
    assert kl["vanilla"] >= 2 * kl["oracle"]
    for name in ("defer/self", "defuse/self", "funnel/self", "esdfm/self"):
        assert kl[name] <= 1.15 * kl["oracle"], name
