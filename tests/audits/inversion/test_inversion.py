from __future__ import annotations

import numpy as np
import pytest

from foretell.audits.inversion import (
    PrivacyAudit,
    linkage_rate,
    membership_auc,
    network_inversion,
    ridge_inversion,
)
from foretell.errors import DataError, ParameterError
from foretell.estimators.continual import ReleaseWitness

RNG = np.random.default_rng(0)
MAP = RNG.normal(size=(5, 12)).astype(np.float32)


def rows(count):
    return RNG.normal(size=(count, 5)).astype(np.float32)


def witness(noise, count=400):
    stored, other = rows(count), rows(1200)

    def hide(h):
        return (h + noise * RNG.normal(size=h.shape)).astype(np.float32)

    return ReleaseWitness(
        names=None, stored=hide(stored @ MAP), stored_rows=stored, member_rows=stored,
        member_hidden=stored @ MAP, member_patients=np.arange(count), other_rows=other,
        other_hidden=other @ MAP, other_released=hide(other @ MAP),
        other_patients=np.arange(1200) + count,
    )  # fmt: skip


def test_linear_map_is_inverted_whole_and_noise_as_theory_says():
    known, truth = rows(2000), rows(500)
    assert ridge_inversion(known @ MAP, known, truth @ MAP, truth).r2.min() > 0.99
    known, truth = rows(4000)[:, :1], rows(4000)[:, :1]
    # One feature in one noisy vector: R2 is the share of signal, 1 / (1 + 1).
    noisy = [v + RNG.normal(size=v.shape).astype(np.float32) for v in (known, truth)]
    assert ridge_inversion(noisy[0], known, noisy[1], truth).r2[0] == pytest.approx(0.5, abs=0.06)


def test_network_reads_what_a_line_cannot():
    known, truth = rows(3000), rows(500)

    def bent(x):
        return np.maximum(np.concatenate([x, -x, x - 1, -x - 1], axis=1), 0) ** 2

    line = ridge_inversion(np.abs(known), known, np.abs(truth), truth).r2
    assert line.max() < 0.1
    curve = network_inversion(bent(known), known, bent(truth), truth).r2
    assert np.median(curve) > 0.7


def test_linkage_and_membership():
    stored, other = rows(200), rows(200)
    patients = np.arange(200)
    assert linkage_rate(stored, patients, stored, patients) == 1.0
    assert linkage_rate(stored, patients, rows(200), patients) < 0.1
    assert membership_auc(stored, other, stored) == 1.0
    assert 0.4 < membership_auc(stored, other, rows(200)) < 0.6


def test_audit_gates_on_what_it_found():
    bare = PrivacyAudit(attacks=("ridge",)).report(witness(0.0))
    assert not bare["passed"] and "above 0.65" in bare["reason"]
    assert bare["linkage"] == 1.0 and bare["membership_auc"] == 1.0
    assert len(bare["r2_of_features"]) == 5
    hidden = PrivacyAudit(attacks=("ridge",)).report(witness(8.0))
    assert hidden["passed"] and hidden["linkage"] < 0.2
    assert PrivacyAudit(max_r2=1.0, attacks=("ridge",)).report(witness(0.0))["passed"]


def test_audit_that_cannot_attack_does_not_pass():
    found = witness(0.0)
    few = ReleaseWitness(**{**vars(found), "other_rows": found.other_rows[:50]})
    report = PrivacyAudit().report(few)
    assert not report["passed"] and "too few" in report["reason"]
    with pytest.raises(DataError, match="needs pairs"):
        ridge_inversion(*(rows(5)[:, :2] for _ in range(4)))


@pytest.mark.parametrize(
    "settings", [{"max_r2": 2.0}, {"attacks": ()}, {"attacks": ("guess",)}, {"rows": 3}],
    ids=["r2", "none", "guess", "rows"],
)  # fmt: skip
def test_bad_settings(settings):
    with pytest.raises(ParameterError):
        PrivacyAudit(**settings)
