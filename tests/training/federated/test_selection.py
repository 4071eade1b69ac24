"""Choosing clients by their activity: rules, draws, weights, reports."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("flwr")

from foretell.errors import DataError, ParameterError
from foretell.training.federated.activity import ActivityLog, private_activity
from foretell.training.federated.draws import DRAWS, capped_inclusion, inclusion_probabilities
from foretell.training.federated.rules import Log, Power, Softmax, Uniform, make_rule
from foretell.training.federated.selection import ActivitySelection
from foretell.training.federated.weights import aggregation_weights, pairing_warning

SIZES = np.array([1, 2, 3, 10, 40, 0])


@pytest.mark.parametrize(
    ("rule", "shares"),
    [
        ("uniform", [1, 1, 1, 1, 1, 0]),
        ("proportional", [1, 2, 3, 10, 40, 0]),
        ("sqrt", np.sqrt([1, 2, 3, 10, 40, 0])),
        ("power:2", np.array([1, 2, 3, 10, 40, 0]) ** 2),
        ("log", np.log1p([1, 2, 3, 10, 40, 0])),
        ("softmax:5", [*np.exp(np.array([1, 2, 3, 10, 40]) / 5), 0]),
        ("softmax", [*np.exp(np.array([1, 2, 3, 10, 40]) / np.std([1, 2, 3, 10, 40])), 0]),
        ("threshold:3", [0, 0, 1, 1, 1, 0]),
        ("top_k", [0, 0, 0, 1, 1, 0]),
    ],
)
def test_rules(rule, shares):
    chances = ActivitySelection(rule).probabilities(SIZES, 2)
    assert chances == pytest.approx(np.asarray(shares) / np.sum(shares))


def test_softmax_of_large_sizes_is_finite():
    chances = ActivitySelection("softmax:1").probabilities([1e6, 1e6 - 1, 3])
    assert chances[:2] == pytest.approx([np.e / (np.e + 1), 1 / (np.e + 1)])
    assert ActivitySelection("softmax").probabilities([4, 4]) == pytest.approx([0.5, 0.5])


def test_floor_gives_everybody_with_data_a_chance():
    chances = ActivitySelection("threshold:10", floor=0.1).probabilities(SIZES)
    assert chances == pytest.approx([0.02, 0.02, 0.02, 0.47, 0.47, 0])


@pytest.mark.parametrize("name", ["activty", "log:2", "power:x", "threshold:"])
def test_unknown_rules_are_named(name):
    with pytest.raises(ParameterError, match="rule"):
        make_rule(name)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60).filter(any), st.integers(1, 70),
       st.floats(0.05, 1))  # fmt: skip
def test_inclusion_sums_to_k_and_keeps_proportions_below_the_cap(sizes, k, cap):
    chances = np.array(sizes) / np.sum(sizes)
    inclusion = capped_inclusion(chances, k, cap)
    able = int((chances > 0).sum())
    assert inclusion.sum() == pytest.approx(min(k, able * cap))
    assert inclusion.max() <= cap + 1e-12
    free = (inclusion < cap * (1 - 1e-9)) & (chances > 0)
    if free.any():
        ratio = inclusion[free] / chances[free]
        assert ratio == pytest.approx(ratio[0])
        # Nobody at the cap would have less by the common factor.
        capped = (~free) & (chances > 0)
        assert (chances[capped] * ratio[0] >= cap * (1 - 1e-6)).all()


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_have_the_declared_inclusion(draw):
    sizes = np.minimum(np.random.default_rng(0).zipf(1.6, 40), 100)
    selection = ActivitySelection("proportional", draw)
    inclusion = selection.inclusion(sizes, 8)
    rng, times, counts, expected = np.random.default_rng(1), 6000, np.zeros(40), np.zeros(40)
    for _ in range(times):
        drawn = selection.draw(rng, 8, sizes, inclusion=inclusion)
        counts[drawn.clients] += 1
        expected[drawn.clients] = drawn.expected
        if draw != "poisson":
            assert drawn.multiplicity.sum() == 8
        assert (np.diff(drawn.clients) > 0).all()
    random = inclusion < 1 - 1e-12
    assert (counts[~random] == times).all()
    deviation = (counts - times * inclusion)[random] ** 2
    chi2 = (deviation / (times * inclusion * (1 - inclusion))[random]).sum()
    assert stats.chi2.sf(chi2, random.sum() - 1) > 0.001
    seen = counts > 0
    if draw == "multinomial":
        assert expected[seen] == pytest.approx(8 * sizes[seen] / sizes.sum())
    else:
        assert expected[seen] == pytest.approx(inclusion[seen])


def test_plackett_luce_inclusion_is_not_k_times_p():
    chances = np.array([0.5, 0.3, 0.15, 0.05])
    exact = np.zeros(4)
    for first, second in itertools.permutations(range(4), 2):
        chance = chances[first] * chances[second] / (1 - chances[first])
        exact[[first, second]] += chance
    found = inclusion_probabilities(chances, 2, "plackett_luce", simulations=40_000)
    assert found == pytest.approx(exact, abs=6e-3)
    assert abs(exact - 2 * chances).max() > 0.1


@pytest.mark.parametrize("draw", DRAWS)
def test_horvitz_thompson_is_unbiased(draw):
    rng = np.random.default_rng(3)
    sizes = np.minimum(rng.zipf(1.6, 60), 50)
    updates = rng.normal(size=60) + np.log(sizes)
    selection = ActivitySelection("sqrt", draw)
    inclusion = selection.inclusion(sizes, 12)
    chances = selection.probabilities(sizes)
    totals = []
    for _ in range(3000):
        d = selection.draw(rng, 12, sizes, inclusion=inclusion)
        n = sizes[d.clients].astype(float)
        weights = aggregation_weights(
            "horvitz_thompson", n, chances[d.clients], d.expected, d.multiplicity
        )
        totals.append(weights @ updates[d.clients])
    error = np.std(totals) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - sizes @ updates) < 3 * error


@given(st.lists(st.integers(1, 300), min_size=2, max_size=20), st.sampled_from([0, 0.5, 1, 1.5]))
def test_consistent_weights_are_the_published_ones(sizes, beta):
    n = np.array(sizes, dtype=float)
    chances = ActivitySelection(Power(beta)).probabilities(n)
    ones = np.ones(len(n))
    weights = aggregation_weights("consistent", n, chances, ones, ones)
    wanted = n ** (1 - beta)
    assert weights / weights.sum() == pytest.approx(wanted / wanted.sum())


def test_weights_count_how_often_a_client_was_drawn():
    n, ones = np.array([2.0, 4.0]), np.ones(2)
    for aggregation in ("equal", "num_examples", "consistent", "horvitz_thompson"):
        once = aggregation_weights(aggregation, n, ones / 2, ones, ones)
        twice = aggregation_weights(aggregation, n, ones / 2, ones, np.array([2, 1]))
        assert twice == pytest.approx(once * [2, 1])
    with pytest.raises(ParameterError, match="aggregation"):
        aggregation_weights("mean", n, ones, ones, ones)


def test_the_classic_mistake_is_warned_of():
    assert "twice" in str(pairing_warning(Power(1), "num_examples"))
    assert "twice" in str(pairing_warning(Log(), "num_examples"))
    assert "floor" in str(pairing_warning(make_rule("top_k"), "horvitz_thompson"))
    for rule, aggregation in ((Uniform(), "num_examples"), (Power(1), "equal"),
                              (Softmax(), "consistent")):  # fmt: skip
        assert pairing_warning(rule, aggregation) is None


def test_more_clients_than_there_are():
    with pytest.warns(UserWarning, match="only 5 can be chosen"):
        drawn = ActivitySelection("log").draw(np.random.default_rng(0), 9, SIZES)
    assert drawn.clients.tolist() == [0, 1, 2, 3, 4]
    assert drawn.inclusion == pytest.approx(np.ones(5))


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_impossible_activities_name_the_client(value):
    with pytest.raises(DataError, match="client 1 has"):
        ActivitySelection().probabilities([3, value])
    with pytest.raises(DataError, match="client 7 reports"):
        ActivityLog().report(7, value)
    with pytest.raises(DataError, match="no client has any example"):
        ActivitySelection().probabilities([0, 0])


def test_arguments_out_of_range():
    for arguments in ({"floor": 1.5}, {"q_max": 0}, {"draw": "random"},
                      {"draw": "multinomial", "q_max": 0.5}):  # fmt: skip
        with pytest.raises(ParameterError):
            ActivitySelection(**arguments)


def test_unknown_clients_count_as_the_median_and_liars_as_the_cap():
    log = ActivityLog(cap=0.9)
    for client, n in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 9, 1_000_000]):
        log.report(client, n)
    assert log.of([0, 9, 77]).tolist() == [1, 9, 5.5]
    # Heavy but not beyond belief: counted as reported.
    log.report(9, 60)
    assert log.of([9]).tolist() == [60]
    assert ActivityLog(cap=None).of([3]).tolist() == [1]
    fixed = ActivityLog(cap=20, tolerance=1)
    fixed.report(0, 25)
    assert fixed.of([0]).tolist() == [20]


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_reports_in_powers_of_two(n):
    told = private_activity(n)
    assert told == (0 if n == 0 else 2 ** int(np.log2(n) + 1e-12))


def test_noise_on_reports_is_private_for_one_example():
    epsilon, times = 0.7, 40_000
    counts = []
    for n in (7, 8):  # one example more is another bucket
        told = np.array([private_activity(n, epsilon=epsilon, seed=s) for s in range(times)])
        counts.append([(told == value).sum() for value in (2, 4, 8, 16)])
    ratio = np.log(np.array(counts[0]) / np.array(counts[1]))
    assert abs(ratio).max() < epsilon + 0.06
    assert abs(ratio).max() > epsilon - 0.06
    with pytest.raises(ParameterError, match="epsilon"):
        private_activity(3, epsilon=0)
