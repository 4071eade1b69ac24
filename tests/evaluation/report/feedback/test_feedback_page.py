"""The page of a late-labels run: hostile names, missing parts, nothing called."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from foretell.decisions.thresholds import fit_decision_surface
from foretell.errors import ParameterError
from foretell.evaluation.report.feedback import FeedbackReport, write_feedback_report
from foretell.evaluation.report.feedback.content import build

HOSTILE = "<script>alert(1)</script>"


def make_scores(nll: float, ratio: float) -> dict[str, Any]:
    values = {"nll": nll, "auc": 0.7, "calibration_ratio": ratio}
    ends = {f"{k}_{end}": v for k, v in values.items() for end in ("lower", "upper")}
    return {**values, **ends, "ece": 0.1, "nll_sd": None, "seeds": 1, "fit_seconds": 1.0}


def make_record(name: str = "funnel", **more: Any) -> dict[str, Any]:
    rest = {"lower": -0.2, "upper": -0.05, "relative": -0.2, "gap_closed": None}
    return {
        "title": name,
        "best": name,
        "baseline": "naive",
        "recipe": {"snapshots": {"a": {}}},
        "data": {"source": name, "unit": "h", "window": 24.0, "kinds": [name], "features": []},
        "metrics": {
            name: {"a": make_scores(0.4, 1.0)},
            "naive": {"a": make_scores(0.5, 0.5)},
        },
        "leaderboard": {
            "a": [
                {"rank": 1, "model": name, "difference": -0.1, **rest},
                {"rank": 2, "model": "naive", **dict.fromkeys(("difference", *rest))},
            ]
        },
        "snapshots": {"a": {"now": "3", "train_rows": 5, "test_rows": 6, "test_rate": 0.5}},
        **more,
    }


def test_hostile_names_stay_names(tmp_path):
    predictions = pl.DataFrame(
        {"snapshot": "a", "model": [HOSTILE, "naive"], "seed": 0, "p": [0.2, 0.3], "y": [0, 1]}
    )
    page = write_feedback_report(
        tmp_path / "report.html", FeedbackReport(run=make_record(HOSTILE), predictions=predictions)
    )
    text = page.read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "http-equiv" in text


def test_what_is_said_of_the_best_and_the_baseline():
    found = build(FeedbackReport(run=make_record()))
    text = " ".join(found["headline"]["sentences"])
    assert "0.4000 nats a row against 0.5000 of naive, 20.0% less" in text
    assert "naive says 50% fewer conversions than came" in text
    assert "funnel says as many conversions as came" in text
    assert found["boards"][0]["rows"][0]["verdict"] == "better"
    assert found["decision"] is None


def test_a_rule_that_calls_nothing():
    rng = np.random.default_rng(0)
    score, spread, y = rng.random(400), rng.random(400), rng.random(400) < 0.1
    surface = fit_decision_surface(score, spread, y.astype(int), min_precision=0.99)
    assert not surface.feasible_
    nothing = {
        "precision": None, "precision_low": 0.0, "precision_high": 1.0, "recall": 0.0,
        "recall_low": 0.0, "recall_high": 0.01, "called": 0, "positives": 40, "rows": 400,
    }  # fmt: skip
    rule = {
        "title": "surface", "method": "mist", "chosen": True, "feasible": False,
        "guaranteed": False, "best_precision": 0.3, "hold_out": nothing, "test": nothing,
        "guarantee": None,
    }  # fmt: skip
    record = make_record(decision={"min_precision": 0.99, "delta": 0.1, "rules": {"a": rule}})
    found = build(FeedbackReport(run=record, surfaces={"a": surface}))
    assert found["decision"]["sentences"] == [
        "No rule reaches a precision of 99%, so that nothing is called. The best that the hold-out "
        "shows is 30.0%."
    ]
    assert found["decision"]["rows"][0]["verdict"] == "none called"
    rule["best_precision"] = 1.0  # of three rows
    found = build(FeedbackReport(run=record, surfaces={"a": surface}))
    assert found["decision"]["sentences"][0].startswith("No rule can be shown to reach")


def test_a_record_without_results():
    with pytest.raises(ParameterError, match="neither a leaderboard nor a stream"):
        FeedbackReport(run={"title": "x"})
