"""The grid of federated language: four formulations, resuming, tables, report."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

pytest.importorskip("flwr")
pytest.importorskip("rouge_score")

from foretell.data import registry
from foretell.data.text import PairSet, QuestionSet, TextSet
from foretell.errors import RecipeError
from foretell.runs import recipe as recipes
from foretell.runs.fednlp.division import divide
from foretell.runs.fednlp.jobs import Job, load_task, run_job
from foretell.runs.fednlp.recipe import PartitionSection
from foretell.runs.runner import run

NAMES, PLACES = ["ann", "bob", "cleo", "dan"], ["rome", "oslo", "paris", "lima"]
VERBS = ["lives", "works", "sings", "eats"]


def _rows(size: int):
    rng = np.random.default_rng(0)
    drawn = rng.integers(4, size=(size, 3))
    split = ["test" if i % 4 == 3 else "train" for i in range(size)]
    return [(NAMES[a], VERBS[b], PLACES[c]) for a, b, c in drawn], split


def _load(name: str, **options):
    rows, split = _rows(160)
    texts = [f"{n} {v} in {p}" for n, v, p in rows]
    if name == "texts":
        slots = [["B-who", "O", "O", "B-where"]] * len(rows)
        frame = pl.DataFrame(
            {"tokens": [t.split() for t in texts], "intent": [v for _, v, _ in rows],
             "slots": slots, "split": split, "author": [n for n, _, _ in rows]}
        )  # fmt: skip
        return TextSet.from_frame(frame)
    if name == "questions":
        frame = pl.DataFrame(
            {"context": texts, "question": [f"where does {n} stay?" for n, _, _ in rows],
             "answers": [[p] for _, _, p in rows],
             "starts": [[t.rindex(" ") + 1] for t in texts], "split": split}
        )  # fmt: skip
        return QuestionSet.from_frame(frame)
    targets = [f"{p} has {n}" for n, _, p in rows]
    return PairSet.from_frame(pl.DataFrame({"source": texts, "target": targets, "split": split}))


@pytest.fixture(autouse=True)
def small_sources(monkeypatch):
    monkeypatch.setattr(registry, "load", _load)


SMALL = {"embedding": 8, "hidden": 8, "characters": False, "words": 64}
ADAM = {"optimizer": "adamw", "learning_rate": 0.02, "batch_size": 8}
TASKS = {
    "tc": {
        "formulation": "tc", "data": {"source": "texts"}, "clients": 6, "per_round": 3,
        "rounds": 4, "evaluate_every": 2, "partitions": [{"kind": "label_dirichlet"}],
        "learner": {"kind": "bag_of_words", "words": 64, "stop_words": False},
        "local": {"learning_rate": 4.0}, "central": {"learning_rate": 4.0, "epochs": 4},
    },
    "st": {
        "formulation": "st", "data": {"source": "texts"}, "clients": 4, "per_round": 2,
        "rounds": 3, "partitions": [{"kind": "quantity_dirichlet"}], "only": ["fedavg"],
        "learner": SMALL, "local": ADAM, "central": {**ADAM, "epochs": 6},
    },
    "qa": {
        "formulation": "qa", "data": {"source": "questions"}, "clients": 3, "per_round": 2,
        "rounds": 2, "partitions": [{"kind": "feature_cluster", "clusters": 3, "alphas": [1.0]}],
        "learner": SMALL, "local": ADAM, "central": {**ADAM, "epochs": 6}, "only": ["fedavg"],
    },
    "ss": {
        "formulation": "ss", "data": {"source": "pairs", "tests": 10}, "clients": 3,
        "per_round": 2, "rounds": 2,
        "partitions": [{"kind": "feature_cluster", "clusters": 3, "alphas": [1.0]}],
        "learner": {**SMALL, "vocabulary": "clients"}, "local": ADAM,
        "central": {**ADAM, "epochs": 6}, "only": ["fedavg"],
    },
}  # fmt: skip


def small(**more):
    return recipes.parse(
        {
            "task": "fednlp",
            "baseline": "fedavg",
            "grid": {"alphas": [1.0, 1e4]},
            "algorithms": {
                "fedavg": {},
                "fedadam": {"strategy": "fedadam", "options": {"eta": 0.1}},
                "scaffold": {"strategy": "scaffold"},
            },
            "tasks": TASKS,
            **more,
        }
    )


def test_the_whole_grid_with_tables_and_report(tmp_path):
    recipe = small(
        optimisers={
            "task": "tc", "client_rates": {"sgd": 4.0, "adamw": 0.05},
            "server_rates": {"sgd": 1.0, "adam": 0.1},
        },
        freezing={
            "task": "st", "alpha": 5.0,
            "sets": {"nothing": [], "words": ["embedding"], "most": ["embedding", "encoder"]},
        },
    )  # fmt: skip
    said = []
    done = run(recipe, tmp_path / "run", tell=said.append)
    record = json.loads((done.path / "run.json").read_text())
    assert record["status"] == "complete"
    tasks = {row["task"]: row for row in record["tables"]["tasks"]}
    assert set(tasks) == {"tc", "st", "qa", "ss"}
    assert tasks["tc"]["central"] > tasks["tc"]["best_trivial_score"] + 0.2
    grid = record["tables"]["grid"]
    own = [r for r in grid if r["task"] == "tc"]
    assert {(r["alpha"], r["method"]) for r in own} == {
        (a, m) for a in (1.0, 1e4) for m in ("fedavg", "fedadam", "scaffold")
    }
    for row in grid:
        assert row["gap"] == pytest.approx(row["score"] - tasks[row["task"]]["central"])
        assert row["clients_worst"] <= row["clients_low"] <= row["clients_mean"]
        assert row["megabytes"] > 0
    pairs = {(r["client"], r["server"]) for r in record["tables"]["optimisers"]}
    assert pairs == {(c, s) for c in ("sgd", "adamw") for s in ("sgd", "adam")}
    # Bytes fall by what is frozen, and frozen tensors are what they were.
    whole, words, most = record["tables"]["freezing"]
    assert whole["share_frozen"] == 0
    assert words["frozen_identical"] and most["frozen_identical"]
    assert most["bytes_travelling"] < words["bytes_travelling"] < whole["bytes_travelling"]
    for row in (whole, words, most):
        assert row["bytes_record"] - row["bytes_travelling"] < 3000  # names and headers
    fewer = whole["bytes_down_per_message"] - words["bytes_down_per_message"]
    assert fewer == whole["bytes_record"] - words["bytes_record"]
    # Who pools clients' words is told so; hashing is silent.
    assert any(w.startswith("ss:") and "raw texts" in w for w in record["warnings"])
    assert not any(w.startswith(("tc:", "st:", "qa:")) and "raw" in w for w in record["warnings"])
    page = (done.path / "report.html").read_text()
    assert "text classification on texts" in page
    assert "Optimisers of clients and of the server" in page
    assert "Frozen layers" in page
    curves = pl.read_parquet(done.path / "curves.parquet")
    assert set(curves["task"]) == {"tc", "st", "qa", "ss"}
    assert any("in one place" in line for line in said)


def test_jobs_are_read_when_they_were_done(tmp_path, monkeypatch):
    job = Job(small(), "grid", "tc", 0, tmp_path, 0, 1.0, "fedavg")
    first = run_job(job)
    monkeypatch.setattr("foretell.runs.fednlp.jobs._federated", None)
    again = run_job(job)
    assert again.scores == first.scores
    assert again.curve == first.curve
    assert again.clients.tolist() == first.clients.tolist()
    assert again.notes == first.notes


def test_every_text_belongs_to_one_client_and_natural_clients_keep_their_tests():
    task = load_task(small(), "tc")
    skewed = divide(task, PartitionSection(kind="label_dirichlet"), 0.1, 5)
    assert np.sort(np.concatenate(skewed.parts)).tolist() == list(range(len(task.train)))
    assert np.sort(np.concatenate(skewed.tests)).tolist() == list(range(len(task.test)))
    even = divide(task, PartitionSection(kind="label_dirichlet"), 1e4, 5)
    assert skewed.classes < even.classes
    own = divide(task, PartitionSection(kind="natural", by="author"), None, 5)
    assert len(own.parts) == 4
    for train, test in zip(own.parts, own.tests, strict=True):
        authors = task.train.frame["author"][task.rows[train]].unique().to_list()
        assert authors == task.test.frame["author"][task.test_rows[test]].unique().to_list()


def test_clusters_are_made_of_training_texts_alone():
    task = load_task(small(), "qa")
    division = divide(task, PartitionSection(kind="feature_cluster", clusters=3), 1.0, 3)
    assert sum(map(len, division.parts)) == len(task.rows)
    with pytest.raises(RecipeError, match="no labels to divide by"):
        divide(task, PartitionSection(kind="label_dirichlet"), 1.0, 3)


def test_held_out_texts_leave_the_tests_alone():
    whole = load_task(small(), "tc")
    tasks = {**TASKS, "tc": {**TASKS["tc"], "data": {"source": "texts", "judge": "held_out"}}}
    kept = load_task(small(tasks=tasks), "tc")
    assert len(kept.train) + len(kept.test) == len(whole.train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "fedavgg"}, "did you mean 'fedavg'"),
        ({"algorithms": {"a": {"strategy": "fedsgd"}}, "baseline": None}, "is no"),
        ({"freezing": {"task": "tv", "sets": {"a": []}}}, "no task"),
        ({"tasks": {"st": {**TASKS["st"], "learner": {"kind": "bag_of_words"}}}}, "no order"),
        ({"tasks": {"ss": {**TASKS["ss"], "learner": {}}}}, "cannot be written"),
        ({"tasks": {"tc": {**TASKS["tc"], "partitions": [{"kind": "natural"}]}}}, "by"),
        ({"tasks": {"tc": {**TASKS["tc"], "per_round": 7}}}, "more than clients"),
        ({"tasks": {"tc": {**TASKS["tc"], "local": {"epoch": 1}}}}, "epoch"),
    ],
    ids=["baseline", "strategy", "task", "order", "hash", "natural", "clients", "local"],
)
def test_recipes_that_do_not_fit(change, message):
    with pytest.raises(RecipeError, match=message):
        small(**change)


def test_only_some_tasks_and_algorithms():
    recipe = small(
        freezing={"task": "st", "alpha": 5.0, "sets": {"words": ["embedding"]}},
    ).only(["tc", "fedavg"])
    assert list(recipe.tasks) == ["tc"]
    assert list(recipe.algorithms) == ["fedavg"]
    assert recipe.freezing is None
    with pytest.raises(RecipeError, match="neither a task nor an algorithm"):
        recipe.only(["tcc"])


@pytest.mark.real_data
def test_the_shipped_partition_holds_the_published_numbers_of_classes(data_root, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("FORETELL_DATA", str(data_root))
    recipe = recipes.load("fednlp")
    task = load_task(recipe, "tc")
    section = recipe.tasks["tc"].partitions[0]
    # At 0.1 most mixes are one class, and what refilling adds differs from seed to seed.
    for alpha, classes, near in ((0.1, 1.9, 0.4), (1.0, 4.3, 0.15), (10.0, 13.5, 0.15)):
        division = divide(task, section, alpha, 100)
        assert division.classes == pytest.approx(classes, rel=near)
        sizes = [len(part) for part in division.parts]
        assert set(sizes[:-1]) == {113}
