from __future__ import annotations

import numpy as np
import pytest

from foretell.audits.inversion import (
    PrivacyAudit,
    linkage,
    linkage_rate,
    membership_auc,
    network_inversion,
    ridge_inversion,
    sigma_for,
    units_for,
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


def test_network_never_reads_less_than_the_line():
    """Few pairs in many dimensions, features nearly all of one value: where nets diverge."""
    rng = np.random.default_rng(2)
    wide = rng.normal(size=(5, 60)).astype(np.float32)
    x = rng.normal(size=(340, 5)).astype(np.float32)
    x[:, 3] *= rng.random(340) < 0.03
    x[:, 4] = x[:, 4] ** 7
    for noise in (0.0, 3.0):
        h = np.maximum(x @ wide + noise * rng.normal(size=(340, 60)), 0).astype(np.float32)
        h[:, :3] *= rng.random((340, 3)) < 0.02
        given = (h[:140], x[:140], h[140:], x[140:])
        line, net = ridge_inversion(*given), network_inversion(*given)
        assert (net.held_out >= line.held_out - 1e-9).all()
        assert np.median(net.r2) >= np.median(line.r2) - 0.02
        assert min(line.r2.min(), net.r2.min()) > -0.8
        low, high = given[1].min(axis=0), given[1].max(axis=0)
        assert ((net.guess >= low) & (net.guess <= high)).all()


def test_likelihood_links_what_distance_does_not():
    """Of 200 units 20 say something; the noise of all counts in a distance."""
    rng = np.random.default_rng(3)
    h = np.zeros((1000, 200), np.float32)
    h[:, :20] = rng.normal(size=(1000, 20))
    people, noise = np.arange(1000), np.ones(200)
    s = (h + rng.normal(size=h.shape)).astype(np.float32)
    found = linkage(h[:300], people[:300], s, people, noise, h[300:])
    assert found.by_chance == pytest.approx(0.001)
    # As theory says: ln 1000 = 6.9 nats are needed, and 20 / 2 ln(2) = 6.9 are there.
    assert 0.4 < found.likely < 0.75
    assert found.nearest < found.likely - 0.1 and found.best == found.likely
    shuffled = rng.permutation(1000)
    assert linkage(h, people, s[shuffled], people, noise, h).best < 0.02
    assert linkage(h, people, h, people, 0 * noise, h) == (1.0, None, pytest.approx(0.001))


def test_what_would_do_does():
    rng = np.random.default_rng(4)
    h = (rng.normal(size=(800, 12)) @ rng.normal(size=(12, 48))).astype(np.float32)
    people = np.arange(800)
    sigma = sigma_for(h, people, 0.1, rng)
    spread = h.std(axis=0)

    def rate(sigma):
        s = (h + sigma * spread * np.random.default_rng(9).normal(size=h.shape)).astype(np.float32)
        return linkage(h, people, s, people, (sigma * spread.astype(np.float64)) ** 2, h), s

    assert rate(sigma)[0].best < 0.15 < rate(sigma / 2)[0].best
    _, s = rate(sigma / 2)
    noise = (sigma / 2 * spread.astype(np.float64)) ** 2
    units = units_for(h, s, people, noise, 0.1, rng)
    assert 2 <= units < 48
    assert sigma_for(h[:5], people[:5], 0.1, rng) is None  # a guess alone finds a fifth


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
    hidden = PrivacyAudit(attacks=("ridge",)).report(witness(24.0))
    assert hidden["passed"] and hidden["linkage"] < 0.05 and "remedy" not in hidden
    open_ = PrivacyAudit(max_r2=1.0, max_linkage=1.0, attacks=("ridge",))
    assert open_.report(witness(0.0))["passed"]


def test_linkage_alone_holds_back_and_says_what_would_be_right():
    found = PrivacyAudit(max_r2=1.0, attacks=("ridge",)).report(witness(2.0))
    assert not found["passed"] and found["linkage"] > 0.05
    assert found["linkage"] == max(found["linkage_nearest"], found["linkage_likely"])
    assert found["linkage_by_chance"] == pytest.approx(1 / 400)
    assert "by chance 0.2%" in found["reason"] and "above 5.0%" in found["reason"]
    for way in ("GaussianRelease(sigma=", "steps of", "PrototypeRelease", "units (hidden=)"):
        assert way in found["remedy"]
    few = PrivacyAudit(max_linkage=0.001, attacks=("ridge",)).report(witness(2.0))
    assert "Store more patients" in few["remedy"]


def test_half_of_the_stored_patients_teach_the_attacker():
    """Where few patients are left out, they alone would teach too little."""
    found = witness(0.5, count=2000)
    some = {n: getattr(found, n)[:110] for n in vars(found) if n.startswith("other")}
    report = PrivacyAudit(attacks=("ridge",)).report(ReleaseWitness(**{**vars(found), **some}))
    assert report["pairs_of_attacker"] == 1110
    assert report["inversion"]["ridge"]["features"] > 0.9


@pytest.mark.parametrize("left_out", [0, 50])
def test_where_all_are_stored_half_of_them_teach_the_attacker(left_out):
    found = witness(0.5, count=2000)
    some = {n: getattr(found, n)[:left_out] for n in vars(found) if n.startswith("other")}
    report = PrivacyAudit(attacks=("ridge",)).report(ReleaseWitness(**{**vars(found), **some}))
    assert report["membership_auc"] is None
    assert report["pairs_of_attacker"] == 1000 + left_out
    assert report["inversion"]["ridge"]["features"] > 0.9 and not report["passed"]


@pytest.mark.parametrize("names", [("HR:change", "Temp:mean", "x", "y", "z"), None])
def test_features_of_another_kind_are_all_looked_at(names):
    bare = witness(0.0)
    told = ReleaseWitness(**{**vars(bare), "names": names})
    report = PrivacyAudit(max_linkage=1.0, attacks=("ridge",)).report(told)
    assert report["inversion"]["best"]["features"] > 0.9 and not report["passed"]


def test_features_that_never_vary_give_nothing_away():
    bare = witness(24.0)
    same = {n: np.zeros_like(getattr(bare, n)) for n in vars(bare) if n.endswith("_rows")}
    report = PrivacyAudit(attacks=("ridge",)).report(ReleaseWitness(**{**vars(bare), **same}))
    assert report["passed"] and "R2 of inversion is 0.000 (nothing)" in report["reason"]


def test_audit_that_cannot_attack_does_not_pass():
    found = witness(0.0, count=150)
    some = {n: getattr(found, n)[:50] for n in vars(found) if n.startswith("other")}
    report = PrivacyAudit().report(ReleaseWitness(**{**vars(found), **some}))
    assert not report["passed"] and "too few" in report["reason"]
    with pytest.raises(DataError, match="needs pairs"):
        ridge_inversion(*(rows(5)[:, :2] for _ in range(4)))


@pytest.mark.parametrize(
    "settings",
    [{"max_r2": 2.0}, {"max_linkage": 0.0}, {"attacks": ()}, {"attacks": ("guess",)}, {"rows": 3}],
    ids=["r2", "linkage", "none", "guess", "rows"],
)  # fmt: skip
def test_bad_settings(settings):
    with pytest.raises(ParameterError):
        PrivacyAudit(**settings)
