from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from foretell.data.clinical import target
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.estimators import FeedForwardRisk
from foretell.estimators.continual import WUPERR, GaussianRelease, PrototypeRelease, memory
from foretell.estimators.continual.site import Standards
from foretell.learners.risk.ranking import auroc

SMALL = {
    "hidden": (32, 16), "negatives": 64, "positives": 16, "epochs": 1, "threads": 1,
    "memory_per_site": 300, "fisher_examples": 200, "min_patients": 10, "learning_rate": 2e-3,
}  # fmt: skip


def table(rows=1500, seed=0, dead=()):
    """Features of a site, some of which are always 0, and labels they tell something of."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)).astype(np.float32)
    x[:, list(dead)] = 0
    y = rng.random(rows) < 1 / (1 + np.exp(-(2 * x[:, 0] - x[:, 1] - 2.5)))
    return x, y.astype(int), rng.integers(0, 300, rows)


def fitted(seed=0, dead=(), **changed):
    x, y, patients = table(seed=seed, dead=dead)
    return WUPERR(**{**SMALL, **changed}).fit_site(x, y, site="one", patients=patients)


def test_first_layer_stays_and_upper_layers_learn(trained, simulated_sites):
    model = copy.deepcopy(trained)
    first = model.learner_.first.weight.detach().clone()
    upper = model.learner_.upper[-1].weight.detach().clone()
    before = {n: v.clone() for n, v in model.precision_.items()}
    hash_before = model.episodes_["A"].frozen
    model.fit_site(simulated_sites["B"], site="B")
    assert torch.equal(model.learner_.first.weight, first)
    assert not torch.equal(model.learner_.upper[-1].weight, upper)
    assert model.episodes_["B"].frozen == hash_before
    assert all((model.precision_[n] >= before[n]).all() for n in before)
    assert not any(n.startswith("first") for n in model.precision_)
    assert list(model.sites_) == ["A", "B"] and model.current_site_ == "B"


def test_predictions_are_calibrated_probabilities_of_the_site(trained, simulated_sites):
    stays = simulated_sites["A"]
    wanted = target(stays, 4)
    risk = trained.predict_proba(stays)
    assert risk.shape == (stays.n_rows, 2) and np.allclose(risk.sum(1), 1)
    mean = risk[wanted.at_risk, 1].mean()
    rate = wanted.label[wanted.at_risk].mean()
    assert 0.5 * rate < mean < 2 * rate


def test_every_site_has_its_intercept(trained, simulated_sites):
    model = copy.deepcopy(trained).fit_site(simulated_sites["B"], site="B")
    stays = simulated_sites["C"]
    gap = model.decision_function(stays, site="A") - model.decision_function(stays, site="B")
    expected = model.sites_["A"].intercept - model.sites_["B"].intercept
    np.testing.assert_allclose(gap, expected, atol=1e-5)
    np.testing.assert_array_equal(model.predict_proba(stays), model.predict_proba(stays, site="B"))
    with pytest.raises(ParameterError, match="no site 'Z'"):
        model.predict_proba(stays, site="Z")


def test_replay_and_penalty_hold_what_was_learned():
    x, y, patients = table()
    other, wrong, people = table(seed=5)
    wrong = 1 - wrong
    after = {}
    for name, changed in {
        "free": {"ewc_lambda": 0.0, "replay_weight": 0.0},
        "replay": {"ewc_lambda": 0.0, "replay_weight": 5.0},
        "penalty": {"ewc_lambda": 3000.0, "replay_weight": 0.0},
    }.items():
        # All steps count: choosing weights by the episodes would hide the forgetting.
        settings = {
            **SMALL, **changed, "release": None, "epochs": 8, "learning_rate": 1e-2,
            "negatives": 200, "positives": 50, "weight_decay": 0.0, "dropout": 0.0,
        }  # fmt: skip
        model = WUPERR(**settings).fit_site(x, y, site="one", patients=patients)
        z = model.decision_function(x)
        before = z[y == 1].mean() - z[y == 0].mean()
        model.fit_site(other, wrong, site="two", patients=people)
        z = model.decision_function(x)
        after[name] = z[y == 1].mean() - z[y == 0].mean()
    assert after["free"] < before - 0.5, (before, after)
    assert after["replay"] > after["free"] + 0.5 and after["penalty"] > after["free"] + 0.5


def test_site_without_onset_keeps_everything(trained, simulated_sites):
    stays = simulated_sites["B"]
    none = stays.select(~np.isfinite(stays.onset))
    model = copy.deepcopy(trained)
    weights = copy.deepcopy(model.learner_.state_dict())
    precision = {n: v.clone() for n, v in model.precision_.items()}
    with pytest.warns(UserWarning, match="0 positive hours"):
        model.fit_site(none, site="B")
    assert all(torch.equal(v, weights[n]) for n, v in model.learner_.state_dict().items())
    assert all(torch.equal(v, precision[n]) for n, v in model.precision_.items())
    assert not model.sites_["B"].trained and "B" not in model.episodes_
    assert np.isfinite(model.predict_proba(stays, site="B")).all()
    with pytest.raises(DataError, match="needs both classes"):
        WUPERR(**SMALL).fit_site(none, site="B")


@pytest.mark.parametrize("way", ["statistics", "adapter", "ignore"])
def test_new_channel_is_said_and_dealt_with(way):
    model = fitted(dead=(4, 5), new_channels=way)
    x, y, patients = table(seed=2)
    old = table(seed=3, dead=(4, 5))[0]
    before = model.represent(old)
    with pytest.warns(UserWarning, match="never had feature 4, feature 5"):
        model.fit_site(x, y, site="two", patients=patients)
    assert model.sites_["two"].new_channels == ("feature 4", "feature 5")
    np.testing.assert_array_equal(model.represent(old), before)
    assert ("two" in model.adapters_) == (way == "adapter")
    moved = x.copy()
    moved[:, 4:] += 1
    same = np.array_equal(model.predict_proba(x), model.predict_proba(moved))
    assert same == (way == "ignore")


def test_new_channel_of_stays_has_its_own_statistics(trained, simulated_sites):
    stays = simulated_sites["B"]
    channels = dict(stays.channels)
    values = np.full_like(channels["EtCO2"], np.nan)
    values[::3] = np.random.default_rng(0).normal(35, 4, len(values[::3]))
    channels["EtCO2"] = values
    richer = type(stays)(**{**vars(stays), "channels": channels})
    model = copy.deepcopy(trained)
    old = model.features_.transform(simulated_sites["A"])
    with pytest.warns(UserWarning, match="EtCO2"):
        model.fit_site(richer, site="B")
    assert "EtCO2" in model.sites_["B"].new_channels
    np.testing.assert_array_equal(model.features_.transform(simulated_sites["A"], site="A"), old)
    column = model.features_.names.index("EtCO2:last")
    scaled = model.features_.transform(richer, site="B")[:, column]
    assert abs(scaled.mean()) < 0.5 and 0.2 < scaled.std() < 2


def test_first_layer_without_freezing_moves():
    model = fitted(freeze_first_layer=False)
    first = model.learner_.first.weight.detach().clone()
    x, y, patients = table(seed=2)
    model.fit_site(x, y, site="two", patients=patients)
    assert not torch.equal(model.learner_.first.weight, first)
    assert any(n.startswith("first") for n in model.precision_)


def test_precision_of_all_hours_and_its_decay():
    mean, count = fitted(), fitted(fisher_scale="count")
    for name, values in mean.precision_.items():
        torch.testing.assert_close(count.precision_[name], 1500 * values)
    model = fitted(gamma=0.0)
    x, y, patients = table(seed=2)
    before = sum(float(v.sum()) for v in model.precision_.values())
    model.fit_site(x, y, site="two", patients=patients)
    assert sum(float(v.sum()) for v in model.precision_.values()) < 3 * before


def test_weights_of_rows_count(simulated_sites):
    x, y, patients = table()
    # Half of the labels are wrong; what is doubtful weighs next to nothing at both sites.
    doubtful = np.random.default_rng(0).random(len(y)) < 0.5
    noisy = np.where(doubtful, 1 - y, y)
    weight = np.where(doubtful, 1e-6, 1.0)
    found = {}
    for name, given in (("weighed", weight), ("not weighed", None)):
        model = WUPERR(**{**SMALL, "release_seed": 0, "epochs": 4})
        for site in ("one", "two"):
            model.fit_site(x, noisy, site=site, patients=patients, sample_weight=given)
        found[name] = auroc(model.decision_function(x), y)
    assert found["weighed"] > 0.75 > found["not weighed"] + 0.15, found
    with pytest.raises(DataError, match="sample_weight has 3 values"):
        WUPERR(**SMALL).fit_site(x, y, site="one", sample_weight=[1, 1, 1])
    with pytest.raises(DataError, match="sample_weight has 2 values for"):
        WUPERR(**SMALL).fit_site(simulated_sites["A"], site="A", sample_weight=[1, 2])


def test_representations_are_standardised_without_changing_the_net():
    x = table(seed=4)[0]
    model = fitted()
    h = model.represent(x)
    net = model._carried().net(frozen=True)
    with torch.no_grad():
        plain = model.learner_.decode(torch.from_numpy(h), {}).logit
        torch.testing.assert_close(net.decode(torch.from_numpy(h), {}).logit, plain)
        net.upper[-1].bias += 1.0
        net.hand_back(model.learner_)
        moved = model.learner_.decode(torch.from_numpy(h), {}).logit
    torch.testing.assert_close(moved, plain + 1.0)
    inside = model.represent(table()[0])
    standard = (inside - model.standards_.centre.numpy()) / model.standards_.spread.numpy()
    assert np.abs(standard.mean(axis=0)).max() < 1e-3
    assert np.quantile(standard.std(axis=0), 0.9) == pytest.approx(1.0, abs=1e-3)
    encoded = model.encoder_.transform(table()[0])
    assert np.abs(encoded.mean(axis=0)).max() < 1e-3


def test_standards_are_those_of_the_first_site_for_good(trained, simulated_sites):
    model = copy.deepcopy(trained)
    centre = model.standards_.centre.clone()
    model.fit_site(simulated_sites["B"], site="B")
    assert torch.equal(model.standards_.centre, centre)
    plain = fitted(standardised=False)
    assert not plain.standards_.centre.any() and plain.encoder_.centre is None


def test_later_sites_learn_at_their_own_rate():
    x, y, patients = table(seed=2)
    ends = {}
    for rate in (1e-8, None, 3e-3):
        model = fitted(upper_learning_rate=rate)
        before = model.decision_function(x)
        model.fit_site(x, y, site="two", patients=patients)
        ends[rate] = np.abs(np.diff(model.decision_function(x) - before)).mean()
    assert ends[1e-8] < 1e-3 < ends[None] < ends[3e-3]


def test_a_silent_unit_is_not_blown_up():
    h = np.abs(np.random.default_rng(0).normal(size=(500, 4))).astype(np.float32)
    h[:, 0] = 0
    h[:, 1] *= 1e-4
    found = Standards.of(h)
    floor = 0.1 * np.median(h[:, 1:].std(axis=0))
    np.testing.assert_allclose(found.spread[:2], floor, rtol=1e-5)
    assert torch.equal(Standards.of(np.zeros((9, 2), np.float32)).spread, torch.ones(2))


def test_prevalence_that_differs_is_met_by_each_site_s_intercept():
    model = fitted(release_seed=0)
    x, y, patients = table(seed=2)
    kept = np.flatnonzero((y == 0) | (np.arange(len(y)) % 5 == 0))
    with_few = (x[kept], y[kept], patients[kept])
    model.fit_site(with_few[0], with_few[1], site="few", patients=with_few[2])
    for name, rows, label in (("one", *table()[:2]), ("few", *with_few[:2])):
        risk = model.predict_proba(rows, site=name)[:, 1].mean()
        assert 0.6 * label.mean() < risk < 1.6 * label.mean(), name
    assert model.sites_["few"].rate < 0.5 * model.sites_["one"].rate


def test_importance_that_is_not_finite_is_left_out_and_counted(monkeypatch):
    real = memory.diagonal_fisher

    def broken(*arguments, **options):
        found = real(*arguments, **options)
        name = next(iter(found.values))
        values = {**found.values, name: found.values[name].clone()}
        values[name].view(-1)[:3] = 0.0
        return found._replace(values=values, not_finite=3)

    monkeypatch.setattr(memory, "diagonal_fisher", broken)
    model = fitted()
    x, y, patients = table(seed=2)
    model.fit_site(x, y, site="two", patients=patients)
    assert model.not_finite_ == 6
    assert all(torch.isfinite(v).all() for v in model.precision_.values())


def test_prototypes_need_no_patients_who_are_left_out():
    # All positive hours are exemplars: nobody is left from whom prototypes could be made.
    model = fitted(release=PrototypeRelease(), memory_per_site=400, positives_per_site=200)
    assert len(model._witness.other_rows) and model._witness.other_released is None


def test_no_copy_carries_rows(trained):
    assert trained._witness is not None
    assert copy.deepcopy(trained)._witness is None
    assert pickle.loads(pickle.dumps(trained))._witness is None


def test_deployed_net_scores_alike_and_streams(trained, simulated_sites, tmp_path):
    stays = simulated_sites["A"].select(slice(0, 5))
    expected = trained.predict_proba(stays)
    plain = trained.deployed()
    assert type(plain) is FeedForwardRisk
    np.testing.assert_allclose(plain.predict_proba(stays), expected, atol=1e-6)
    trained.save(tmp_path / "model")
    read = FeedForwardRisk.load(tmp_path / "model")
    np.testing.assert_allclose(read.predict_proba(stays), expected, atol=1e-6)
    with pytest.raises(ParameterError, match="from_bundle"):
        WUPERR.load(tmp_path / "model")


def test_scikit_learn_sees_hyper_parameters():
    model = clone(WUPERR(**SMALL, release=GaussianRelease(1.0)))
    assert model.release == GaussianRelease(1.0) and model.hidden == (32, 16)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gamma": 2.0}, "gamma"),
        ({"ewc_lambda": -1.0}, "ewc_lambda"),
        ({"upper_learning_rate": 0.0}, "upper_learning_rate"),
        ({"fisher_scale": "sum"}, "fisher_scale"),
        ({"new_channels": "guess"}, "new_channels"),
        ({"release": "noise"}, "release"),
        ({"hidden": (8,)}, "two layers"),
        ({"memory_per_site": 0}, "memory_per_site"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bad_hyper_parameters_are_named(changed, message):
    x, y, _ = table(rows=50)
    with pytest.raises(ParameterError, match=message):
        WUPERR(**{**SMALL, **changed}).fit_site(x, y, site="one")


def test_misuse_is_said(trained, simulated_sites):
    with pytest.raises(NotFittedError):
        WUPERR().predict_proba(np.zeros((1, 3)))
    with pytest.raises(ParameterError, match="name of its own, not 'A'"):
        trained.fit_site(simulated_sites["A"], site="A")
    with pytest.raises(ParameterError, match="needs labels"):
        WUPERR(**SMALL).fit_site(np.zeros((5, 2)), site="one")
    model = fitted()
    with pytest.raises(DataError, match="the rows have 3 features, the first site 6"):
        model.fit_site(np.zeros((9, 3)), np.arange(9) % 2, site="two")


def test_no_warning_where_nothing_is_new(trained, simulated_sites):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        copy.deepcopy(trained).fit_site(simulated_sites["B"], site="B")


@pytest.mark.parametrize("frozen", [True, False])
def test_a_branch_is_what_its_settings_would_have_made_of_the_first_site(frozen):
    changed = {"release": GaussianRelease(3.0), "memory_per_site": 200, "ewc_lambda": 5.0,
               "freeze_first_layer": frozen, "release_seed": 1}  # fmt: skip
    x, y, patients = table()
    first, own = fitted(release=None), fitted(**changed)
    model = first.branch(x, y, patients=patients, **changed)
    later, labels, _ = table(seed=3)
    for site in ("one", "two"):
        if site == "two":
            for other in (own, model):
                other.fit_site(later, labels, site="two", patients=patients)
        np.testing.assert_array_equal(model.episodes_[site].h, own.episodes_[site].h)
        np.testing.assert_array_equal(model.decision_function(later), own.decision_function(later))
        for name, values in own.precision_.items():
            assert torch.equal(model.precision_[name], values)
    assert model.sites_ == own.sites_ and model.get_params() == own.get_params()
    assert first.release is None and list(first.sites_) == ["one"]


def test_a_branch_starts_at_the_first_site_and_keeps_its_net():
    x, y, patients = table()
    with pytest.raises(NotFittedError):
        WUPERR(**SMALL).branch(x, y)
    with pytest.raises(ParameterError, match="hidden is fixed by the first site"):
        fitted().branch(x, y, patients=patients, hidden=(8, 4))
    model = fitted().fit_site(x, y, site="two", patients=patients)
    with pytest.raises(ParameterError, match="after its first site, not after one, two"):
        model.branch(x, y, patients=patients)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"rate": 1.5}, ParameterError, "inside \\(0, 1\\), not 1.5"),
        ({"rate": 0.0}, ParameterError, "inside \\(0, 1\\), not 0.0"),
        ({"rate": float("nan")}, ParameterError, "inside \\(0, 1\\), not nan"),
        ({"sample_weight": -1.0}, DataError, "a weight is -1.*row 7"),
        ({"sample_weight": float("nan")}, DataError, "a weight is nan.*row 7"),
        ({"patients": None}, DataError, "not known whose row this is.*row 7"),
        ({"patients": float("nan")}, DataError, "not known whose row this is.*row 7"),
    ],
)
def test_what_is_said_of_rows_is_checked(changed, error, message):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    y = (x[:, 0] > 0.5).astype(int)
    told = {}
    for name, value in changed.items():
        told[name] = value
        if name != "rate":
            odd = np.arange(60).astype(object) if value is None else np.ones(60)
            odd[7] = value
            told[name] = odd
    with pytest.raises(error, match=message):
        WUPERR(hidden=(8, 4), epochs=1).fit_site(x, y, site="A", **told)


def test_rows_that_are_not_finite_have_no_risk():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    y = (x[:, 0] > 0.5).astype(int)
    model = WUPERR(hidden=(8, 4), epochs=1, negatives=32, positives=8, fisher_examples=50)
    model.fit_site(x, y, site="A")
    x[5, 1] = np.nan
    with pytest.raises(DataError, match=r"not finite.*row 5"):
        model.predict_proba(x)


def test_what_was_trained_on_is_not_told_as_validation(simulated_sites):
    stays = next(iter(simulated_sites.values()))
    well = stays.select(np.isnan(stays.onset))
    model = WUPERR(hidden=(8, 4), epochs=1, negatives=32, positives=8, fisher_examples=50)
    model.fit_site(stays, site="A", validation=well)
    assert list(model.sites_["A"].metrics) == ["training_auroc"]
    model.fit(stays, validation=stays)
    assert list(model.sites_["site"].metrics) == ["validation_auroc"]
    with pytest.raises(DataError, match="rows must be a mask of"):
        model.fit_site(stays, site="B", rows=[True, False])
    with pytest.raises(DataError, match="rows must be a mask of"):
        FeedForwardRisk(hidden=(8, 4)).fit(stays, rows=[True, False])
