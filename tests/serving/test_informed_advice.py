"""Advice by expected information gain, where a deployment brings what that needs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from foretell.data.clinical import target
from foretell.decisions.sensing import HourlySensing, panel_tables, panels_of
from foretell.errors import ArtefactError
from foretell.runs.sepsis.sensing import hourly
from foretell.serving.deployment import Deployment
from foretell.serving.worker.advice import Adviser
from foretell.serving.worker.deployed import DeploymentScorer

GAIN, PROPAGATION = "expected information gain", "uncertainty propagation"


@pytest.fixture(scope="module")
def sensed(deployed, tmp_path_factory):
    """The same deployment with sensing, in a folder of its own."""
    _, deployment, stays = deployed
    builder = deployment.model.features_
    channels = [c for c in builder.schema.names if f"{c}:last" in builder.names]
    rows = np.flatnonzero(target(stays, float(deployment.model.horizon)).at_risk)
    features, since, known, before = hourly(builder, stays, rows, channels)
    # Lactate says it all, and nobody ever had a coagulation.
    lactate, clotting = (
        channels.index("Lactate"),
        [channels.index(c) for c in ("PTT", "Fibrinogen")],
    )
    rng = np.random.default_rng(0)
    known, since = known.copy(), since.copy()
    known[:, clotting] = False
    known[:, lactate] |= rng.random(len(rows)) < 0.7
    since[:, lactate] = 0
    column = builder.names.index("Lactate:last")
    features[:, column] = rng.normal(size=len(rows))
    label = (features[:, column] > 1).astype(int)
    places = {name: i for i, name in enumerate(channels)}
    panels = [[channels[i] for i in p.features] for p in panels_of(panel_tables(), places)]
    sensing = HourlySensing.fit(
        builder.names, features, since, known, label, panels, before=before,
        sampler_options={"components": 2, "factors": 1, "iterations": 10}, members=2, hidden=(32,),
        max_steps=300, threads=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sensed")
    return folder, replace(deployment, sensing=sensing).save(folder), deployment


def advised(adviser, names, *, since=None, ordered=(), risk=0.3, hour=10, asked=None):
    gone, known = np.full(200, 1000), np.zeros(200, bool)
    for panel, hours in (since or {}).items():
        for c in adviser.channels[panel]:
            gone[c], known[c] = hours, True
    return adviser(
        lambda table: np.full(len(table), risk) + 0.05 * np.asarray(table)[:, 0],
        np.zeros(len(names), np.float32), gone, known, risk=risk, hour=hour, ordered=ordered,
        asked=asked,
    )  # fmt: skip


def test_what_tells_most_is_offered_and_the_method_is_said(sensed):
    _, held, _ = sensed
    names, schema = held.model.features_.names, held.gate.schema
    informed = Adviser(names, schema, sensing=held.sensing)
    first = advised(informed, names)[0]
    assert (first.panel, first.method) == ("lactate", GAIN)
    assert first.reason.startswith("risk 30.0 %; lactate never measured")
    assert first.reason.endswith(f"by {GAIN}")
    assert {r.method for r in advised(Adviser(names, schema), names)} == {PROPAGATION}


def test_orders_offers_and_results_hold_as_without(sensed):
    _, held, _ = sensed
    names = held.model.features_.names
    informed = Adviser(names, held.gate.schema, sensing=held.sensing)

    def offered(**told):
        return [r.panel for r in advised(informed, names, **told)]

    assert "lactate" in offered() and "lactate" in offered(since={"lactate": 9})
    assert "lactate" not in offered(since={"lactate": 2})
    assert "lactate" not in offered(ordered=["2524-7"])
    assert "lactate" not in offered(asked={"lactate": 6})
    # Of another model, or without a gain: neither stops the others.
    assert "lactate" in offered(asked={"no such panel": 6, "coagulation": 1})
    assert "lactate" in offered(since={"coagulation": 3})


def test_what_nobody_had_is_left_out_and_nothing_at_all_falls_back(sensed):
    _, held, _ = sensed
    names, schema = held.model.features_.names, held.gate.schema
    informed = Adviser(names, schema, sensing=held.sensing)
    assert "coagulation" in informed.channels
    assert "coagulation" not in [r.panel for r in advised(informed, names)]
    clotting = {"coagulation": {"channels": ["PTT"], "cost": 1.0}}
    alone = Adviser(names, schema, panels=clotting, sensing=held.sensing, least=1e-6)
    assert {r.method for r in advised(alone, names)} <= {PROPAGATION}
    assert alone._gain is None


def test_a_certain_risk_asks_for_nothing(sensed):
    _, held, _ = sensed
    names = held.model.features_.names
    informed = Adviser(names, held.gate.schema, sensing=held.sensing)
    for risk in (0.0, 1.0):
        assert advised(informed, names, risk=risk) == []


def test_a_deployment_carries_its_sensing(sensed):
    folder, held, plain = sensed
    assert held.version != plain.version
    again = Deployment.load(folder)
    assert again.version == held.version and again.sensing is not None
    # Nothing in it has as many values as the hours it learned from have rows.
    assert not any(f.suffix not in (".json", ".safetensors") for f in folder.rglob("*.*"))
    assert plain.sensing is None
    file = folder / "sensing" / "sampler" / "arrays.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + b"\0")
        with pytest.raises(ArtefactError, match="saved together"):
            Deployment.load(folder)
    finally:
        file.write_bytes(whole)


def test_a_scorer_says_the_same_after_a_load(sensed):
    folder, held, plain = sensed
    told = []
    for deployment in (held, Deployment.load(folder), plain):
        scorer = DeploymentScorer(deployment)
        stream = scorer.builder.stream(age=60.0, sex="male", unit=None, scaled=True)
        state = scorer.state0()
        for hour in range(1, 5):
            row = np.full(len(scorer.schema), np.nan, np.float32)
            row[scorer.schema.names.index("HR")] = 90 + hour
            features, before = stream.step(row), state
            state, _ = scorer.step(before, features)
        told.append(scorer.advise(before, features, state, risk=0.3, hour=4))
    assert told[0] == told[1] and told[0][0]["panel"] == "lactate"
    assert {r["method"] for r in told[0]} == {GAIN} and json.dumps(told[0])
    assert {r["method"] for r in told[2]} <= {PROPAGATION}
