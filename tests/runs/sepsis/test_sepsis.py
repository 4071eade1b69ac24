"""Runs about early warning: from recipe to report, deployment and new stays."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from tiny_runs import call, record

from foretell.data.clinical import split_by_patient, target, write_stays
from foretell.data.simulators import hospitals
from foretell.decisions.abstention import Status
from foretell.errors import ArtefactError, RecipeError
from foretell.runs import recipe as recipes
from foretell.runs.sepsis import checks
from foretell.runs.sepsis.judging import age_band, fit_gate, lacking
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.sequence import Rows, at_sensitivity, intercept
from foretell.runs.sepsis.sources import load_parts
from foretell.runs.sepsis.wuperr import estimator
from foretell.serving.deployment import Deployment

RECIPE = """
task = "sepsis"
title = "Two <small> hospitals"
deploy = "wuperr"

[data]
source = "hospitals"
options = {{ stays = 220, sites = 2, hours = [16, 40], seed = 4 }}
sites = ["B", "A"]
well_hours = 900
judged_hours = 900

[model]
hidden = [16, 8]
epochs = 4
negatives = 64
positives = 16

[methods.wuperr]
kind = "wuperr"
release = 1.0

[methods.wuperr.options]
memory_per_site = 200
positives_per_site = 60
fisher_examples = 200
min_patients = 5


[methods.naive]
kind = "naive"

[gate]
max_rows = 3000

[alarms]
candidates = 12
{alarms}

[evaluation]
resamples = 20
examples = 2
audit = false
thresholds = [0.05, 0.2]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("sepsis")
    file = home / "two.toml"
    file.write_text(RECIPE.format(alarms=""))
    result = call("run", file, "--out", home / "run")
    assert result.exit_code == 0, result.stderr
    return home / "run"


def test_a_run_says_all_that_reviewers_ask(finished):
    told = record(finished)
    assert told["deployed"]["method"] == "wuperr" and told["best"] == "wuperr"
    scores = told["metrics"]["wuperr"]["sites"]
    assert 0.5 < scores["final_mean"] <= 1
    assert scores["utility_margin"] == pytest.approx(
        scores["utility"] - told["tables"]["utility"][0]["utility"]
    )
    matrix = pl.read_parquet(finished / "matrix.parquet")
    assert len(matrix) == 2 * 4
    assert matrix["trained_on"].unique(maintain_order=True).to_list() == ["B", "A"]
    wuperr = told["tables"]["sequence"][0]
    assert set(wuperr["audits"]) == {"A", "B"}
    assert not any(audit["performed"] for audit in wuperr["audits"].values())
    assert (finished / "bundle.safetensors").is_file()
    shares = [row["share"] for row in told["tables"]["abstentions"]["status"]]
    assert sum(shares) == pytest.approx(1)
    found = told["tables"]["calibration"]
    for name in ("slope", "intercept"):
        around = found[f"{name}_around"]
        assert around["lower"] < found[name] == around["estimate"] < around["upper"]
    windows = told["tables"]["alarms"]["windows"]
    assert [row["hours"] for row in windows] == [12, 24, 48]
    values = [row["ppv"][0] for row in windows]
    assert values == sorted(values), "more alarms are followed by an onset"
    own = {r["metric"]: r["value"] for r in told["tables"]["alarms"]["gated"]}
    assert windows[-1]["ppv"][0] == own["ppv"]
    kinds = {row["kind"] for row in told["tables"]["equity"]}
    assert kinds == {"age", "sex", "site"}
    for row in told["tables"]["equity"]:
        value, low, high = row["false_alarms_per_patient_hour"]
        assert low <= value <= high


def test_every_report_says_whether_it_reads_the_clock_and_travels(finished):
    told = record(finished)
    made = told["tables"]["checks"]
    blind, away = made["time_blind"], made["leave_hospital_out"]
    assert blind["performed"] and away["performed"]
    assert blind["horizon"] == told["tables"]["horizon"] == 4
    assert [row["hospital"] for row in blind["rows"]] == ["A", "B", "all hospitals"]
    assert [(row["trained_at"], row["judged_at"]) for row in away["rows"]] == [
        (["B"], "A"), (["A"], "B"),
    ]  # fmt: skip
    clock = {row["hospital"]: row["clock"] for row in blind["rows"]}
    assert all(row["clock"] == clock[row["judged_at"]] for row in away["rows"])
    assert clock["all hospitals"] == pytest.approx(told["tables"]["utility"][0]["utility"])
    page = (finished / "report.html").read_text().split('id="payload"')[0]
    for words in (
        "Without anything that tells the time", "mostly reads the clock",
        "At a hospital it has not seen", "worse than a clock at a hospital it has not seen",
        "onset within 4 hours", "alarm is true (48 hours here)",
    ):  # fmt: skip
        assert words in page
    for row in blind["rows"]:
        assert f"{row['blind_auroc']:.3f} (" in page


def test_checks_that_do_not_apply_say_so(finished, tmp_path):
    file = tmp_path / "one.toml"
    text = RECIPE.format(alarms="").replace('sites = ["B", "A"]', 'sites = ["A"]')
    file.write_text(text + "\n[checks]\ntime_blind = false\noptions = { trees = 5 }\n")
    result = call("run", file, "--models", "naive", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    made = record(tmp_path / "run")["tables"]["checks"]
    assert not made["time_blind"]["performed"] and not made["leave_hospital_out"]["performed"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "not made: the recipe asks for none." in page
    assert "not made: there is one hospital" in page


def test_checks_are_gone_on_behind(tmp_path, monkeypatch):
    data = recipes.load("sepsis-simulated")
    options = {"stays": 120, "sites": 2, "hours": [16, 40], "seed": 4}
    section = data.data.model_copy(update={"options": options})
    small = data.checks.model_copy(update={"options": {"trees": 5, "leaf_rows": 50}})
    told = data.model_copy(update={"data": section, "checks": small})
    parts, lines = load_parts(section.model_dump_json()), []
    first = checks.run_checks(told, parts, 4.0, tmp_path, lines.append)
    assert len(lines) == 2 and "AUROC without time A" in lines[0] and "clock" in lines[1]
    # Half of it is lost: only that half is made again.
    (tmp_path / "leave_hospital_out.json").unlink()
    monkeypatch.setattr(checks, "time_blind_check", None)
    again = checks.run_checks(told, parts, 4.0, tmp_path, lines.append)
    seconds = {name: again[name].pop("cpu_seconds") - first[name].pop("cpu_seconds")
               for name in again}  # fmt: skip
    assert again == first and seconds["time_blind"] == 0 and len(lines) == 3


def test_both_conventions_stand_side_by_side(finished):
    rows = {r["convention"]: r for r in record(finished)["tables"]["conventions"]}
    assert set(rows) == {"no gate", "excluded", "negative"}
    # To leave hours out hides misses; it changes no alarm.
    assert rows["excluded"]["tp"] == rows["negative"]["tp"]
    assert rows["excluded"]["fp"] == rows["negative"]["fp"]
    assert rows["excluded"]["fn"] <= rows["negative"]["fn"]


def test_the_page_speaks_plainly_and_names_nobody(finished):
    page = (finished / "report.html").read_text().split('id="payload"')[0]
    for words in (
        "must not be used for", "Utility, always beside the clock", "For whom it works",
        "as lived", "as published", "What leaves a site", "clock 48 h",
    ):  # fmt: skip
        assert words in page
    # Nobody reads a figure before what the model is not for.
    assert page.index('id="h-use"') < page.index('id="h-headline"')
    assert "By how soon the onset must follow" in page
    assert re.search(r"slope \S+ \(\S+ to \S+\) \(below", page)
    assert "Two &lt;small&gt; hospitals" in page
    stays, _ = hospitals(stays=220, sites=2, hours=(16, 40), seed=4)
    assert not any(f">{name}<" in page or f'"{name}"' in page for name in stays.ids.tolist())


def test_what_is_deployed_streams_what_it_says_of_tables(finished):
    deployment = Deployment.load(finished)
    assert deployment.version == record(finished)["deployed"]["version"]
    stays, _ = hospitals(stays=220, sites=2, hours=(16, 40), seed=4)
    some = stays.select([0, 1, 240])
    told = deployment.predict(some)
    at = 0
    for i in range(len(some)):
        one = some.select([i])
        live = deployment.stream(
            source=str(one.names("hospital")[0]), age=one.number("age")[0], sex=one.names("sex")[0]
        )
        for k, row in enumerate(one.matrix()):
            if k == 5:
                held = json.loads(json.dumps(live.snapshot()["alarms"]))
                snapshot = live.snapshot() | {"alarms": held}
                live = deployment.stream(
                    source=str(one.names("hospital")[0]), age=one.number("age")[0],
                    sex=one.names("sex")[0],
                ).restore(snapshot)  # fmt: skip
            now = live.step(row)
            want = told.row(at, named=True)
            assert now.hour == want["hour"]
            assert now.status.name.lower() == want["status"]
            assert (now.score is None) == (want["score"] is None)
            if now.score is not None:
                assert now.score == pytest.approx(want["score"], abs=1e-6)
            if now.status != Status.OK:
                assert list(now.reasons) == want["reasons"]
            assert (now.alarm is not None) == want["alarm"]
            at += 1


def test_new_stays_get_scores_reasons_and_alarms(finished, tmp_path):
    stays, _ = hospitals(stays=5, sites=2, hours=(12, 24), seed=9)
    write_stays(stays, tmp_path / "new")
    result = call("predict", finished, "--data", tmp_path / "new", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    found = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert found.columns[:5] == ["id", "hour", "status", "score", "reasons"]
    assert len(found) == stays.n_rows
    silent = found.filter(pl.col("score").is_null())
    assert silent["reasons"].list.len().min() >= 1 if len(silent) else True
    assert not (found["alarm"] & found["score"].is_null()).any()


def test_auroc_is_told_for_both_horizons(finished, tmp_path):
    """What ``evaluate`` ranks by default is not what the report ranks: both say of which onset."""
    stays, _ = hospitals(stays=220, sites=2, hours=(16, 40), seed=4)
    test = split_by_patient(stays).test
    write_stays(test, tmp_path / "test")
    arguments = ("evaluate", tmp_path / "test", "--run", finished, "--resamples", "10")
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["ranking"]["horizon"] == 48 and told["model_ranking"]["horizon"] == 4
    ranked = {(r["site"], r["hours"]): r for r in record(finished)["tables"]["ranking"]}
    mine = ranked["all", "hours with a score"]["auroc"]
    assert told["model_ranking"]["auroc"]["estimate"] == pytest.approx(mine)
    shown = call(*arguments)
    assert "another question than over 4 h" in " ".join(shown.stderr.split())


def test_new_files_of_the_challenge(finished, tmp_path):
    stays, _ = hospitals(stays=2, sites=1, hours=(12, 14), seed=9)
    names = stays.schema.names
    for i in range(2):
        one = stays.select([i])
        table = pl.DataFrame(
            {n: one.column(n) for n in names}
            | {"Age": [60.0] * one.n_rows, "Gender": [1] * one.n_rows, "ICULOS": one.hours()}
        )
        table.fill_nan(None).write_csv(tmp_path / f"p{i:06}.psv", separator="|", null_value="NaN")
    result = call("predict", finished, "--data", tmp_path / "p000001.psv", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.stderr
    found = pl.read_parquet(tmp_path / "o" / "predictions.parquet")
    assert found["hour"].to_list() == one.hours().tolist()


def test_a_changed_part_is_not_deployed(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    told = json.loads((copy / "deployment.json").read_text())
    told["policy"]["tiers"][0]["threshold"] /= 2
    (copy / "deployment.json").write_text(json.dumps(told))
    with pytest.raises(ArtefactError, match="saved together"):
        Deployment.load(copy)
    (copy / "deployment.json").unlink()
    with pytest.raises(ArtefactError, match=r"holds no deployment\.json"):
        Deployment.load(copy)


def test_an_impossible_constraint_is_said_aloud(finished, tmp_path):
    file = tmp_path / "asked.toml"
    file.write_text(RECIPE.format(alarms="constraint = { ppv = 0.999, faph = 1e-9 }"))
    result = call("run", file, "--models", "naive", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert record(tmp_path / "run")["tables"]["alarms"]["feasible"] is False
    assert "No threshold met what was asked" in (tmp_path / "run" / "report.html").read_text()


def test_thresholds_of_sites_are_one_risk(finished, tmp_path):
    file = tmp_path / "sites.toml"
    file.write_text(RECIPE.format(alarms="by_site = true") + "\n[checks]\ntime_blind = false\n"
                    "leave_hospital_out = false\n")  # fmt: skip
    result = call("run", file, "--models", "wuperr", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    told, deployment = record(tmp_path / "run"), Deployment.load(tmp_path / "run")
    tier = deployment.policy.tiers[0]
    assert set(tier.units) == {"A", "B"} == set(told["deployed"]["utility_thresholds"])
    assert told["tables"]["alarms"]["thresholds"] == dict(tier.units)
    # What scores promise is watched at the same thresholds.
    watched = deployment.monitor.tier_
    assert (watched.threshold, watched.units) == (tier.threshold, tier.units)
    page = (tmp_path / "run" / "report.html").read_text()
    assert ", at A" in page and "another score at each site" in page
    stays, _ = hospitals(stays=220, sites=2, hours=(16, 40), seed=4)
    held = split_by_patient(stays).validation
    risk = deployment.model.predict_proba(held)[:, 1]
    lack = lacking(held, risk, 4.0)
    wanted, site = target(held, 4.0), held.names("site").astype(str)[held.stay_of_row()]

    def odds(p):
        return np.log(p / (1 - p))

    for name, by in lack.items():
        # The same risk at both, after what each site's odds lack.
        assert odds(tier.units[name]) == pytest.approx(odds(tier.threshold) - by)
        mine = wanted.at_risk & (site == name)
        mended = 1 / (1 + np.exp(-(odds(risk[mine]) + by)))
        assert mended.mean() == pytest.approx(wanted.label[mine].mean(), rel=1e-3)
    judged = deployment.judge(stays.select([0, 240]))
    one = stays.select([0])
    name = str(one.names("site")[0])
    live = deployment.stream(
        site=name, source=str(one.names("hospital")[0]), age=one.number("age")[0],
        sex=one.names("sex")[0],
    )  # fmt: skip
    raised = [live.step(row).alarm is not None for row in one.matrix()]
    assert raised == judged.alarms.raised[: one.n_rows].tolist()


def test_noise_follows_from_no_seed_unless_it_is_given_one():
    told = tomllib.loads(RECIPE.format(alarms=""))
    assert estimator(Recipe.model_validate(told), "wuperr", 1).release_seed is None
    told["methods"]["wuperr"]["noise_seed"] = 4
    assert estimator(Recipe.model_validate(told), "wuperr", 1).release_seed == 5


def test_too_few_patients_make_no_bundle(tmp_path):
    file = tmp_path / "few.toml"
    file.write_text(RECIPE.format(alarms="").replace("min_patients = 5", "min_patients = 500"))
    result = call("run", file, "--models", "wuperr", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    audits = record(tmp_path / "run")["tables"]["sequence"][0]["audits"]
    assert not any(a["passed"] for a in audits.values())
    assert not (tmp_path / "run" / "bundle.safetensors").exists()
    assert "must not leave" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.sites=['B','Z']", "no site 'Z'"),
        ("model.hiden=[4]", "hiden"),
        ("methods.naive.release=1.0", "keeps none"),
        ("methods.naive.noise_seed=1", "keeps none"),
        ("methods.wuperr.options.memory=3", "memory"),
        ("deploy=wupper", "did you mean 'wuperr'"),
        ("data.options.stay=3", "did you mean"),
        ("data.options.stays=ten", "data.options.stays: Input should be a valid integer"),
        ("alarms.constraint={pvv=0.3}", "constraint"),
        ("gate.alarm_level=1.0", "alarm_level"),
        ("checks.bar=72", "checks.bar"),
        ("checks.time_blnd=true", "time_blnd"),
        ("checks.options={leafs=3}", "did you mean 'leaves'"),
        ("checks.options={trees=0}", "trees must be a whole number"),
        ("checks.options={features='full'}", "checks.options has no key 'features'"),
    ],
)
def test_what_a_recipe_gets_wrong(change, said, tmp_path):
    file = tmp_path / "two.toml"
    file.write_text(RECIPE.format(alarms=""))
    result = call("run", file, "--set", change, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_shipped_recipes_are_valid():
    for name in ("sepsis", "sepsis-simulated"):
        recipe = recipes.load(name)
        assert recipe.deployed == "wuperr"
        assert recipe.checks.time_blind and recipe.checks.leave_hospital_out
    with pytest.raises(RecipeError, match="no method"):
        recipe.only(["ewcc"])


def test_a_recipe_sets_the_level_of_alarms():
    stays, _ = hospitals(stays=220, sites=1, hours=(16, 40), seed=4)
    split = split_by_patient(stays)
    model = SimpleNamespace(horizon=4)
    parts = SimpleNamespace(split=split)
    risk = np.full(split.validation.n_rows, 0.1)
    for level in (0.0, 0.2):
        section = recipes.load("sepsis-simulated").gate.model_copy(update={"alarm_level": level})
        told = SimpleNamespace(gate=section, seeds=(0,))
        assert fit_gate(told, parts, model, risk).alarm_level == (level or None)


def test_precision_counts_the_hours_that_were_left_out():
    rows = Rows(
        np.zeros((14, 1)), np.r_[np.ones(4), np.zeros(10)].astype(np.int8), np.zeros(14), 0.1
    )
    scores = np.r_[4.0, 3, 2, 0, 2.5, np.full(9, -1.0)]
    found = at_sensitivity(scores, rows)
    # The 20 % quantile of the positive scores is 0: all four are found, and one of ten others.
    assert found["specificity"] == pytest.approx(0.9)
    assert found["ppv"] == pytest.approx(4 / (4 + 1 / 0.1))
    assert rows.rate == pytest.approx(4 / 104)
    shift = intercept(scores, rows)
    weight = np.where(rows.label == 1, 1, 10)
    assert (weight / (1 + np.exp(-scores - shift))).sum() == pytest.approx(4, abs=1e-6)


def test_age_bands():
    bands = age_band(np.array([20.0, 45, 64.9, 65, 79, 80, 95, np.nan]))
    assert bands.tolist() == [
        "under 45", "45 to 64", "45 to 64", "65 to 79", "65 to 79", "80 and over", "80 and over",
        "unknown",
    ]  # fmt: skip
