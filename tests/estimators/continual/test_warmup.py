from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from foretell.audits.inversion import PrivacyAudit
from foretell.cli.app import app
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.estimators.continual import WUPERR, read_bundle
from foretell.learners.risk.ranking import auroc

SMALL = {
    "hidden": (32, 16), "negatives": 64, "positives": 16, "epochs": 2, "threads": 1,
    "memory_per_site": 300, "fisher_examples": 200, "min_patients": 10, "learning_rate": 2e-3,
    "release_seed": 0,
}  # fmt: skip
WARM = {**SMALL, "freeze": "after_warmup", "warmup_sites": 2}


def table(seed, *, late=False, rows=1500):
    """Features of a site and labels; the sixth is always 0 but where the site has it (``late``)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)).astype(np.float32)
    x[:, 5] *= late
    y = rng.random(rows) < 1 / (1 + np.exp(-(x[:, 0] + 3 * x[:, 5] - 2.5)))
    return x, y.astype(int), rng.integers(0, 300, rows)


def course(model, *names):
    for name in names:
        x, y, patients = table(ord(name), late=name != "A")
        held = table(ord(name) + 100, late=name != "A", rows=400)[:2]
        model.fit_site(x, y, site=name, patients=patients, validation=held)
    return model


def bytes_of(model):
    parts = [v.numpy().tobytes() for _, v in sorted(model.learner_.state_dict().items())]
    parts += [v.numpy().tobytes() for _, v in sorted(model.precision_.items())]
    parts += [e.h.tobytes() for e in model.episodes_.values()]
    return b"".join(parts)


@pytest.fixture(scope="module")
def warm():
    """Not to be changed: copies forget what an export needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return course(WUPERR(**WARM), "A", "B")


@pytest.mark.filterwarnings("ignore:the first site never had")
def test_a_warm_up_of_one_site_is_the_first_site(tmp_path):
    one = course(WUPERR(**{**WARM, "warmup_sites": 1}), "A", "B")
    plain = course(WUPERR(**SMALL), "A", "B")
    assert bytes_of(one) == bytes_of(plain)
    told = [{n: r.to_dict() for n, r in m.sites_.items()} for m in (one, plain)]
    assert told[0] == told[1] and not one.sites_["A"].warm_up


@pytest.mark.filterwarnings("ignore:the first site never had")
def test_a_channel_of_the_second_site_is_learned():
    """A narrow layer shows it: a wide one passes a channel on by its random weights."""
    x, y, _ = table(7, late=True)
    few = {"hidden": (4, 8), "epochs": 6}
    frozen = course(WUPERR(**{**SMALL, **few}), "A", "B")
    warm = course(WUPERR(**{**WARM, **few}), "A", "B")
    found = {"frozen": frozen, "warm": warm}
    scores = {n: auroc(m.decision_function(x), y) for n, m in found.items()}
    assert scores["warm"] > scores["frozen"] + 0.1 and scores["warm"] > 0.85, scores
    assert frozen.sites_["B"].new_channels and not warm.sites_["B"].new_channels
    x, y, _ = table(8)
    assert auroc(warm.decision_function(x, site="A"), y) > 0.65


def test_representations_of_all_sites_are_of_the_last_layer(warm):
    frozen = warm.episodes_["B"].frozen
    assert list(warm.episodes_) == ["A", "B"] and warm.episodes_["A"].frozen == frozen
    assert all(not p.requires_grad for p in warm.learner_.first.parameters())
    bare = course(WUPERR(**{**WARM, "release": None}), "A", "B")
    assert bare.episodes_["A"].frozen == frozen
    for name in ("A", "B"):
        mine = {r.astype(np.float16).tobytes() for r in bare.represent(
            table(ord(name), late=name != "A")[0])}  # fmt: skip
        assert all(r.tobytes() in mine for r in bare.episodes_[name].h), name


def test_the_layer_moves_until_it_is_over_and_never_after():
    model = course(WUPERR(**WARM), "A")
    before = model.learner_.first.weight.clone()
    course(model, "B")
    after = model.learner_.first.weight.clone()
    assert not torch.equal(before, after)
    course(model, "C")
    assert torch.equal(model.learner_.first.weight, after)
    assert [r.warm_up for r in model.sites_.values()] == [True, True, False]


def test_rows_are_dropped_and_no_copy_has_them(warm):
    assert warm._warm is None
    model = course(WUPERR(**WARM), "A")
    assert len(model._warm.sites) == 1
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._warm is None and not other._witnesses
        with pytest.raises(NotFittedError, match="1 of 2 sites of the warm-up"):
            course(other, "B")
    # Trained anew, or after a failure, it is what it would have been.
    assert bytes_of(course(model, "B")) == bytes_of(warm)


def test_a_site_that_fails_can_be_given_again(warm):
    model = course(WUPERR(**WARM), "A")
    with pytest.raises(DataError, match="have 3 features, those of 'A' 6"):
        model.fit_site(np.zeros((90, 3)), np.arange(90) % 2, site="B")
    assert bytes_of(course(model, "B")) == bytes_of(warm)


def test_a_site_without_onset_is_no_part_of_it(warm):
    model = course(WUPERR(**WARM), "A")
    x, y, patients = table(3)
    with pytest.warns(UserWarning, match="0 positive hours"):
        model.fit_site(x, 0 * y, site="none", patients=patients)
    course(model, "B")
    assert list(model.episodes_) == ["A", "B"] and model._warm is None
    np.testing.assert_array_equal(model.encoder_.knots[5], warm.encoder_.knots[5])


def test_nothing_leaves_before_it_is_over_and_all_is_audited_then(tmp_path):
    model = course(WUPERR(**WARM), "A")
    with pytest.raises(DataError, match="only 1 of 2 sites of the warm-up"):
        model.export_bundle(tmp_path / "x", audit=None, override=True)
    course(model, "B")
    audit = PrivacyAudit(attacks=("ridge",), max_linkage=1.0)
    model.export_bundle(tmp_path / "x", audit=audit)
    assert set(read_bundle(tmp_path / "x").audits) == {"A", "B"}
    with pytest.raises(DataError, match="does not let 'A' out"):
        model.export_bundle(tmp_path / "y", audit=PrivacyAudit(max_linkage=1e-3))


def test_the_bundle_states_it_and_training_goes_on_from_it(tmp_path):
    model = course(WUPERR(**WARM), "A", "B")
    bundle = model.export_bundle(tmp_path / "x", audit=None, override=True)
    told = bundle.summary()
    assert told["warm_up"] == ["A", "B"] and bundle.parameters["warmup_sites"] == 2
    shown = CliRunner().invoke(app, ["bundle", "inspect", str(tmp_path / "x")])
    assert "trained on rows of 'A', 'B' in one place" in shown.output
    read = WUPERR.from_bundle(tmp_path / "x", threads=1, release_seed=0)
    assert bytes_of(read) == bytes_of(model)
    assert bytes_of(course(read, "C")) == bytes_of(course(model, "C"))
    with pytest.raises(ParameterError, match="warmup_sites is fixed"):
        WUPERR.from_bundle(tmp_path / "x", warmup_sites=3)


def test_stays_of_two_sites(simulated_sites):
    changed = {**WARM, "epochs": 1}
    model = WUPERR(**changed)
    for name in ("A", "B"):
        model.fit_site(simulated_sites[name], site=name)
    assert np.isfinite(model.predict_proba(simulated_sites["C"], site="A")).all()
    assert model.deployed("B").n_features_in_ == model.n_features_in_


def test_weights_of_rows_and_unknown_patients():
    model = WUPERR(**WARM)
    for name, weight in (("A", None), ("B", np.full(1500, 0.5))):
        x, y, patients = table(ord(name))
        model.fit_site(x, y, site=name, sample_weight=weight, patients=None if weight is None
                       else patients)  # fmt: skip
    with pytest.raises(DataError, match="whose rows"):
        model.export_bundle("x", audit=None, override=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"freeze": "never"}, "freeze is"),
        ({"warmup_sites": 0}, "at least 1"),
        ({"freeze": "first_site"}, "need freeze"),
        ({"freeze_first_layer": False}, "freeze_first_layer=True"),
    ],
    ids=["freeze", "none", "first", "unfrozen"],
)
def test_what_does_not_go_together(changed, message):
    with pytest.raises(ParameterError, match=message):
        course(WUPERR(**{**WARM, **changed}), "A")
