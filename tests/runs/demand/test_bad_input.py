"""Every kind of bad input, through the command line: what is said, and what the folder says."""

from __future__ import annotations

import shutil

import polars as pl
import pytest
from tiny_runs import call, record, sales

from foretell.errors import DataError

AT = pl.int_range(pl.len()) == 70
TEXT = pl.col("y").cast(pl.String)
DAY = pl.col("ds").cast(pl.String)
ZONES = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("+00:00")).otherwise(pl.lit("+02:00"))


def cut_in_half(tmp_path) -> bytes:
    file = tmp_path / "whole.parquet"
    sales().write_parquet(file)
    content = file.read_bytes()
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("table", "options", "parts"),
    [
        (pl.concat([sales(), sales()[:1]]), (), ["1 rows repeat a date", "'ds'", "series 'a'"]),
        (
            sales().with_columns(ds=DAY + pl.lit("T00:00:00") + ZONES),
            (),
            ["time zones are mixed", "'ds'", "Write all moments in one zone"],
        ),
        (sales(), ("--set", "data.frequency=MS"), ["off the grid 'MS'", "'ds'", "series 'a'"]),
        (
            sales().with_columns(y=pl.when(AT).then(pl.lit("many")).otherwise(TEXT)),
            (),
            ["text ('many')", "column 'y'", "series 'b'", "Convert it"],
        ),
        (
            sales().with_columns(y=pl.when(AT).then(float("inf")).otherwise("y")),
            (),
            ["infinite", "column 'y'", "series 'b'"],
        ),
        (sales(1, ("z",)), (), ["the frequency cannot be inferred", "Pass frequency="]),
        (
            sales(),
            ("--set", "data.horizon=80"),
            ["80 periods before the end", "60 periods", "series 'a'", "shorter data.horizon"],
        ),
        (b"", (), ["the file is empty"]),
        (b"unique_id,ds,y\n", (), ["no rows"]),
        (sales().rename({"y": "units"}), (), ["columns ['y'] are missing", "'units'"]),
        (
            sales(price=2.0).with_columns(price=pl.when(AT).then(None).otherwise("price")),
            ("--set", 'data.known=["price"]'),
            ["missing value at 2023-03-12", "column 'price'", "series 'b'"],
        ),
        (sales(), ("--set", "data.options.items=3"), ["are for simulators", "sales.csv"]),
    ],
    ids=[
        "duplicates", "zones", "frequency", "text", "infinity", "one observation", "horizon",
        "empty", "header only", "column", "gap in known covariate", "options",
    ],
)  # fmt: skip
def test_data_that_cannot_be_used(run_table, table, options, parts):
    result, folder = run_table(table, *options)
    assert result.exit_code == 2
    for part in [*parts, "sales.csv"]:
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    failure = record(folder)
    assert failure["status"] == "failed"
    assert failure["failure"]["message"] in result.stderr.replace("\n", " ")
    assert not (folder / "report.html").exists()


def test_a_parquet_file_cut_in_half(run_table, tmp_path):
    result, folder = run_table(cut_in_half(tmp_path), name="half.parquet")
    assert result.exit_code == 2
    assert "damaged or cut off" in result.stderr
    assert "half.parquet" in result.stderr
    assert record(folder)["status"] == "failed"


def test_repairs_are_counted_and_reported(run_table):
    table = sales(ids=("a", "b", "c", "zero", "constant"))
    table = table.with_columns(
        y=pl.when(AT)
        .then(-5.0)
        .when(pl.col("unique_id") == "zero")
        .then(0.0)
        .when(pl.col("unique_id") == "constant")
        .then(3.0)
        .otherwise("y")
    )
    gaps = table.filter(pl.int_range(pl.len()).over("unique_id") % 9 != 3)
    mixed = pl.concat([gaps, sales(1, ("single",))]).sample(fraction=1, shuffle=True, seed=1)
    result, folder = run_table(mixed)
    assert result.exit_code == 0, result.stderr
    run = record(folder)
    text = " ".join(note["message"] for note in run["data"]["notes"])
    for part in ("missing periods", "negative", "nothing but zeros", "constant", "one observation"):
        assert part in text
    assert run["metrics"]["legacy"]["holdout"]["wql"] > 0
    future = pl.read_parquet(folder / "predictions.parquet")
    assert future["unique_id"].n_unique() == 6
    assert future.select(pl.col("^q.*$").is_finite().all()).row(0) == (True,) * 9


def test_nothing_but_zeros_gives_no_nan(run_table):
    result, folder = run_table(sales().with_columns(y=pl.lit(0.0)))
    assert result.exit_code == 0, result.stderr
    assert record(folder)["metrics"]["legacy"]["holdout"]["wql"] is None


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("demnd",), ["no recipe 'demnd'", "did you mean 'demand'"]),
        (("demand", "--set", "data.horizn=3"), ["'horizn' in [data]", "'horizon'"]),
        (
            ("demand", "--set", "models.mqcnn.max_steps=3"),
            ["models.mqcnn has no kind", "did you mean 'mq_cnn'"],
        ),
        (("demand", "--set", "models.mq_cnn.max_step=3"), ["'max_step'", "'max_steps'"]),
        (("demand", "--set", "models.mq_cnn.max_steps=few"), ["valid integer, not 'few'"]),
        (("demand", "--set", "protocols.holdot.step=1"), ["'holdot'", "'holdout'"]),
        (("demand", "--models", "legcy"), ["no model 'legcy'", "'legacy'"]),
        (("demand", "--engine", "dask"), ["'local' or 'ray'"]),
        ((), ["name a recipe: bookings, canary, demand"]),
        (("--resume",), ["--resume needs --out"]),
    ],
)
def test_wrong_calls_leave_no_folder(tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    result = call("run", *arguments)
    assert result.exit_code == 2
    for part in parts:
        assert part in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ("walmrt", "did you mean 'walmart'"),
        ("no/such/file.csv", "no such file"),
        ("data.toml", "no such file"),
    ],
)
def test_data_that_are_not_there(tmp_path, legacy_file, data, part):
    result = call("run", legacy_file, "--data", data, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert part in result.stderr
    assert record(tmp_path / "out")["status"] == "failed"


def test_public_data_that_are_not_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("FORETELL_DATA", str(tmp_path))
    result = call("run", "walmart", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "walmart_store_sales" in result.stderr


def test_options_of_another_source(tmp_path, legacy_file):
    result = call(
        "run", legacy_file, "--out", tmp_path / "out", "--set", "data.options.itms=3"
    )  # fmt: skip
    assert result.exit_code == 2
    assert "did you mean 'items'" in result.stderr
    result = call(
        "run", legacy_file, "--out", tmp_path / "out2", "--set", 'data.known=["price"]'
    )  # fmt: skip
    assert "data.known is for files" in result.stderr


@pytest.mark.parametrize("command", ["predict", "compare", "report"])
def test_a_failed_run_is_of_no_use(failed, finished, tmp_path, command):
    more = {
        "predict": ("--data", "shop", "--out", tmp_path / "p"),
        "compare": (finished,),
        "report": (),
    }[command]
    result = call(command, failed, *more)
    assert result.exit_code == 2
    assert "is failed: 1 rows repeat a date" in result.stderr
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("command", ["predict", "compare", "report"])
def test_a_folder_without_a_run(tmp_path, finished, command):
    more = {
        "predict": ("--data", "shop", "--out", tmp_path / "p"),
        "compare": (finished,),
        "report": (),
    }[command]
    result = call(command, tmp_path, *more)
    assert result.exit_code == 2
    assert "holds no run" in result.stderr


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.json", b"{"),
        ("model.json", b'{"format": 1, "kind": "os.system", "config": {}}'),
        ("model.json", b'{"format": 1, "kind": "QuantileEnsemble", "config": {}}'),
        ("model.json", b'{"format": 99, "kind": "QuantileEnsemble", "config": {}}'),
        ("arrays.safetensors", b"\x80\x04\x95cos\nsystem\n"),
    ],
)
def test_a_hostile_model_folder(finished, tmp_path, file, content):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert (folder / "model" / file).is_file()
    (folder / "model" / file).write_bytes(content)
    result = call("predict", folder, "--data", "shop", "--out", tmp_path / "p")
    assert result.exit_code == 2
    assert "model" in result.stderr
    assert not (tmp_path / "p").exists()


def test_a_folder_that_is_a_file(tmp_path, legacy_file):
    (tmp_path / "file").write_text("mine")
    result = call("run", legacy_file, "--out", tmp_path / "file")
    assert result.exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_decimal_commas_can_be_read_as_the_message_says(tmp_path):
    from foretell.runs.demand.recipe import DataSection
    from foretell.runs.demand.sources import load_panel

    file = tmp_path / "sales.csv"
    table = sales().with_columns(y=TEXT.str.replace(".", ",", literal=True))
    table.write_csv(file, separator=";")
    section = {"source": str(file), "separator": ";"}
    with pytest.raises(DataError, match="decimal_comma = true"):
        load_panel(DataSection(**section))
    panel = load_panel(DataSection(**section, decimal_comma=True))
    assert panel.series(0).tolist() == pytest.approx(sales()["y"][: panel.lengths[0]].to_list())


@pytest.mark.parametrize("missing", ["carry", "error"])
def test_one_series_without_future_prices_is_counted_in_the_record(run_table, tmp_path, missing):
    table = sales(price=2.0)
    last = table.group_by("unique_id").agg(pl.col("ds").max())
    plan = pl.concat(
        [
            last.filter(pl.col("unique_id") != "b").with_columns(
                ds=pl.col("ds").dt.offset_by(f"{week}w"), price=pl.lit(3.0)
            )
            for week in range(1, 9)
        ]
    )
    plan.write_csv(tmp_path / "plan.csv")
    result, folder = run_table(
        table, "--set", 'data.known=["price"]', "--set", f"data.future={tmp_path / 'plan.csv'}",
        "--set", f"data.missing_known={missing}",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = record(folder)
    notes = [n for n in found["data"]["notes"] if n["kind"] == "carried_known"]
    if missing == "error":
        assert not notes and "end too early: 0 of" in found["final"]["no_forecast"]
        assert not (folder / "predictions.parquet").exists()
        return
    assert [n["series"] for n in notes] == ["b"] and "price in 1 series" in notes[0]["message"]
    assert "carried on" in (folder / "report.html").read_text()
    assert pl.read_parquet(folder / "predictions.parquet")["unique_id"].n_unique() == 3


def test_messages_name_the_recipe_keys_that_help(tmp_path):
    from foretell.runs.demand.recipe import DataSection
    from foretell.runs.demand.sources import load_panel

    file = tmp_path / "sales.csv"
    sales(price=2.0).write_csv(file)
    with pytest.raises(DataError, match=r"data\.target_column"):
        load_panel(DataSection(source=str(file), target_column="units"))
    panel = load_panel(DataSection(source=str(file), known=["price"]))
    with pytest.raises(DataError, match=r"data\.future, or --future.*are no plan"):
        panel.require_known(3)
    sales(price=2.0).with_columns(price=pl.when(AT).then(None).otherwise("price")).write_csv(file)
    panel = load_panel(DataSection(source=str(file), known=["price"]))
    with pytest.raises(DataError, match=r"data\.impute"):
        panel.cut(3).require_known(3)
