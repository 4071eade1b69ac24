"""Private federations in a run: one statement, audited by canary clients."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")
pytest.importorskip("dp_accounting")

from foretell.errors import RecipeError
from foretell.runs import recipe as recipes
from foretell.runs.federated.private import AuditJob, run_audit, verdict
from foretell.runs.runner import run

METHOD = {"strategy": "fedavg", "selection": "uniform", "draw": "poisson", "aggregation": "equal"}
SMALL = {
    "task": "federated",
    "baseline": "plain",
    "data": {"source": "device_topics", "options": {"devices": 30, "tests": 60, "features": 20}},
    "rounds": {"count": 3, "clients": 60, "read_at": [3]},
    "methods": {"plain": METHOD, "private": {**METHOD, "private": True, "q_max": 0.6}},
    "privacy": {"noise_multiplier": 4.0, "delta": 1e-5, "rules": ["uniform"], "noise_seed": 0},
    "audit": {"method": "private", "canaries": 80, "activity": 2},
}


def test_a_run_states_and_audits(tmp_path):
    done = run(recipes.parse(SMALL), tmp_path / "run")
    record = done.read()
    statement = record["statements"]["private"]
    spread = statement["federation"]["distribution"]
    assert statement["unit"] == "client" and spread["largest"] == statement["epsilon"]
    assert any("idf" in text for text in statement["assumptions"])
    audit = record["tables"]["audit"]
    noisy, bare = audit["runs"]
    assert noisy["noisy"] and noisy["refuted"] == [] and not bare["noisy"]
    assert max(noisy["bounds"].values()) < audit["claim"]["epsilon"]
    assert bare["refuted"] and max(bare["bounds"].values()) > audit["claim"]["epsilon"]
    assert bare["auc"] > noisy["auc"]
    page = (done.path / "report.html").read_text()
    for text in ("put to the test", "left out", "do not add up", "white_box_final", "refuted"):
        assert text in page
    # What was done is read again.
    jobs = [AuditJob(recipes.parse(SMALL), n, 0, done.work.resolve()) for n in (True, False)]
    assert verdict(run_audit(jobs[0]), run_audit(jobs[1]))["runs"][0]["auc"] == noisy["auc"]


def test_audits_of_what_claims_nothing_are_refused():
    with pytest.raises(RecipeError, match="not private"):
        recipes.parse({**SMALL, "audit": {"method": "plain"}})
    with pytest.raises(RecipeError, match="no method"):
        recipes.parse({**SMALL, "audit": {"method": "privat"}})
    assert recipes.parse(SMALL).only(["plain"]).audit is None
    assert recipes.load("private-federated").audit is not None
