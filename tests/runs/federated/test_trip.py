"""The task federated: recipe, jobs that resume, findings, report."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest

pytest.importorskip("flwr")
pytest.importorskip("dp_accounting")

from foretell.data.simulators.device_topics import device_topics
from foretell.errors import ParameterError, RecipeError
from foretell.runs import recipe as recipes
from foretell.runs.federated.findings import privacy_table
from foretell.runs.federated.groups import activity_groups
from foretell.runs.federated.jobs import Job, run_job, train
from foretell.runs.federated.recipe import PrivacySection
from foretell.runs.federated.sources import load_federation
from foretell.runs.runner import run

SIMULATED = {"devices": 120, "tests": 200, "largest": 30, "features": 30}


def small(kappa: float = 1.0, number: int = 6, **more):
    return recipes.parse(
        {
            "task": "federated",
            "baseline": "uniform",
            "data": {"source": "device_topics", "options": {**SIMULATED, "kappa": kappa}},
            "rounds": {"count": number, "clients": 8, "read_at": [3, number]},
            "tuning": {"rates": [0.1]},
            "methods": {
                "uniform": {"selection": "uniform", "aggregation": "equal"},
                "active": {"selection": "proportional", "aggregation": "equal"},
            },
            **more,
        }
    )


def test_truth_active_devices_win_unless_rare_topics_live_on_quiet_ones(tmp_path):
    def accuracy(kappa: float, method: str, name: str) -> float:
        recipe = small(kappa, 8)
        found = []
        for seed in range(2):
            job = Job(recipe, method, 0.1, seed, "static", tmp_path)
            found.append(train(job, load_federation(recipe, seed)).at(8, name))
        return float(np.mean(found))

    common, rare = "common topics", "rare topics"
    assert accuracy(0.0, "active", common) > accuracy(0.0, "uniform", common)
    assert accuracy(1.0, "active", rare) < accuracy(1.0, "uniform", rare) - 0.05


def test_a_whole_run_with_report(tmp_path):
    recipe = small(
        seeds=[0, 1],
        continual={"periods": 2, "rounds": 2, "buffers": ["fifo:5"], "methods": ["active"]},
        privacy={"noise_multiplier": 2.0, "rules": ["uniform", "proportional"]},
    )
    done = run(recipe, tmp_path / "run")
    record = json.loads((done.path / "run.json").read_text())
    assert record["status"] == "complete"
    static = {row["method"]: row for row in record["tables"]["static"]}
    assert static["active"]["samples_per_round"] > static["uniform"]["samples_per_round"]
    assert {row["model"] for row in record["leaderboard"]["final"]} == {"uniform", "active"}
    moving = record["tables"]["continual"]
    assert [row["method"] for row in moving] == ["active"]
    assert len(moving[0]["by_period"]) == 2
    curves = pl.read_parquet(done.path / "curves.parquet")
    assert set(curves["mode"]) == {"static", "fifo:5"}
    page = (done.path / "report.html").read_text()
    assert "By rounds, by samples, by bytes" in page
    # The page says who pays for the choice.
    assert re.search(r"On rare topics active \([\d.]+%\) is worse than uniform", page)
    assert "What being chosen costs" in page


def test_jobs_are_read_when_they_were_done(tmp_path, monkeypatch):
    job = Job(small(number=3), "active", 0.1, 0, "static", tmp_path)
    first = run_job(job)
    monkeypatch.setattr("foretell.runs.federated.jobs.train", None)
    again = run_job(job)
    assert again.curve == first.curve
    assert again.chosen.tolist() == first.chosen.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "unifrom"}, "did you mean 'uniform'"),
        ({"rounds": {"count": 3, "read_at": [5]}}, "beyond"),
        ({"continual": {"methods": ["activ"]}}, "did you mean 'active'"),
        ({"continual": {"methods": ["active"], "buffers": ["ring"]}}, "ring"),
        ({"methods": {"a": {"selection": "loog"}}, "baseline": None}, "loog"),
        ({"methods": {"a": {"private": True}}, "baseline": None}, "privacy"),
        ({"methods": {"a": {"local": {"epoch": 2}}}, "baseline": None}, "epoch"),
    ],
    ids=["baseline", "rounds", "continual", "buffer", "rule", "private", "local"],
)
def test_recipes_that_do_not_fit(change, message):
    with pytest.raises(RecipeError, match=message):
        small(**change)


def test_only_some_methods():
    recipe = small(continual={"methods": ["active"]}).only(["uniform"])
    assert list(recipe.methods) == ["uniform"]
    assert recipe.continual is None
    with pytest.raises(RecipeError, match="no method"):
        recipe.only(["active"])


def test_groups_of_equal_activity_are_one():
    activity = np.array([1.0] * 80 + [2.0] * 10 + [5.0] * 10)
    tests = np.array([0, 1, 1, 2, 5, 3])
    rows = activity_groups(activity, tests, np.array([1, 1, 0, 1, 1, 0], dtype=bool))
    assert [r["group"] for r in rows] == ["no training data", "1", "2", "3 to 5"]
    assert [r["clients"] for r in rows] == [0, 80, 10, 10]
    assert [r["accuracy"] for r in rows] == [1.0, 0.5, 1.0, 0.5]
    assert activity_groups(activity, np.full(6, np.nan), np.ones(6, dtype=bool)) == []


def test_privacy_costs_grow_with_activity_up_to_the_bound():
    activity = np.array([1.0] * 90 + [10.0] * 10)
    section = PrivacySection(noise_multiplier=3.0, rules=["uniform", "proportional"])
    rows = privacy_table(section, activity, 5, 10)
    free, bounded = (r for r in rows if r["rule"] == "proportional")
    assert free["at"]["1"] < free["at"]["10"]
    assert bounded["largest"] < free["largest"]
    assert bounded["largest_chance"] == pytest.approx(4 * 5 / 100)
    even = next(r for r in rows if r["rule"] == "uniform")
    assert even["at"]["1"] == even["at"]["10"]


def test_simulated_devices():
    made = device_topics(100, kappa=1.0, tests=50, seed=3)
    sizes = np.bincount(made.devices)
    assert sizes.min() >= 1
    assert sizes.max() <= 500
    light = np.argsort(sizes, kind="stable")[:20]
    heavy = np.setdiff1d(np.arange(100), light)
    rare = made.topics >= 7
    assert rare[np.isin(made.devices, light)].mean() > 0.95
    assert rare[np.isin(made.devices, heavy)].mean() < 0.2
    assert np.linalg.norm(made.features, axis=1) == pytest.approx(np.ones(len(made.features)))
    again = device_topics(100, kappa=1.0, tests=50, seed=3)
    assert np.array_equal(made.features, again.features)
    with pytest.raises(ParameterError, match="kappa"):
        device_topics(kappa=2)


@pytest.mark.real_data
def test_authors_of_newsgroups_are_natural_devices(data_root, monkeypatch):
    monkeypatch.setenv("FORETELL_DATA", str(data_root))
    recipe = recipes.load("federated-activity", settings=["rounds.count=4", "rounds.read_at=[4]"])
    federation = load_federation(recipe, 0)
    assert federation.about["clients"] == 5755
    assert federation.about["largest_activity"] == 73
    assert federation.about["top_tenth_share"] == pytest.approx(0.40, abs=0.01)
    done = train(Job(recipe, "log-equal", 0.1, 0, "static", data_root), federation)
    # 50 devices of 5,755 a round: far above chance after four rounds.
    assert done.at(4) > 0.15
    assert done.chosen.sum() == 200
