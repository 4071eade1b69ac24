"""Which calibration a gate has."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foretell.data.simulators import hospitals
from foretell.decisions.abstention import Calibration, Gate, MondrianConformal
from foretell.errors import ArtefactError, NotFittedError


@pytest.fixture(scope="module")
def stays():
    return hospitals(stays=160, sites=1, hours=(12, 24), seed=3)[0]


def fitted(stays, seed=0, **options):
    gate = Gate(conformal=MondrianConformal(alpha=0.1), ambiguity=0.2)
    calibration = stays.select(slice(60, 120))
    p = np.random.default_rng(seed).random(calibration.n_rows)
    return gate.fit(stays.select(slice(60)), calibration, p, **options)


def test_a_calibration_has_a_version_a_time_and_patients(stays, tmp_path):
    gate, again = fitted(stays, now=1e9), fitted(stays)
    first = gate.calibration
    assert (first.time, first.patients) == (1e9, 60) and first.hours > 60 * 8
    assert first.version == again.calibration.version, "the same scores, whenever"
    assert again.calibration.time > 1.7e9
    gate.save(tmp_path / "g")
    assert Gate.load(tmp_path / "g").calibration == first
    newer = stays.select(slice(100, 160))
    p = np.random.default_rng(1).random(newer.n_rows)
    gate.recalibrate(newer, p, now=2e9)
    assert gate.calibration.version != first.version and gate.calibration.time == 2e9
    gate.save(tmp_path / "g")
    loaded = Gate.load(tmp_path / "g")
    assert loaded.calibration == gate.calibration
    assert loaded.calibration.words == (
        f"calibration {loaded.calibration.version} of 2033-05-18 03:33 UTC, 60 patients"
    )
    # Prediction sets alone are another calibration, too.
    assert fitted(stays, seed=1).calibration.version != first.version
    with pytest.raises(NotFittedError):
        Gate().calibration  # noqa: B018


def test_older_gates_have_a_version_and_damage_is_found(stays, tmp_path):
    gate = fitted(stays, now=1e9)
    gate.save(tmp_path / "g")
    file = tmp_path / "g" / "calibration.json"
    text = file.read_text()
    for change in ({"version": "0" * 12}, {"format": 99}, {"patients": -1}, {"more": 1}):
        file.write_text(json.dumps({**json.loads(text), **change}))
        with pytest.raises(ArtefactError, match="Gate"):
            Gate.load(tmp_path / "g")
    file.write_text("[]")
    with pytest.raises(ArtefactError):
        Gate.load(tmp_path / "g")
    file.unlink()
    assert Gate.load(tmp_path / "g").calibration == Calibration(gate.calibration.version)
