from __future__ import annotations

import shutil

import polars as pl
import pytest
from tiny_runs import call, record, sales

from foretell import __version__
from foretell.data import to_polars
from foretell.data.frames import future_to_polars, static_to_polars
from foretell.data.simulators import shop


def test_the_run_folder_holds_everything(finished):
    names = {file.name for file in finished.iterdir()}
    assert names == {
        "run.json", "backtest.parquet", "backtest_spans.parquet", "predictions.parquet",
        "orders.parquet", "elasticity.parquet", "events.parquet", "model", "report.html",
    }  # fmt: skip


def test_the_record_says_how_it_went(finished, recipe_file):
    run = record(finished)
    assert run["status"] == "complete"
    assert run["recipe"]["models"]["mq_cnn"]["max_steps"] == 5
    assert run["seeds"] == [0, 1]
    assert run["command"].split()[0] == "foretell"
    assert run["peak_memory_mib"] > 50
    assert len(run["data"]["fingerprint"]) == 64
    assert {"python", "foretell", "torch"} <= set(run["versions"])
    assert set(run["timings"]["stages"]) == {"data", "backtests", "scores", "final", "report"}
    for model in ("legacy", "forest", "mq_cnn", "ensemble"):
        scores = run["metrics"][model]["holdout"]
        assert {"wql", "mase", "wape", "coverage", "calibration_error"} <= set(scores)
        assert list(scores["coverage"]) == [f"0.{i}" for i in range(1, 10)]
        assert scores["crossings"] == 0
        assert scores["seeds"] == (1 if model == "legacy" else 2)
        assert run["timings"][model]["holdout"]["fit_seconds"] > 0
    assert run["best"] == min(
        run["metrics"], key=lambda model: run["metrics"][model]["holdout"]["wql"]
    )
    fits = {(b["model"], b["seed"]): len(b["fits"]) for b in run["backtests"]}
    assert fits[("mq_cnn", 1)] == 2
    assert fits[("ensemble", 0)] == 4


def test_the_backtests_are_kept_whole(finished):
    table = pl.read_parquet(finished / "backtest.parquet")
    rows = table.group_by("model", "seed").len().sort("model", "seed")
    assert rows["len"].unique().to_list() == [10 * 2 * 4]
    assert len(rows) == 7
    median = pl.col("q0.5")
    loss = 2 * (pl.col("y") - median).abs().sum() / 2 / pl.col("y").abs().sum()
    by_hand = table.filter(model="forest", seed=0).select(loss).item()
    one, two = (table.filter(model="forest", seed=s).select(loss).item() for s in (0, 1))
    assert by_hand == one
    wape = record(finished)["metrics"]["forest"]["holdout"]["wape"]
    assert wape == pytest.approx((one + two) / 2, rel=1e-5)


def test_the_saved_model_remembers_nothing_of_the_machine(finished):
    text = (finished / "model" / "model.json").read_text()
    assert str(finished) not in text
    assert "checkpoint/" not in text


def test_the_report_can_be_drawn_anew(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    result = call("report", folder)
    assert result.exit_code == 0, result.stderr
    after = (folder / "report.html").read_text()
    different = [
        (a, b)
        for a, b in zip(before.splitlines(), after.splitlines(), strict=True)
        if a != b and "<time" not in a and "time taken" not in a
    ]
    assert different == []


def test_the_report_needs_the_data_of_the_run(run_table, tmp_path):
    result, folder = run_table(sales())
    assert result.exit_code == 0, result.stderr
    sales(59).write_csv(tmp_path / "sales.csv")
    changed = call("report", folder)
    assert changed.exit_code == 2
    assert "have changed" in changed.stderr
    (tmp_path / "sales.csv").unlink()
    gone = call("report", folder)
    assert gone.exit_code == 2
    assert "cannot be read" in gone.stderr
    assert "sales.csv" in gone.stderr


def test_predictions_of_the_same_data_are_those_of_the_run(finished, tmp_path):
    result = call("predict", finished, "--data", "shop", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    for name in ("predictions", "orders"):
        file = f"{name}.parquet"
        assert pl.read_parquet(tmp_path / file).equals(pl.read_parquet(finished / file))


@pytest.fixture
def shop_files(tmp_path):
    """The shop's panel as the three tables that a user has."""
    panel, _ = shop(items=5, stores=2, weeks=60, horizon=4, seed=0)
    to_polars(panel).write_parquet(tmp_path / "sales.parquet")
    future_to_polars(panel).write_parquet(tmp_path / "future.parquet")
    static_to_polars(panel).write_parquet(tmp_path / "static.parquet")
    return tmp_path


def test_new_data_with_unseen_categories_and_an_items_table(finished, shop_files, tmp_path):
    static = pl.read_parquet(shop_files / "static.parquet")
    static = static.with_columns(category=pl.lit("never seen"))
    static.write_parquet(shop_files / "static.parquet")
    stock = static.select("unique_id", on_hand=pl.lit(1e6))
    stock.write_csv(tmp_path / "stock.csv")
    result = call(
        "predict", finished, "--data", shop_files / "sales.parquet", "--out", tmp_path / "p",
        "--future", shop_files / "future.parquet", "--static", shop_files / "static.parquet",
        "--items", tmp_path / "stock.csv", "--quantiles", "0.5,0.95",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    future = pl.read_parquet(tmp_path / "p" / "predictions.parquet")
    assert len(future) == 10 * 4
    assert [c for c in future.columns if c.startswith("q")] == ["q0.5", "q0.95"]
    assert pl.read_parquet(tmp_path / "p" / "orders.parquet")["order"].sum() == 0


def test_new_data_whose_covariates_end_too_early(finished, shop_files, tmp_path):
    result = call(
        "predict", finished, "--data", shop_files / "sales.parquet", "--out", tmp_path / "p"
    )
    assert result.exit_code == 2
    for part in ("end too early: 0 of 4", "price", "item001_store1", "sales.parquet"):
        assert part in result.stderr
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("levels", ["0.5,x", "0.5,1.5", "0.9,0.1"])
def test_wrong_levels(finished, tmp_path, levels):
    result = call(
        "predict", finished, "--data", "shop", "--out", tmp_path / "p", "--quantiles", levels
    )
    assert result.exit_code == 2


def test_orders_by_an_items_table(run_table, tmp_path):
    items = pl.DataFrame(
        {"unique_id": ["a", "b", "c"], "on_hand": [0, 1000, 0], "service_level": [0.5, 0.9, 0.9]}
    )
    items.write_csv(tmp_path / "items.csv")
    result, folder = run_table(sales(), "--set", f"orders.items={tmp_path / 'items.csv'}")
    assert result.exit_code == 0, result.stderr
    orders = pl.read_parquet(folder / "orders.parquet")
    assert orders.filter(unique_id="b")["order"].item() == 0
    assert orders.filter(unique_id="a")["order"].item() > 0
    assert record(folder)["orders"]["legacy"]["mean_cost"]["value"] > 0
    items.filter(unique_id="a").write_csv(tmp_path / "few.csv")
    few = call(
        "predict", folder, "--data", tmp_path / "sales.csv", "--out", tmp_path / "p",
        "--items", tmp_path / "few.csv",
    )  # fmt: skip
    assert few.exit_code == 2
    assert "items and forecast do not match" in few.stderr


def test_an_items_table_that_is_missing_fails_before_the_training(run_table):
    result, folder = run_table(
        sales(), "--set", "orders.items=nowhere.csv", "--set", "orders.service_level=0.9"
    )
    assert result.exit_code == 2
    assert "nowhere.csv" in result.stderr
    assert not (folder / "work").exists()


def test_runs_are_compared_score_by_score(finished, run_table):
    same = call("compare", finished, finished, "--metric", "coverage_0.9")
    assert same.exit_code == 0
    assert "1.0000" in same.stdout
    assert "True" in same.stdout
    unknown = call("compare", finished, finished, "--metric", "wqll")
    assert unknown.exit_code == 2
    assert "wql" in unknown.stderr


def test_runs_and_recipes_are_listed(finished, failed):
    text = call("list", finished.parent).stdout
    assert "finished" in text
    assert "complete" in text
    assert "demand" in text
    assert "failed" in call("list", failed.parent).stdout
    assert call("list", finished.parent / "nothing").exit_code == 0


def test_public_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("FORETELL_DATA", str(tmp_path))
    listed = call("data", "list")
    assert listed.exit_code == 0
    assert "walmart_store_sales" in listed.stdout
    for command in ("path", "check"):
        result = call("data", command, "m4")
        assert result.exit_code == 2
        assert "m4" in result.stderr
    (tmp_path / "m4").mkdir()
    assert call("data", "path", "m4").stdout.strip() == str(tmp_path / "m4")
    checked = call("data", "check", "m4")
    assert checked.exit_code == 2
    assert "missing" in checked.stdout
    assert "did you mean" in call("data", "path", "m44").stderr.lower()


@pytest.mark.real_data
def test_a_data_set_that_is_here(data_set, monkeypatch):
    monkeypatch.setenv("FORETELL_DATA", str(data_set("m4").parent))
    result = call("data", "check", "m4")
    assert result.exit_code == 0, result.stdout


def test_version_and_help():
    assert call("--version").stdout.strip() == f"foretell {__version__}"
    words = call("--help").stdout
    for command in ("run", "predict", "compare", "report", "list", "data"):
        assert command in words
        assert call(command, "--help").exit_code == 0
