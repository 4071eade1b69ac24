from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from foretell.audits.membership import LiRA, LossThreshold, ShadowTrainer, audit_membership
from foretell.audits.membership.checks import BlindBaseline
from foretell.errors import ArtefactError, DataError, ParameterError

N = 400


class Memory:
    """A training that remembers its members, and how often it was asked."""

    def __init__(self, fail_at=None, gain=1.0):
        self.calls, self.fail_at, self.gain = 0, fail_at, gain

    def __call__(self, members, seed):
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        rng = np.random.default_rng(seed)
        easy = np.random.default_rng(7).normal(0, 2, len(members))
        signals = easy + self.gain * members + rng.normal(size=len(members))
        return {"signals": signals, "accuracy": 0.5, "seed": seed}


def test_an_interrupted_run_goes_on_and_ends_with_the_same(tmp_path):
    whole = ShadowTrainer(Memory(), 5, 3).run(N)
    broken = Memory(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        ShadowTrainer(broken, 5, 3, tmp_path).run(N)
    rest = Memory()
    found = ShadowTrainer(rest, 5, 3, tmp_path).run(N)
    assert rest.calls == 3
    np.testing.assert_array_equal(found.signals, whole.signals)
    np.testing.assert_array_equal(found.membership, whole.membership)
    assert found.extra["accuracy"].tolist() == [0.5] * 5
    again = Memory()
    ShadowTrainer(again, 7, 3, tmp_path).run(N)
    assert again.calls == 2


def test_halves_are_independent_and_their_own():
    members = ShadowTrainer(Memory(), 6, 1).members(101)
    assert (members.sum(1) == 50).all()
    assert len(np.unique(members, axis=0)) == 6
    np.testing.assert_array_equal(ShadowTrainer(Memory(), 2, 1).members(101), members[:2])
    assert len(set(ShadowTrainer(Memory(), 6, 1).run(10).extra["seed"])) == 6


def test_a_folder_of_another_training_is_refused(tmp_path):
    ShadowTrainer(Memory(), 2, 0, tmp_path, about={"epochs": 1}).run(N)
    with pytest.raises(ArtefactError, match="another training"):
        ShadowTrainer(Memory(), 2, 0, tmp_path, about={"epochs": 2}).run(N)
    with pytest.raises(ArtefactError, match="another training"):
        ShadowTrainer(Memory(), 2, 0, tmp_path, about={"epochs": 1}).run(N - 1)
    (tmp_path / "shadows.json").write_text("nonsense")
    with pytest.raises(ArtefactError, match="cannot be read"):
        ShadowTrainer(Memory(), 2, 0, tmp_path, about={"epochs": 1}).run(N)


def test_trainings_spread_over_any_mapper():
    with ThreadPoolExecutor(2) as pool:
        spread = ShadowTrainer(Memory(), 4, 0).run(N, engine=pool)
    np.testing.assert_array_equal(spread.signals, ShadowTrainer(Memory(), 4, 0).run(N).signals)


def test_models_are_read_by_a_function():
    def train(members, seed):
        return members.mean()

    found = ShadowTrainer(train, 2, signal_fn=lambda model: np.full(10, model)).run(10)
    assert found.signals.shape == (2, 10)


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(DataError, match="need a signal"):
        ShadowTrainer(lambda members, seed: np.zeros(3), 2).run(N)
    with pytest.raises(DataError, match="without 'signals'"):
        ShadowTrainer(lambda members, seed: {"loss": members}, 2).run(N)
    with pytest.raises(DataError, match="two are needed"):
        ShadowTrainer(Memory(), 2).run(1)
    with pytest.raises(ParameterError, match="n_models"):
        ShadowTrainer(Memory(), 0)


def test_each_model_is_a_target_once_and_the_others_its_shadows():
    shadows = ShadowTrainer(Memory(gain=2.0), 9, 0).run(2000)
    audit = audit_membership(shadows, [LossThreshold(), LiRA()])
    assert audit.targets == tuple(range(9))
    assert audit.summary("LiRA online").n_shadows == 8
    assert audit.summary("LiRA online").auc > audit.summary("LossThreshold").auc
    assert audit.summaries[0].attack == "LiRA online"
    assert audit.threat_model == "black_box_score"
    assert audit.vulnerability.shape == (2000,)
    assert np.nanmean(audit.vulnerability) > 0.7
    few = audit_membership(shadows, [LiRA()], targets=2, n_shadows=4)
    assert len(few.results["LiRA online"]) == 2
    assert few.results["LiRA online"][0].n_shadows == 4
    with pytest.raises(ParameterError, match="targets"):
        audit_membership(shadows, targets=[9])
    with pytest.raises(ParameterError, match="n_shadows"):
        audit_membership(shadows, n_shadows=9)


def test_one_model_alone_is_attacked_by_its_losses():
    shadows = ShadowTrainer(Memory(gain=2.0), 1, 0).run(500)
    audit = audit_membership(shadows)
    assert list(audit.results) == ["LossThreshold"]
    with pytest.raises(ParameterError, match="no attack"):
        audit_membership(shadows, [LiRA()])


def test_a_blind_baseline_above_its_limit_invalidates_the_audit(tmp_path):
    shadows = ShadowTrainer(Memory(), 3, 0).run(300)
    blind = BlindBaseline(0.8, 0.02, True)
    audit = audit_membership(shadows, blind=blind, statement={"epsilon": 8.0}, notes=["a note"])
    assert "never asks the model" in audit.invalid
    document = json.loads(Path(audit.to_json(tmp_path / "a" / "audit.json")).read_text())
    assert document["valid"] is False and document["statement"] == {"epsilon": 8.0}
    assert document["notes"] == ["a note"] and document["threat_model"] == "black_box_score"
    assert len(document["attacks"]) == 7
    assert audit_membership(shadows, blind=BlindBaseline(0.51, 0.02, False)).invalid is None
    assert len(audit.plot().data) == 8
