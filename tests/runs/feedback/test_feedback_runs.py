from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest
from tiny_runs import call, record

from foretell.data.simulators import funnel_stream
from foretell.decisions.thresholds import DecisionSurface
from foretell.runs import recipe as recipes
from foretell.runs.feedback.saved import SavedSnapshot


def test_the_run_folder_holds_everything(corrected):
    names = {file.name for file in corrected.iterdir()}
    assert names == {
        "run.json", "predictions.parquet", "decisions.parquet", "surface.json",
        "surface-surface.json", "surface-single.json", "model", "report.html",
    }  # fmt: skip


def test_the_record_says_how_it_went(corrected):
    run = record(corrected)
    assert run["status"] == "complete"
    assert run["task"] == "feedback"
    assert set(run["timings"]["stages"]) == {
        "data", "audit", "training", "scores", "decision", "final", "report",
    }  # fmt: skip
    for model in ("naive", "fsiw", "funnel", "oracle"):
        for snapshot in ("early", "late"):
            scores = run["metrics"][model][snapshot]
            assert scores["nll_lower"] <= scores["nll"] <= scores["nll_upper"]
            assert {"auc", "calibration_ratio", "ece", "pr_auc", "fit_seconds"} <= set(scores)
    naive, oracle = (run["metrics"][m]["early"]["calibration_ratio"] for m in ("naive", "oracle"))
    assert naive < oracle
    assert run["best"] != "oracle"
    board = run["leaderboard"]["early"]
    assert sorted(row["rank"] for row in board if row["rank"]) == [1, 2, 3]
    assert next(row for row in board if row["model"] == "naive")["difference"] is None
    assert run["snapshots"]["early"]["now"] == "120"
    audit = run["audit"]["early"]
    assert 0 < audit["visible_share"] < 1
    assert audit["mean_visible"] < audit["mean_final"]
    shares = audit["delays"]["conversion"]["share"]
    assert shares == sorted(shares)
    fake = audit["fake_negatives"]["share"]
    assert fake[0] > fake[-1]


def test_predictions_are_scored_as_the_record_says(corrected):
    table = pl.read_parquet(corrected / "predictions.parquet")
    part = table.filter(model="fsiw", snapshot="late")
    p, y = part["p"].to_numpy(), part["y"].to_numpy()
    loss = -np.where(y == 1, np.log(p), np.log1p(-p)).mean()
    assert record(corrected)["metrics"]["fsiw"]["late"]["nll"] == pytest.approx(loss)
    assert part["time"].is_between(144, 168).all()


def test_the_decision_was_chosen_before_and_judged_after(corrected):
    run = record(corrected)["decision"]
    table = pl.read_parquet(corrected / "decisions.parquet")
    assert table["time"].min() >= 168
    surface = DecisionSurface.from_json(corrected / "surface.json")
    decided = surface.predict(table["score"].to_numpy(), table["uncertainty"].to_numpy())
    assert decided.tolist() == table["guaranteed"].to_list()
    for rule in ("guaranteed", "surface", "single"):
        called = table.filter(pl.col(rule) == 1)
        scores = run["rules"][rule]["test"]
        assert scores["called"] == len(called)
        if len(called):
            assert scores["precision"] == pytest.approx(called["y"].mean())
    assert run["rules"]["guaranteed"]["guarantee"]["delta"] == 0.1


def test_predictions_for_new_entities_are_those_of_the_model(corrected, tmp_path):
    result = call("predict", corrected, "--data", "funnel_stream", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    scores = pl.read_parquet(tmp_path / "predictions.parquet")
    log, _ = funnel_stream("short_window", days=9, rate=20, seed=0)
    model = SavedSnapshot.load(corrected / "model")
    np.testing.assert_allclose(scores["p"], model.predict_proba(log.matrix())[:, 1])
    decisions = pl.read_parquet(tmp_path / "decisions.parquet")
    before = pl.read_parquet(corrected / "decisions.parquet")
    same = before.join(decisions, on="id", suffix="_now")
    assert len(same) == len(before)
    assert (same["guaranteed"] == same["decision"]).all()
    np.testing.assert_allclose(same["score"], same["score_now"])


def test_a_table_of_new_entities_needs_no_outcomes(corrected, tmp_path):
    log, _ = funnel_stream("short_window", days=1, rate=5, seed=9)
    entities, _ = log.to_polars()
    entities.select(reversed(entities.columns)).write_csv(tmp_path / "new.csv")
    result = call("predict", corrected, "--data", tmp_path / "new.csv", "--out", tmp_path / "p")
    assert result.exit_code == 0, result.stderr
    assert len(pl.read_parquet(tmp_path / "p" / "decisions.parquet")) == len(log)
    entities.drop("x3").write_csv(tmp_path / "less.csv")
    result = call("predict", corrected, "--data", tmp_path / "less.csv", "--out", tmp_path / "q")
    assert result.exit_code == 2
    assert "x3" in result.stderr
    result = call(
        "predict", corrected, "--data", "funnel_stream", "--out", tmp_path, "--items", "a.csv"
    )
    assert result.exit_code == 2
    assert "no option --items" in result.stderr


def test_the_report_is_drawn_anew_without_the_data(corrected, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(corrected, folder)
    (folder / "report.html").unlink()
    result = call("report", folder)
    assert result.exit_code == 0, result.stderr
    page = (folder / "report.html").read_text()
    for part in (
        "How late the labels are", "Calibration before and after correction",
        "The guarantee, and its price", "How to have the same numbers again",
    ):  # fmt: skip
        assert part in page
    (folder / "predictions.parquet").write_bytes(b"no table")
    result = call("report", folder)
    assert result.exit_code == 2
    assert "predictions.parquet" in result.stderr


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model/snapshot.json", "{"),
        ("model/snapshot.json", '{"format": 99}'),
        ("model/part0/step0/model.json", '{"format": 1, "kind": "os.system", "config": {}}'),
        ("surface.json", "[]"),
    ],
)
def test_hostile_folders(corrected, tmp_path, file, content):
    folder = tmp_path / "run"
    shutil.copytree(corrected, folder)
    assert (folder / file).is_file()
    (folder / file).write_text(content)
    result = call("predict", folder, "--data", "funnel_stream", "--out", tmp_path / "p")
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "p").exists()


def test_an_estimator_that_cannot_be_saved_is_said_so(feedback_recipe, tmp_path):
    text = feedback_recipe.read_text()
    text = text.replace("HistGradientBoostingClassifier", "RandomForestClassifier")
    text = text.replace("max_iter = 8", "n_estimators = 5").split("[decision]")[0]
    (tmp_path / "forest.toml").write_text(text)
    out = tmp_path / "out"
    result = call("run", tmp_path / "forest.toml", "--out", out, "--models", "naive,fsiw")
    assert result.exit_code == 0, result.stderr
    assert "RandomForestClassifier" in record(out)["final"]["reason"]
    assert not (out / "model").exists()
    result = call("predict", out, "--data", "funnel_stream", "--out", tmp_path / "p")
    assert result.exit_code == 2
    assert "kept no model" in result.stderr


def test_a_stream_of_its_own(stream_recipe, tmp_path):
    out = tmp_path / "out"
    result = call("run", stream_recipe, "--out", out)
    assert result.exit_code == 0, result.stderr
    run = record(out)
    assert {row["method"] for row in run["stream"]} == {
        "pretrain", "vanilla", "wait", "oracle", "funnel",
    }  # fmt: skip
    assert run["stream_metric"] == "kl"
    assert run["metrics"]["funnel"]["stream"]["kl"] > 0
    assert len(pl.read_parquet(out / "stream.parquet")) == 5 * 2
    assert "On the stream" in (out / "report.html").read_text()
    assert run["final"]["kept"] is False


SMALL = {
    "task": "feedback",
    "models": {"naive": {"method": "naive"}},
    "snapshots": {"a": {"now": 3, "test": [3, 5]}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"snapshot": {}}, "unknown key 'snapshot'; did you mean 'snapshots'"),
        ({"data": {"windw": 3}}, r"unknown key 'windw' in \[data\]"),
        ({"snapshots": {"a": {"now": 3, "tst": [3, 5]}}}, "unknown key 'tst'.*'test'"),
        ({"models": {"x": {"method": "fsiv"}}}, "models.x.method 'fsiv'.*'fsiw'"),
        ({"models": {"x": {"method": "fsiw", "clp": 0.1}}}, "models.x has no key 'clp'.*'clip'"),
        ({"models": {"x": {"method": "fsiw", "clip": "a"}}}, "models.x.clip"),
        ({"estimator": {"kind": "HistGradientBoosting"}}, "did you mean 'HistGradient"),
        ({"estimator": {"max_itr": 3}}, "estimator has no key 'max_itr'.*'max_iter'"),
        ({"baseline": "naiv"}, "baseline 'naiv' is no model; did you mean 'naive'"),
        ({"models": {}}, "snapshots and models belong together"),
        (
            {"decision": {"hold_out": [5, 6], "known": 7, "test": [8, 9], "snapshot": "b"}},
            "decision.snapshot 'b' is no snapshot",
        ),
        (
            {"stream": {"start": 1, "end": 2, "models": {"x": {"method": "esdmf"}}}},
            "stream.models.x.method 'esdmf'.*'esdfm'",
        ),
    ],
)
def test_a_wrong_recipe_says_what_would_be_right(change, message):
    from foretell.errors import RecipeError

    with pytest.raises(RecipeError, match=message):
        recipes.parse({**SMALL, **change})


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["snapshots.late.test=[300, 400]"], ["no entity lies in snapshots.late.test"]),
        (["data.options.rte=3"], ["has no key 'rte'", "'rate'"]),
        (["decision.hold_out=[100, 144]"], ["begins before the snapshot's now"]),
        (["decision.known=150"], ["decision.hold_out are not final at 150"]),
        (["decision.test=[130, 192]"], ["begins before decision.hold_out ends"]),
        (["data.keep.x99=[0, 1]"], ["'x99' is no numeric feature"]),
    ],
)
def test_a_run_that_fails_says_why(feedback_recipe, tmp_path, settings, parts):
    more = [part for setting in settings for part in ("--set", setting)]
    out = tmp_path / "out"
    result = call("run", feedback_recipe, "--out", out, "--models", "naive,funnel", *more)
    assert result.exit_code == 2
    for part in parts:
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert record(out)["status"] == "failed"
    assert not (out / "report.html").exists()


def test_an_interrupted_run_goes_on_behind_what_it_had_done(
    feedback_recipe, corrected, tmp_path, monkeypatch
):
    from foretell.runs.feedback import trip

    out = tmp_path / "out"
    real, calls = trip.run_job, []

    def stop_at_the_third(job, log):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(job, log)

    monkeypatch.setattr(trip, "run_job", stop_at_the_third)
    result = call("run", feedback_recipe, "--out", out)
    assert result.exit_code == 130
    assert "--resume --out" in result.stderr
    assert record(out)["status"] == "interrupted"
    monkeypatch.setattr(trip, "run_job", real)
    trained = []
    from foretell.runs.feedback import jobs

    train = jobs.train
    monkeypatch.setattr(jobs, "train", lambda *a: trained.append(a[1]) or train(*a))
    result = call("run", "--resume", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert len(trained) == 2 * 4 - 2  # those of the snapshots that had not been done
    for name in ("predictions.parquet", "decisions.parquet"):
        assert pl.read_parquet(out / name).equals(pl.read_parquet(corrected / name))
    mine, other = record(out), record(corrected)
    for key in ("best", "leaderboard", "decision", "audit"):
        assert mine[key] == other[key]


def test_runs_are_compared_by_their_loss(corrected):
    result = call("compare", corrected, corrected)
    assert result.exit_code == 0, result.stderr
    assert "1.0000" in result.stdout
    assert "NLL" in call("list", corrected.parent).stdout
