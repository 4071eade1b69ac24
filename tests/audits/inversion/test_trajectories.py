from __future__ import annotations

import numpy as np
import pytest

from foretell.audits.inversion import PrivacyAudit, sigma_for_patients, trajectories
from foretell.errors import ParameterError
from foretell.estimators.continual import ReleaseWitness

UNITS = 24


def hospital(patients, hours, spread, seed=0):
    """Representations whose patients differ in four directions, and hours of one by ``spread``."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(4, UNITS))
    whose = np.repeat(np.arange(patients), hours)
    person = rng.normal(size=(patients, 4))[whose]
    h = (person + spread * rng.normal(size=(len(whose), 4))) @ mix
    return h.astype(np.float32), whose


def attack(patients=300, hours=9, spread=0.0, sigma=1.0, seed=0, stored=None):
    h, whose = hospital(patients, hours, spread, seed)
    rng = np.random.default_rng(seed + 1)
    noise = (sigma * h.std(axis=0, dtype=np.float64)) ** 2
    s = (h + np.sqrt(noise) * rng.normal(size=h.shape)).astype(np.float32)
    s = s if stored is None else s[stored(rng, len(s))]
    own = whose < patients // 2
    asked = np.arange(patients // 2, patients)
    return trajectories(h, s, whose, noise, h[own], whose[own], asked, rng)


def test_noise_of_many_hours_is_averaged_away():
    """Nine hours of somebody who does not change, as one under a third of the noise."""
    many, one = attack(hours=9, sigma=6.0), attack(hours=1, sigma=2.0)
    assert many.hours == 9 and one.hours == 1 and many.asked == 150
    assert many.group == pytest.approx(one.group, abs=0.12)
    assert 0.1 < many.group < 0.9
    assert many.vector < many.group / 2
    assert many.vector_by_chance == pytest.approx(1 / 300)
    assert many.group_by_chance == pytest.approx(1 / 300)


def test_groups_are_found_at_least_as_often_as_their_best_vectors():
    for sigma in (0.5, 2.0, 8.0):
        for spread in (0.3, 1.5):
            found = attack(spread=spread, sigma=sigma)
            assert found.group >= found.vector
    assert attack(sigma=0.05, spread=0.5).vector == 1.0
    assert attack(sigma=0.05, spread=0.5).membership > 0.85
    assert attack(sigma=0.05, spread=0.5).membership_by_group > 0.95


def test_nothing_is_found_where_nothing_is_told():
    found = attack(sigma=1.0, spread=0.5, stored=lambda rng, size: rng.permutation(size))
    assert found.vector < 0.05 and found.group < 0.05
    assert found.linked(True) == max(found.vector, found.group)
    assert found.linked(False) == found.vector
    for value in (attack(sigma=300.0).membership, attack(sigma=300.0).membership_by_group):
        assert 0.35 < value < 0.68
    assert attack(sigma=0.0) is None


def test_noise_that_would_do_does():
    h, whose = hospital(300, 8, 0.5)
    rng = np.random.default_rng(0)
    sigma = sigma_for_patients(h, whose, 0.05, rng)
    easier = sigma_for_patients(h, whose, 0.05, rng, groups=False)
    assert easier < sigma
    assert attack(300, 8, 0.5, sigma).group < 0.09
    assert attack(300, 8, 0.5, sigma / 2).group > 0.05
    assert sigma_for_patients(h[:16], whose[:16], 0.05, rng) is None  # a guess finds one of two


def witness(sigma, hours, seed=0):
    h, whose = hospital(300, hours, 0.3, seed)
    rng = np.random.default_rng(seed)
    other, theirs = hospital(100, 5, 0.3, seed)
    rows = rng.normal(size=(len(h), 3)).astype(np.float32)
    spread = h.std(axis=0)

    def hide(x):
        return (x + sigma * spread * rng.normal(size=x.shape)).astype(np.float32)

    return ReleaseWitness(
        names=None, stored=hide(h), stored_rows=rows, member_rows=rows, member_hidden=h,
        member_patients=whose, other_rows=rng.normal(size=(len(other), 3)).astype(np.float32),
        other_hidden=other, other_released=hide(other), other_patients=theirs + 1000,
    )  # fmt: skip


def test_many_hours_of_a_patient_hold_a_bundle_back():
    audit = PrivacyAudit(attacks=("ridge",), patients=100, groups=True)
    found = audit.report(witness(4.0, 8))
    told = found["of_patients"]
    assert found["linkage"] <= 0.05 and told["vector"] <= 0.05 < told["group"]
    assert not found["passed"] and "which vectors are of one patient" in found["reason"]
    assert "hours_per_patient=1" in found["remedy"] and "GaussianRelease(sigma=" in found["remedy"]
    assert "units" not in found["remedy"]  # hours by themselves are hidden
    # What it says would do.
    one, many = (float(t.split(")")[0]) for t in reversed(found["remedy"].split("sigma=")[1:]))
    assert one < many
    assert audit.report(witness(many, 8, 1))["of_patients"]["group"] < 0.09
    assert audit.report(witness(one, 1, 1))["of_patients"]["group"] < 0.09
    alone = PrivacyAudit(attacks=("ridge",), patients=100).report(witness(4.0, 8))
    assert alone["passed"] and "does not count here" in alone["reason"]
    with pytest.raises(ParameterError, match="patients"):
        PrivacyAudit(patients=3)
