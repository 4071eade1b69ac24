"""Golden epsilons, and the noise that meets a target."""

from __future__ import annotations

import pytest

from foretell.errors import ParameterError
from foretell.training.private import NoisySteps, epsilon, noise_for

pytest.importorskip("dp_accounting", reason="needs the extra 'private'")

GOLDEN = [
    (0.01, 1.0, 1000, 1e-5, 2.1014, 1.8282),
    (0.01, 1.0, 10000, 1e-5, 6.7128, 6.1877),
    (0.0391317640, 0.7475830078, 306, 2.962002e-5, 9.1583, 7.9946),
    (0.05, 1.163, 200, 1e-5, 4.0011, 3.5764),
    (256 / 60000, 1.1, 14062, 1e-5, 2.5966, 2.3817),
]


@pytest.mark.parametrize("rate, noise, steps, delta, rdp, pld", GOLDEN)
def test_published_epsilons_to_three_digits(rate, noise, steps, delta, rdp, pld):
    done = [NoisySteps(rate, noise, steps)]
    assert epsilon(done, delta, accountant="rdp") == pytest.approx(rdp, rel=5e-4)
    assert epsilon(done, delta) == pytest.approx(pld, rel=5e-4)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("target", [1.0, 8.0])
def test_the_noise_for_a_target_never_exceeds_it(accountant, target):
    plan = [NoisySteps(0.05, 1.0, 200)]
    noise = noise_for(target, 1e-5, plan, accountant=accountant)
    cost = epsilon([NoisySteps(0.05, noise, 200)], 1e-5, accountant=accountant)
    assert target * (1 - 1e-3) <= cost <= target


def test_a_target_that_only_the_coarse_search_misses_is_met_by_the_smallest_noise():
    """The first look, with coarse distributions, errs upwards by a little."""
    plan = [NoisySteps(0.2, 1.0, 3)]
    smallest = [NoisySteps(0.2, 0.2, 3)]
    coarse = epsilon(smallest, 1e-5, discretization=1e-2)
    fine = epsilon(smallest, 1e-5, discretization=1e-3)
    assert fine < coarse
    assert noise_for((coarse + fine) / 2, 1e-5, plan) == 0.2


def test_a_decay_costs_more_than_its_first_noise_and_less_than_its_last():
    first, last = NoisySteps(0.05, 1.2, 100), NoisySteps(0.05, 1.0, 100)
    mixed = epsilon([first, last], 1e-5, accountant="rdp")
    assert epsilon([NoisySteps(0.05, 1.2, 200)], 1e-5, accountant="rdp") < mixed
    assert mixed < epsilon([NoisySteps(0.05, 1.0, 200)], 1e-5, accountant="rdp")


def test_edges():
    assert epsilon([], 1e-5) == 0
    assert epsilon([NoisySteps(0.1, 1.0, 0)], 1e-5) == 0
    assert epsilon([NoisySteps(0.1, 0.0, 5)], 1e-5) == float("inf")
    with pytest.raises(ParameterError, match="delta"):
        epsilon([], 1.0)
    with pytest.raises(ParameterError, match=r"cannot be reached.*costs"):
        noise_for(1e-4, 1e-9, [NoisySteps(1.0, 1.0, 10_000)])


def test_noise_that_costs_nothing_at_all_is_no_obstacle():
    """At the largest noise, few steps cost an epsilon of 0 exactly."""
    plan = [NoisySteps(0.25, 1.0, 4)]
    noise = noise_for(4.0, 1e-3, plan, accountant="rdp")
    assert 3.99 < epsilon([NoisySteps(0.25, noise, 4)], 1e-3, accountant="rdp") <= 4.0
