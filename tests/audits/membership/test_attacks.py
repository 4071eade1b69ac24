from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score

from foretell.audits.membership import RMIA, LiRA, LossThreshold, ShadowClassifier, auc
from foretell.audits.membership.normal_inverse_gamma import (
    Prior,
    predictive_log_density,
    variance_prior,
)
from foretell.errors import DataError, NotFittedError, ParameterError


def shadow_signals(models=33, examples=4000, gain=1.5, seed=0):
    """Signals with a mean of each example's own; membership adds ``gain``."""
    rng = np.random.default_rng(seed)
    member = rng.random((models, examples)) < 0.5
    mean = rng.normal(2.0, 3.0, examples)
    return mean + gain * member + rng.normal(size=(models, examples)), member, mean


def test_lira_reaches_the_known_area_under_the_curve_of_two_normals():
    signals, member, _ = shadow_signals(models=65)
    expected = stats.norm.cdf(1.5 / np.sqrt(2))
    for variance in ("global", "per_example", "nig", "auto"):
        attack = LiRA(variance=variance).fit(signals[1:], member[1:])
        found = attack.attack(signals[0], member[0])
        assert found.auc == pytest.approx(expected, abs=0.025)
    ideal = auc(signals[0] - signals[1:].mean(0), member[0])
    assert LiRA().fit(signals[1:], member[1:]).attack(signals[0], member[0]).auc >= ideal - 0.01


def test_lira_is_the_log_ratio_of_the_fitted_normals():
    signals, member, _ = shadow_signals(models=9, examples=1)
    member[:, 0] = [True] * 5 + [False] * 4
    inside, outside = signals[:5, 0], signals[5:, 0]
    score = LiRA(variance="per_example").fit(signals, member).score([0.7])
    expected = stats.norm.logpdf(0.7, inside.mean(), inside.std(ddof=1)) - stats.norm.logpdf(
        0.7, outside.mean(), outside.std(ddof=1)
    )
    assert score == pytest.approx([expected])


def test_global_variances_are_those_of_their_own_side():
    rng = np.random.default_rng(0)
    member = np.repeat([[True], [False]], 20, axis=0) & np.ones((40, 500), bool)
    signals = np.where(member, rng.normal(0, 0.5, (40, 500)), rng.normal(0, 3.0, (40, 500)))
    attack = LiRA(variance="global").fit(signals, member)
    inside, outside = (deviation[0] for deviation in attack._deviations)
    assert inside == pytest.approx(0.5, rel=0.02)
    assert outside == pytest.approx(3.0, rel=0.02)


def test_offline_lira_orders_as_the_normal_distribution_does():
    signals, member, _ = shadow_signals(models=17, examples=300)
    target = signals[0]
    attack = LiRA("offline", "global").fit(signals[1:], member[1:])
    outside, own = ~member[1:], ~attack.fallback_
    mean = np.where(outside, signals[1:], 0).sum(0) / outside.sum(0)
    assert np.array_equal(np.argsort(attack.score(target)[own]), np.argsort((target - mean)[own]))
    assert np.isfinite(LiRA("offline").fit(signals[1:], member[1:]).score(target + 900)).all()


def test_examples_with_too_few_shadows_on_a_side_fall_back_and_are_told():
    signals, member, _ = shadow_signals(models=8, examples=50)
    member[:, 0], member[:, 1] = False, True
    member[:, 2] = [True] + [False] * 7
    attack = LiRA().fit(signals, member)
    assert attack.fallback_[:3].all()
    assert "fewer than 2 shadow models on one side" in attack.flags_[0]
    high, low = signals.copy()[0] + 20, signals.copy()[0] - 20
    assert (attack.score(high)[[0, 2]] > 50).all()
    assert attack.score(low)[1] < -50
    assert np.isfinite(attack.score(high)).all()
    offline = LiRA("offline").fit(signals, member)
    assert offline.fallback_[1] and not offline.fallback_[0]
    assert not LiRA(variance="nig").fit(signals, member).flags_


def test_normal_inverse_gamma_predicts_what_integration_gives():
    values = np.array([0.3, 1.1, 0.4])
    prior = Prior(0.5, 0.7, 2.0, 1.5)

    mu, variance = np.meshgrid(np.linspace(-12, 13, 1501), np.geomspace(1e-3, 300, 1501))

    def mass(*extra):
        density = stats.invgamma.pdf(variance, prior.shape, scale=prior.rate)
        density = density * stats.norm.pdf(mu, prior.location, np.sqrt(variance / prior.strength))
        for value in (*values, *extra):
            density = density * stats.norm.pdf(value, mu, np.sqrt(variance))
        return integrate.trapezoid(integrate.trapezoid(density, mu, axis=1), variance[:, 0])

    found = predictive_log_density(
        np.array([1.7]),
        np.array([3]),
        np.array([values.mean()]),
        np.array([((values - values.mean()) ** 2).sum()]),
        prior,
    )
    assert np.exp(found[0]) == pytest.approx(mass(1.7) / mass(), rel=2e-3)


def test_the_prior_of_variances_is_found_again():
    rng = np.random.default_rng(0)
    variances = stats.invgamma.rvs(4.0, scale=6.0, size=20_000, random_state=rng)
    squares = variances * rng.chisquare(5, 20_000)
    shape, rate = variance_prior(np.full(20_000, 6), squares)
    assert shape == pytest.approx(4.0, rel=0.1)
    assert rate == pytest.approx(6.0, rel=0.1)
    equal = 2.0 * rng.chisquare(5, 20_000)
    shape, rate = variance_prior(np.full(20_000, 6), equal)
    assert shape > 50 and rate / shape == pytest.approx(2.0, rel=0.05)


def test_normal_inverse_gamma_is_better_than_own_variances_with_few_shadows():
    rng = np.random.default_rng(1)
    member = rng.random((5, 4000)) < 0.5
    scale = np.sqrt(stats.invgamma.rvs(3, scale=2, size=4000, random_state=rng))
    mean = rng.normal(0, 3, 4000)
    signals = mean + 2 * member + rng.normal(size=(5, 4000)) * scale
    found = {
        variance: LiRA(variance=variance).fit(signals[1:], member[1:]).attack(signals[0], member[0])
        for variance in ("per_example", "nig")
    }
    assert found["nig"].auc > found["per_example"].auc + 0.02


def test_loss_threshold_needs_no_shadows_and_scores_minus_the_loss():
    logits = np.array([3.0, -1.0, 0.0])
    assert LossThreshold().score(logits) == pytest.approx(-np.log1p(np.exp(-logits)))
    assert LossThreshold().guess(logits) is None
    assert LossThreshold(mean_training_loss=0.5).guess(logits).tolist() == [True, False, False]
    losses = LossThreshold("log_likelihood").fit([[-1.0, -3.0]], [[True, False]])
    assert losses.threshold_ == 1.0
    with pytest.raises(ParameterError, match="signal"):
        LossThreshold("loss").score(logits)


def test_rmia_is_the_share_of_others_that_gained_less():
    signals, member, _ = shadow_signals(models=5, examples=40)
    attack = RMIA(gamma=1.3).fit(signals[1:], member[1:])
    p = 1 / (1 + np.exp(-signals))
    inside, outside = member[1:], ~member[1:]
    ok = inside.any(0) & outside.any(0)
    with np.errstate(invalid="ignore"):
        usual = (
            (p[1:] * inside).sum(0) / inside.sum(0) + (p[1:] * outside).sum(0) / outside.sum(0)
        ) / 2
    a = attack.offline_a_
    mean_out = (p[1:] * outside).sum(0) / np.maximum(outside.sum(0), 1)
    usual = np.where(inside.any(0), usual, (1 + a) / 2 * mean_out + (1 - a) / 2)
    usual = np.where(outside.any(0), usual, (p[1:] * inside).sum(0) / np.maximum(inside.sum(0), 1))
    ratio = p[0] / usual
    expected = (ratio[:, None] / ratio[None, :] > 1.3).mean(1)
    assert attack.score(signals[0]) == pytest.approx(expected)
    assert ok.sum() > 20


def test_offline_rmia_tunes_its_a_on_a_reference_model():
    signals, member, _ = shadow_signals(models=17, examples=500)
    attack = RMIA("offline").fit(signals[1:], member[1:])
    assert 0 <= attack.offline_a_ <= 1
    found = attack.attack(signals[0], member[0]).auc
    fixed = [
        RMIA("offline", offline_a=a).fit(signals[1:], member[1:]).attack(signals[0], member[0]).auc
        for a in (0.0, 1.0)
    ]
    assert found >= min(fixed) - 0.01
    with pytest.raises(ParameterError, match="offline_a"):
        RMIA(offline_a=1.5).fit(signals, member)


def test_rmia_compares_with_another_population():
    signals, member, _ = shadow_signals(models=9, examples=600)
    rest = signals[:, 500:]
    attack = RMIA().fit(signals[1:, :500], member[1:, :500], population=rest[1:])
    attack.set_population(rest[0])
    scores = attack.score(signals[0, :500])
    assert len(np.unique(scores)) <= 101
    assert auc(scores, member[0, :500]) > 0.6
    with pytest.raises(DataError, match="population"):
        attack.set_population(rest[0, :5])


def test_the_shadow_classifier_learns_what_posteriors_of_members_look_like():
    rng = np.random.default_rng(0)
    member = rng.random((6, 800)) < 0.5
    labels = rng.integers(0, 3, 800)
    logits = rng.normal(size=(6, 800, 4)) * np.where(member, 3.0, 1.0)[..., None]
    posteriors = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    attack = ShadowClassifier(labels).fit(posteriors[1:], member[1:])
    assert attack.attack(posteriors[0], member[0]).auc > 0.75
    rare = ShadowClassifier(np.r_[3, labels[1:]]).fit(posteriors[1:], member[1:])
    assert "1 classes have fewer" in rare.flags_[0]


@pytest.mark.parametrize(
    "attack",
    [LossThreshold(), LiRA(), LiRA("offline"), LiRA(variance="nig"), RMIA(), ShadowClassifier()],
    ids=lambda a: a.name,
)
def test_constant_signals_are_a_guess(attack):
    member = (np.arange(9)[:, None] + np.arange(60)) % 2 == 0
    found = attack.fit(np.ones((8, 60)), member[1:]).attack(np.ones(60), member[0])
    assert found.auc == 0.5
    assert found.tpr_at(0.1).tpr == 0


@pytest.mark.parametrize(
    "attack", [LiRA(), LiRA(variance="nig"), RMIA(), RMIA("offline")], ids=lambda a: a.name
)
def test_permuted_membership_is_a_guess(attack):
    signals, member, _ = shadow_signals(models=17, examples=6000)
    attack.fit(signals[1:], member[1:])
    other = np.random.default_rng(3).permutation(member[0])
    assert 0.48 <= auc(attack.score(signals[0]), other) <= 0.52


def test_signals_that_are_not_finite_are_held_and_counted():
    signals, member, _ = shadow_signals(models=9, examples=50)
    signals[0, 0], signals[3, 4] = np.inf, np.nan
    with pytest.warns(UserWarning, match="not finite"):
        found = LiRA().fit(signals[1:], member[1:]).attack(signals[0], member[0])
    assert np.isfinite(found.scores).all()
    assert any("shadow models were not finite" in flag for flag in found.flags)
    assert any("target were not finite" in flag for flag in found.flags)


def test_wrong_shapes_and_no_shadows_are_refused():
    signals, member, _ = shadow_signals(models=5, examples=30)
    with pytest.raises(NotFittedError, match="fit"):
        LiRA().score(signals[0])
    with pytest.raises(DataError, match="do not go together"):
        LiRA().fit(signals, member[:, :5])
    with pytest.raises(DataError, match="needs shadow models"):
        RMIA().fit(signals[:0], member[:0])
    with pytest.raises(DataError, match="30 examples are needed"):
        LiRA().fit(signals, member).score(signals[0, :7])
    with pytest.raises(ParameterError, match="variance"):
        LiRA(variance="own").fit(signals, member)
    with pytest.raises(ParameterError, match="gamma"):
        RMIA(gamma=0).fit(signals, member)


@given(
    st.lists(st.integers(-3, 3), min_size=4, max_size=40),
    st.integers(0, 2**20),
)
def test_the_area_counts_ties_half_as_scikit_learn_does(scores, bits):
    member = np.array([bits >> i & 1 for i in range(len(scores))], bool)
    member[:2] = [True, False]
    assert auc(scores, member) == pytest.approx(roc_auc_score(member, scores))
    assert auc(scores, member) + auc(-np.array(scores), member) == pytest.approx(1)


@given(
    st.integers(1, 6),
    st.integers(2, 8),
    st.integers(0, 2**48 - 1),
    st.lists(st.sampled_from([-1e3, -2.0, 0.0, 0.0, 1.5, 1e3]), min_size=56, max_size=56),
)
def test_scores_are_finite_whoever_was_in_and_whatever_was_said(models, examples, bits, values):
    member = np.array([bits >> i & 1 for i in range(models * examples)], bool)
    member = member.reshape(models, examples)
    signals = np.array(values[: models * examples]).reshape(models, examples)
    target = np.array(values[-examples:])
    for variance in ("global", "per_example", "nig"):
        for mode in ("online", "offline"):
            attack = LiRA(mode, variance).fit(signals, member)
            assert np.isfinite(attack.score(target)).all(), attack.name
    for mode in ("online", "offline"):
        scores = RMIA(mode).fit(signals, member).score(target)
        assert ((scores >= 0) & (scores <= 1)).all()


@given(st.integers(0, 1000), st.floats(-50, 50))
def test_lira_compares_an_example_with_itself_only(seed, shift):
    signals, member, _ = shadow_signals(models=9, examples=30, seed=seed)
    moved = signals.copy()
    moved[:, 4] += shift
    for variance in ("global", "per_example"):
        before = LiRA(variance=variance).fit(signals[1:], member[1:]).score(signals[0])
        after = LiRA(variance=variance).fit(moved[1:], member[1:]).score(moved[0])
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)
