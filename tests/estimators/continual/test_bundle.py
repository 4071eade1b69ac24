from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from foretell.audits.inversion import PrivacyAudit
from foretell.cli.app import app
from foretell.errors import (
    ArtefactError,
    DataError,
    IncompatibleRepresentationError,
    NotFittedError,
    ParameterError,
)
from foretell.estimators.continual import WUPERR, GaussianRelease, new_key, read_bundle
from foretell.estimators.continual import bundle as bundle_module
from foretell.estimators.continual.bundle import write_bundle
from foretell.training.continual import exemplars

SETTINGS = {
    "hidden": (24, 8), "negatives": 64, "positives": 16, "epochs": 1, "threads": 1,
    "memory_per_site": 300, "fisher_examples": 200, "min_patients": 10,
}  # fmt: skip


def table(seed=0, rows=1500):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)).astype(np.float32)
    y = (rng.random(rows) < 1 / (1 + np.exp(-(2 * x[:, 0] - 2.5)))).astype(int)
    return x, y, rng.integers(0, 300, rows)


def train(model, name, seed):
    x, y, patients = table(seed)
    return model.fit_site(x, y, site=name, patients=patients)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "one.bundle"
    model = train(WUPERR(**SETTINGS), "one", 0)
    return model, path, model.export_bundle(path, audit=None, override=True)


def rewritten(path, target, *, header=None, arrays=None):
    """The same file with another header or other tensors."""
    with safe_open(path, framework="numpy") as opened:
        told = dict(opened.metadata())
        tensors = {n: opened.get_tensor(n) for n in opened.keys()}
    save_file({**tensors, **(arrays or {})}, target, metadata={**told, **(header or {})})
    return target


def test_training_goes_on_from_the_file_as_it_would_have(exported):
    model, path, _ = exported
    read = WUPERR.from_bundle(path, threads=1)
    x = table(9)[0]
    np.testing.assert_array_equal(read.predict_proba(x), model.predict_proba(x))
    here = train(copy.deepcopy(model).set_params(release_seed=3), "two", 1)
    there = train(read.set_params(release_seed=3), "two", 1)
    np.testing.assert_array_equal(there.predict_proba(x), here.predict_proba(x))
    np.testing.assert_array_equal(there.episodes_["two"].h, here.episodes_["two"].h)
    assert list(there.episodes_) == ["one", "two"]


@pytest.mark.parametrize("release_seed", [None, 5])
def test_noise_does_not_follow_from_what_a_bundle_tells(tmp_path, release_seed):
    """Whoever draws all that the published numbers give must not find the noise among it."""
    settings = {**SETTINGS, "release": GaussianRelease(2.0), "release_seed": release_seed}
    train(WUPERR(**settings), "one", 0).export_bundle(tmp_path / "b", audit=None, override=True)
    bundle = read_bundle(tmp_path / "b")
    told, record = bundle.parameters, bundle.sites[0]
    assert "release_seed" not in told and record.release["seeded"] == (release_seed is not None)
    stored = bundle.episodes["one"].h.astype(np.float64)
    rng = np.random.default_rng((told["random_state"], 0, 11))
    exemplars(told["fisher_examples"], rng, of=record.hours)
    label = (np.arange(record.hours) < record.positives).astype(int)
    most = min(told["positives_per_site"], told["memory_per_site"] // 2)
    chosen = exemplars(told["memory_per_site"], rng, labels=label, positives=most)
    rng.shuffle(chosen)
    assert len(chosen) == len(stored)
    noise = rng.standard_normal(stored.shape, np.float32).astype(np.float64)
    varies = stored.std(0) > 1e-3
    r = [np.corrcoef(noise[:, k], stored[:, k])[0, 1] for k in np.flatnonzero(varies)]
    assert np.abs(np.mean(r)) < 0.05  # 0.8 and more where the noise is among them


def test_an_audit_clips_as_the_release_does(tmp_path):
    """The bundle tells the bound: an attacker compares what is stored with what he clips."""

    class Audit:
        def report(self, witness):
            self.witness = witness
            return {"passed": True, "reason": ""}

    audit, settings = Audit(), {**SETTINGS, "release": GaussianRelease(0.01, clip=0.5)}
    train(WUPERR(**settings), "one", 0).export_bundle(tmp_path / "b", audit=audit)
    seen = audit.witness
    for hidden in (seen.member_hidden, seen.other_hidden):
        assert np.linalg.norm(hidden, axis=1).max() <= 0.5 + 1e-5
    assert np.abs(seen.stored - seen.member_hidden).max() < 0.1


@pytest.mark.parametrize("release_seed", [None, 5])
def test_nor_does_the_order_of_what_is_stored(release_seed):
    """Rows of one patient stand together in tables: whoever knew rows would know groups."""
    settings = {**SETTINGS, "release": None, "release_seed": release_seed}
    model = train(WUPERR(**settings), "one", 0)
    x, label, _ = table(0)
    rng = np.random.default_rng((model.random_state, 0, 11))
    exemplars(model.fisher_examples, rng, of=len(label))
    most = min(model.positives_per_site, model.memory_per_site // 2)
    chosen = exemplars(model.memory_per_site, rng, labels=label, positives=most)
    stored = model.episodes_["one"].h.astype(np.float32)
    true = model._carried().hidden(x[chosen], None).astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(np.sort(stored, axis=0), np.sort(true, axis=0), atol=2e-3)
    rng.shuffle(order := np.arange(len(chosen)))
    for guess in (true, true[order]):
        assert (np.abs(stored - guess).max(axis=1) < 2e-3).mean() < 0.1


def test_so_many_hours_of_a_patient_are_stored_and_no_more():
    x, label, patients = table(0)
    found = {}
    for most in (None, 2, 1):
        model = train(WUPERR(**{**SETTINGS, "release": None}, hours_per_patient=most), "one", 0)
        witness = model._witness
        _, count = np.unique(witness.member_patients, return_counts=True)
        found[most] = count.max()
        assert most is None or count.max() == most
    assert found[None] > 2
    # Hours before an onset come first.
    numbers = np.unique(patients, return_inverse=True)[1]
    ill = np.unique(numbers[label == 1])
    stored = np.isin(witness.member_patients, ill)
    assert (model.episodes_["one"].label[stored] == 1).all()
    nobody = WUPERR(**SETTINGS, hours_per_patient=1)
    with pytest.raises(DataError, match="needs to know the patients"):
        nobody.fit_site(x, label, site="one")
    with pytest.raises(ParameterError, match="hours_per_patient"):
        WUPERR(**SETTINGS, hours_per_patient=0).fit_site(x, label, site="one", patients=patients)


def test_a_release_is_stored_once(exported, tmp_path):
    """Noise drawn anew at each export would be averaged away."""
    model, path, _ = exported
    model.export_bundle(tmp_path / "again", audit=None, override=True)
    first, again = read_bundle(path), read_bundle(tmp_path / "again")
    np.testing.assert_array_equal(first.episodes["one"].h, again.episodes["one"].h)


def test_hyper_parameters_that_are_not_known_are_refused(exported, tmp_path):
    _, _, bundle = exported
    odd = dataclasses.replace(bundle, parameters={**bundle.parameters, "colour": "red"})
    write_bundle(tmp_path / "odd", odd)
    with pytest.raises(ArtefactError, match="colour"):
        WUPERR.from_bundle(tmp_path / "odd")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        # Whoever sends a file must not say how the next hospital hides its patients: raw
        # representations, or noise that follows from a number that he knows.
        ({"release": None}, "'release' is for each site to say"),
        ({"release_seed": 5}, "'release_seed' is for each site to say"),
        ({"device": "cuda"}, "'device' is for each site"),
        ({"ewc_lambda": -1}, "ewc_lambda must be a number from 0"),
        ({"memory_per_site": 0}, "memory_per_site must be at least 1"),
        ({"gamma": None}, "of the wrong kind"),
        ({"replay_weight": "much"}, "of the wrong kind"),
        ({"min_patients": 1e30}, "of the wrong kind"),
    ],
)
def test_a_sender_says_only_what_is_his_to_say(exported, tmp_path, told, message):
    _, _, bundle = exported
    odd = dataclasses.replace(bundle, parameters={**bundle.parameters, **told})
    write_bundle(tmp_path / "odd", odd)
    with pytest.raises(ArtefactError, match=message):
        WUPERR.from_bundle(tmp_path / "odd")


def test_a_sender_may_ask_for_more_patients_behind_exemplars_not_for_fewer(exported, tmp_path):
    _, path, bundle = exported
    assert WUPERR.from_bundle(path).min_patients == 20
    assert WUPERR.from_bundle(path, min_patients=10).min_patients == 10
    more = dataclasses.replace(bundle, parameters={**bundle.parameters, "min_patients": 50})
    write_bundle(tmp_path / "more", more)
    assert WUPERR.from_bundle(tmp_path / "more").min_patients == 50


def test_episodes_of_one_class_or_far_away_do_not_end_the_next_training(exported, tmp_path):
    _, _, bundle = exported
    one = bundle.episodes["one"]
    kept = one.label == 0
    x, y, patients = table(3)
    for episode in (
        dataclasses.replace(one, h=one.h[kept], label=one.label[kept]),
        dataclasses.replace(one, h=np.full_like(one.h, 65504)),
    ):
        write_bundle(tmp_path / "x", dataclasses.replace(bundle, episodes={"one": episode}))
        read = WUPERR.from_bundle(tmp_path / "x", threads=1)
        read.fit_site(x, y, site="two", patients=patients, validation=(x, y))
        assert read.sites_["two"].metrics["validation_auroc"] > 0.6
        assert np.isfinite(read.predict_proba(x, site="one")).all()


@pytest.mark.parametrize(("rate", "gap"), [(0.0, 0.0), (1.0, 0.0), (0.1, float("inf"))])
def test_a_record_without_a_rate_is_refused(exported, tmp_path, rate, gap):
    _, _, bundle = exported
    record = dataclasses.replace(bundle.sites[0], rate=rate, episodes_gap=gap)
    write_bundle(tmp_path / "x", dataclasses.replace(bundle, sites=(record,)))
    with pytest.raises(ArtefactError):
        WUPERR.from_bundle(tmp_path / "x")


def test_tampering_and_damage_are_found(exported, tmp_path):
    _, path, _ = exported
    with safe_open(path, framework="numpy") as opened:
        weights = opened.get_tensor("theta/first.weight")
        text = opened.metadata()["foretell.site_bundle"]
    changed = rewritten(path, tmp_path / "a", arrays={"theta/first.weight": weights + 1})
    with pytest.raises(ArtefactError, match="hash does not fit"):
        read_bundle(changed)
    other = text.replace('"rate"', '"rats"')
    with pytest.raises(ArtefactError, match="hash does not fit"):
        read_bundle(rewritten(path, tmp_path / "b", header={"foretell.site_bundle": other}))
    (tmp_path / "c").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "d").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    for name in ("c", "d", "missing"):
        with pytest.raises(ArtefactError):
            read_bundle(tmp_path / name)


def test_newer_schema_is_refused(exported, tmp_path):
    _, path, _ = exported
    with safe_open(path, framework="numpy") as opened:
        document = json.loads(opened.metadata()["foretell.site_bundle"])
    document["schema"] = 99
    newer = rewritten(
        path, tmp_path / "newer", header={"foretell.site_bundle": json.dumps(document)}
    )
    with pytest.raises(ArtefactError, match="schema 99"):
        read_bundle(newer)


def test_a_bundle_from_before_standards_is_read(tmp_path):
    model = train(WUPERR(**SETTINGS, standardised=False), "one", 0)
    bundle = model.export_bundle(tmp_path / "new", audit=None, override=True)
    with safe_open(tmp_path / "new", framework="numpy") as opened:
        document = json.loads(opened.metadata()["foretell.site_bundle"])
        arrays = {n: opened.get_tensor(n) for n in opened.keys() if not n.startswith("standards/")}
    document["schema"] = 1
    for name in ("standardised", "upper_learning_rate", "freeze", "warmup_sites"):
        del document["parameters"][name]
    del document["sites"][0]["warm_up"]
    text = json.dumps(document)
    header = {"foretell.site_bundle": text, "sha256": bundle_module._digest(text, arrays)}
    save_file(arrays, tmp_path / "old", metadata=header)
    read = WUPERR.from_bundle(tmp_path / "old", threads=1)
    assert torch.equal(read.standards_.spread, torch.ones(SETTINGS["hidden"][0]))
    x = table(9)[0]
    np.testing.assert_array_equal(read.predict_proba(x), model.predict_proba(x))
    assert bundle.schema == 3


def test_episodes_of_another_first_layer_are_refused(exported, tmp_path):
    model, _, _ = exported
    other = train(WUPERR(**SETTINGS, random_state=7), "elsewhere", 3)
    bundle = other.export_bundle(tmp_path / "other", audit=None, override=True)
    with pytest.raises(IncompatibleRepresentationError, match="elsewhere"):
        copy.deepcopy(model).receive(bundle)


def test_episodes_of_the_same_first_layer_are_received(exported, tmp_path):
    model, path, _ = exported
    beside = train(WUPERR.from_bundle(path, threads=1), "beside", 4)
    bundle = beside.export_bundle(tmp_path / "beside", audit=None, override=True)
    found = copy.deepcopy(model).receive(bundle)
    assert list(found.episodes_) == ["one", "beside"]
    # The intercept is set for the weights here.
    z = found._carried().episode_logits("beside") + found.sites_["beside"].intercept
    label, record = bundle.episodes["beside"].label, found.sites_["beside"]
    risk = 1 / (1 + np.exp(-(z - record.episodes_gap)))
    mean = record.rate * risk[label == 1].mean() + (1 - record.rate) * risk[label == 0].mean()
    assert mean == pytest.approx(record.rate, abs=1e-4)
    assert list(found.receive(bundle).episodes_) == ["one", "beside"]
    again = train(WUPERR.from_bundle(path, threads=1), "beside", 5)
    bundle = again.export_bundle(tmp_path / "again", audit=None, override=True)
    with pytest.raises(ParameterError, match="'beside' is known already"):
        found.receive(bundle)


def test_an_adapter_comes_with_its_site(tmp_path):
    x, y, patients = table(0)
    x[:, 2] = 0
    first = WUPERR(**{**SETTINGS, "new_channels": "adapter"})
    first.fit_site(x, y, site="one", patients=patients)
    first.export_bundle(tmp_path / "one", audit=None, override=True)
    beside = WUPERR.from_bundle(tmp_path / "one", threads=1)
    with pytest.warns(UserWarning, match="never had"):
        train(beside, "beside", 4)
    bundle = beside.export_bundle(tmp_path / "beside", audit=None, override=True)
    found = WUPERR.from_bundle(tmp_path / "one", threads=1).receive(bundle)
    assert list(found.adapters_) == ["beside"]
    ours, theirs = found.adapters_["beside"], beside.adapters_["beside"]
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_signatures(exported, tmp_path):
    model, unsigned, _ = exported
    private, public = new_key()
    path = tmp_path / "signed"
    bundle = model.export_bundle(path, audit=None, override=True, private_key=private)
    assert bundle.signer == public.hex()
    assert read_bundle(path, trusted_keys=[public]).signer == public.hex()
    with pytest.raises(ArtefactError, match="not trusted"):
        read_bundle(path, trusted_keys=[new_key()[1]])
    with pytest.raises(ArtefactError, match="not signed"):
        read_bundle(unsigned, trusted_keys=[public])
    forged = rewritten(path, tmp_path / "forged", header={"signature": "00" * 64})
    with pytest.raises(ArtefactError, match="does not hold"):
        read_bundle(forged)
    with pytest.raises(ParameterError, match="32 bytes"):
        model.export_bundle(path, audit=None, override=True, private_key=b"short")


def test_what_must_not_leave_does_not(exported, tmp_path, monkeypatch):
    model, path, _ = exported
    with pytest.raises(DataError, match="needs an audit"):
        model.export_bundle(tmp_path / "x", audit=None)
    with monkeypatch.context() as patched, pytest.raises(DataError, match="class 0 has"):
        patched.setattr(model, "min_patients", 10_000)
        model.export_bundle(tmp_path / "x", audit=None, override=True)
    with pytest.raises(NotFittedError, match="the process that trained"):
        WUPERR.from_bundle(path).export_bundle(tmp_path / "x", audit=None, override=True)
    x, y, _ = table()
    unknown = WUPERR(**SETTINGS).fit_site(x, y, site="one")
    with pytest.raises(DataError, match="whose rows"):
        unknown.export_bundle(tmp_path / "x", audit=None, override=True)
    assert not (tmp_path / "x").exists()


def test_gate_holds_back_and_is_overridden(tmp_path):
    model = train(WUPERR(**{**SETTINGS, "release": None, "memory_per_site": 100}), "one", 0)
    audit = PrivacyAudit(max_r2=0.3, attacks=("ridge",))
    with pytest.raises(DataError, match="does not let 'one' out"):
        model.export_bundle(tmp_path / "x", audit=audit)
    assert not (tmp_path / "x").exists()
    bundle = model.export_bundle(tmp_path / "x", audit=audit, override=True)
    assert bundle.audits["one"]["overridden"] and not bundle.audits["one"]["passed"]
    read = read_bundle(tmp_path / "x")
    assert read.audits["one"]["inversion"]["ridge"]["features"] > 0.3
    assert read.summary()["linked"] == {"one": 1.0}
    assert "100.0% are linked" in read.audits["one"]["reason"]


def test_commands(exported):
    _, path, bundle = exported
    shown = CliRunner().invoke(app, ["bundle", "inspect", str(path), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["sha256"] == bundle.sha256
    assert CliRunner().invoke(app, ["bundle", "inspect", str(path)]).exit_code == 0
    fine = CliRunner().invoke(app, ["bundle", "verify", str(path)])
    assert fine.exit_code == 0 and "not signed" in fine.output
    wanted = CliRunner().invoke(app, ["bundle", "verify", str(path), "--key", "ab" * 32])
    assert wanted.exit_code == 2


SITE = """
import sys
import numpy as np
from foretell.data.simulators import hospitals
from foretell.estimators.continual import WUPERR
name, received, sent = sys.argv[1:]
stays, _ = hospitals(stays=200, sites=2, hours=(16, 32), seed=3)
mine = stays.by("site")[name]
if name == "A":
    # A patient like no other: the canary of the bundle.
    hr = np.array(mine.channels["HR"])
    hr[mine.rows[: mine.lengths[0]]] = np.float32(213.6875)
    mine = type(mine)(**{**vars(mine), "channels": {**mine.channels, "HR": hr}})
    ids = mine.ids.copy()
    ids[0] = "CANARY-QUXWYZ"
    mine = type(mine)(**{**vars(mine), "ids": ids, "patients": ids})
settings = dict(hidden=(24, 8), negatives=64, positives=16, epochs=1, threads=1,
                memory_per_site=300, fisher_examples=100, min_patients=5)
model = WUPERR(**settings) if received == "-" else WUPERR.from_bundle(
    received, threads=1, min_patients=5)
model.fit_site(mine, site=name)
model.export_bundle(sent, audit=None, override=True)
if name == "A":
    rows = model.features_.transform(mine.select(slice(0, 1)))
    np.save(sent + ".npy", rows)
"""


def test_each_site_in_its_own_process_and_no_raw_row_in_the_bytes(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for name, received, sent in (("A", "-", "a"), ("B", "a", "b")):
        where = [received if received == "-" else str(tmp_path / received), str(tmp_path / sent)]
        done = subprocess.run(
            [sys.executable, "-c", SITE, name, *where],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    canary = np.load(tmp_path / "a.npy")
    for name in ("a", "b"):
        content = (tmp_path / name).read_bytes()
        for text in (b"CANARY", b"QUXWYZ", b"213.6875", b"213.69"):
            assert text not in content
        for kind in (np.float16, np.float32, np.float64):
            assert all(row[:4].astype(kind).tobytes() not in content for row in canary)
        # The canary's own channel alone, raw and scaled; two bytes would be there by chance.
        for kind in (np.float32, np.float64):
            for value in (np.float32(213.6875), *np.unique(canary[:, 0])):
                assert value.astype(kind).tobytes() not in content
        assert repr(float(canary[0, 0])).encode() not in content
    model = WUPERR.from_bundle(tmp_path / "b")
    assert list(model.sites_) == ["A", "B"] and list(model.episodes_) == ["A", "B"]
