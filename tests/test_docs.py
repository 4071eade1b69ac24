"""The pages say what is true: their code runs, their commands parse, their tables are complete."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer.main
from typer.testing import CliRunner

from foretell.cli import app
from foretell.data import to_parquet
from foretell.data.simulators import shop
from foretell.runs import recipe as recipes
from foretell.runs.demand import recipe as demand
from foretell.runs.federated import recipe as federated
from foretell.runs.fednlp import recipe as fednlp
from foretell.runs.feedback import recipe as feedback
from foretell.runs.sepsis import recipe as sepsis
from foretell.runs.thresholds import recipe as thresholds

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", *sorted(DOCS.glob("*.md"))]
NEEDS_REAL_DATA = "registry.load("


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Line before each fenced block of a language, and its text."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}[^\n]*\n(.*?)^```", text, re.M | re.S):
        yield text.count("\n", 0, found.start(1)), found.group(1)


def commands(page: Path) -> list[str]:
    """Every call of foretell in the page's shell blocks, continued lines joined."""
    lines = []
    for _, text in blocks(page, "sh"):
        lines += text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("foretell ")]


def with_code(pages: list[Path]) -> list[Path]:
    return [page for page in pages if any(blocks(page, "python"))]


def prepare_data_page() -> dict[str, Any]:
    """The files and names that the data page takes for granted."""
    panel, _ = shop(items=4, stores=2, weeks=80, horizon=13, seed=0)
    files = to_parquet(panel, "shop.parquet")
    known = ["price", "promotion", "easter", "christmas"]
    history = pl.read_parquet(files["history"])
    history.rename({"censored": "stockout"}).write_parquet("sales.parquet")
    future = pl.read_parquet(files["future"])
    future.select("unique_id", "ds", *known).write_csv("plans.csv")
    items = pl.read_parquet(files["static"])
    items.write_csv("items.csv")
    return {"items": items, "rows": [0, 1], "stops": panel.lengths[:2]}


@pytest.mark.parametrize("page", with_code(PAGES), ids=lambda page: page.stem)
def test_code_of_a_page_runs_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    if page.name == "data.md":
        names |= prepare_data_page()
    for line, code in blocks(page, "python"):
        if NEEDS_REAL_DATA in code:
            compile(code, str(page), "exec")
            continue
        # Tracebacks then name the page's own line.
        exec(compile("\n" * line + code, str(page), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    for line in commands(page):
        name, *arguments = shlex.split(line, comments=True)
        command: Any = group
        context = None
        while hasattr(command, "resolve_command"):
            context = command.make_context(name, arguments[:1], parent=context)
            name, command, _ = command.resolve_command(context, arguments)
            arguments = arguments[1:]
        values = command.make_context(name, arguments, parent=context).params
        if name == "run" and values["recipe"] in recipes.shipped():
            recipe = recipes.load(
                values["recipe"], data=values["data"], settings=values["settings"] or ()
            )
            if values["models"]:
                recipe.only(values["models"].split(","))


def test_every_parameter_of_a_command_says_what_it_is() -> None:
    def silent(command: Any, path: str) -> Iterator[str]:
        context = command.make_context(path, [], resilient_parsing=True)
        if hasattr(command, "list_commands"):
            for name in command.list_commands(context):
                yield from silent(command.get_command(context, name), f"{path} {name}")
        for parameter in command.params:
            if not getattr(parameter, "help", None):
                yield f"{path}: {parameter.name}"

    assert list(silent(typer.main.get_command(app), "foretell")) == []


SECTIONS = {
    "Top level": demand.Recipe,
    "[data]": demand.DataSection,
    "[protocols.NAME]": demand.ProtocolSection,
    "[models.NAME]": demand.ModelSection,
    "[orders]": demand.OrdersSection,
    "[final]": demand.FinalSection,
    "[report]": demand.ReportSection,
    "feedback: [data]": feedback.DataSection,
    "feedback: [snapshots.NAME]": feedback.SnapshotSection,
    "feedback: [estimator]": feedback.EstimatorSection,
    "feedback: [models.NAME]": feedback.ModelSection,
    "feedback: [stream]": feedback.StreamSection,
    "feedback: [decision]": feedback.DecisionSection,
    "feedback: [final]": feedback.FinalSection,
    "feedback: [report]": feedback.ReportSection,
    "thresholds: [data]": thresholds.DataSection,
    "thresholds: [models.NAME]": thresholds.ModelSection,
    "thresholds: [decision]": thresholds.DecisionSection,
    "thresholds: [report]": thresholds.ReportSection,
    "federated: [data]": federated.DataSection,
    "federated: [clients]": federated.ClientsSection,
    "federated: [learner]": federated.LearnerSection,
    "federated: [local]": federated.LocalSection,
    "federated: [rounds]": federated.RoundsSection,
    "federated: [methods.NAME]": federated.MethodSection,
    "federated: [tuning]": federated.TuningSection,
    "federated: [continual]": federated.ContinualSection,
    "federated: [privacy]": federated.PrivacySection,
    "federated: [audit]": federated.AuditSection,
    "sepsis: [data]": sepsis.DataSection,
    "sepsis: [methods.NAME]": sepsis.MethodSection,
    "sepsis: [gate]": sepsis.GateSection,
    "sepsis: [alarms]": sepsis.AlarmSection,
    "sepsis: [evaluation]": sepsis.EvaluationSection,
    "sepsis: [checks]": sepsis.ChecksSection,
    "fednlp: [grid]": fednlp.GridSection,
    "fednlp: [algorithms.NAME]": fednlp.AlgorithmSection,
    "fednlp: [tasks.NAME]": fednlp.TaskSection,
    "fednlp: [tasks.NAME.data]": fednlp.TextSource,
    "fednlp: [[tasks.NAME.partitions]]": fednlp.PartitionSection,
    "fednlp: [tasks.NAME.learner]": fednlp.ModelSection,
    "fednlp: [optimisers]": fednlp.OptimisersSection,
    "fednlp: [freezing]": fednlp.FreezingSection,
}
SPOKEN = {"section", "one, `holdout`", "none"}
"""Defaults that the page puts in words."""


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_of_a_recipe_is_on_its_page_with_its_default(title: str) -> None:
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    part = re.split(r"^##", text.split(f"### {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    shown = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", part, re.M))
    fields = SECTIONS[title].model_fields
    assert list(shown) == list(fields)
    for name, field in fields.items():
        if field.is_required():
            assert shown[name] == "required", name
            continue
        default = field.get_default(call_default_factory=True)
        if shown[name] in SPOKEN:
            assert (default is None) == (shown[name] == "none"), name
        else:
            assert shown[name] == f"`{json.dumps(default)}`", name


@pytest.mark.parametrize(
    "page", [CHECKOUT / "README.md", DOCS / "methods.md"], ids=lambda p: p.stem
)
def test_table_of_figures_has_a_cell_for_every_model_of_a_recipe(page: Path) -> None:
    text = page.read_text(encoding="utf-8").split("## Measured", 1)[1]
    row = r"^\| `(\w+)` \|([^|\n]*)\|([^|\n]*)\|([^|\n]*)\|"
    tables = [rows for part in text.split("\n\n") if (rows := re.findall(row, part, re.M))]
    assert tables
    for table in tables:
        for column, name in enumerate(("walmart", "favorita", "m4-hourly"), start=1):
            filled = {row[0] for row in table if row[column].strip()}
            assert filled == set(recipes.load(name).models), (name, page.name)


def test_recipes_that_pages_show_are_valid() -> None:
    found = [tomllib.loads(text) for page in PAGES for _, text in blocks(page, "toml")]
    services = [content for content in found if "service" in content]
    assert services and len(services) < len(found)
    for content in found:
        if content in services:
            from foretell.serving.config import Config

            assert Config.model_validate(content).sites
        else:
            assert recipes.parse(content).seeds


def test_commands_of_getting_started_make_the_files_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = DOCS / "getting-started.md"
    exec(next(blocks(page, "python"))[1], {})
    run, predict = (
        next(line for line in commands(page) if line.startswith(f"foretell {name}"))
        for name in ("run", "predict")
    )
    small = [
        "models.mq_cnn.max_steps=5",
        "models.forest.n_rows=1000",
        "models.forest.n_estimators=5",
    ]
    for line in (run + "".join(f" --set {setting}" for setting in small), predict):
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    section = page.read_text(encoding="utf-8").split("The run's folder then holds")[1]
    promised = re.findall(r"^\| `([^`]+)` \|", section.split("###")[0], re.M)
    assert len(promised) == 6
    assert {name.rstrip("/") for name in promised} <= {p.name for p in Path("runs/sales").iterdir()}
    orders = pl.read_parquet("next/orders.parquet")
    assert orders["cutoff"].n_unique() == 1
    assert orders.height == 16
