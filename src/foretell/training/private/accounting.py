"""How much privacy a sequence of noisy steps costs, by ``dp-accounting``'s accountants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import scipy.optimize

from foretell.errors import ParameterError

Accountant = Literal["pld", "rdp"]
SMALLEST_NOISE, LARGEST_NOISE = 0.2, 100.0
_STATEMENT, _SEARCH = 1e-4, 1e-3


@dataclass(frozen=True)
class NoisySteps:
    """Steps of one kind: a Poisson sample of the examples, and a Gaussian on its bounded sum.

    Attributes:
        sample_rate: chance q of each example to be in a step; 1 for all.
        noise_multiplier: standard deviation of the noise over the *sensitivity* of the sum.
        steps: how many.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int


def dp_event(steps: Sequence[NoisySteps]) -> Any:
    """The event tree of ``dp-accounting`` for steps one after the other.

    Raises:
        ParameterError: ``dp-accounting`` is not installed.
    """
    accounting = _library()
    parts = []
    for kind in steps:
        event = accounting.GaussianDpEvent(kind.noise_multiplier)
        if kind.sample_rate < 1:
            event = accounting.PoissonSampledDpEvent(kind.sample_rate, event)
        parts.append(accounting.SelfComposedDpEvent(event, kind.steps))
    return parts[0] if len(parts) == 1 else accounting.ComposedDpEvent(parts)


def epsilon(
    steps: Sequence[NoisySteps],
    delta: float,
    *,
    accountant: Accountant = "pld",
    discretization: float = _STATEMENT,
) -> float:
    """The epsilon that adding or removing one example costs at ``delta``; 0 for no steps.

    Args:
        steps: what was done.
        delta: in (0, 1).
        accountant: ``"pld"`` (privacy loss distributions, tight) or ``"rdp"`` (quick).
        discretization: interval of privacy loss distributions; smaller is tighter and slower.

    Raises:
        ParameterError: values out of range, or ``dp-accounting`` is not installed.
    """
    if not 0 < delta < 1:
        raise ParameterError(f"delta must lie in (0, 1), not {delta}")
    if accountant not in ("pld", "rdp"):
        raise ParameterError(f"accountant must be 'pld' or 'rdp', not {accountant!r}")
    steps = [kind for kind in steps if kind.steps]
    for kind in steps:
        if not 0 < kind.sample_rate <= 1:
            raise ParameterError(f"the sample rate must lie in (0, 1], not {kind.sample_rate}")
        if not kind.noise_multiplier > 0:
            return float("inf")
    if not steps:
        return 0.0
    _library()
    with _quiet():
        if accountant == "pld":
            from dp_accounting.pld import PLDAccountant

            judge: Any = PLDAccountant(value_discretization_interval=discretization)
        else:
            from dp_accounting.rdp import RdpAccountant

            judge = RdpAccountant()
        judge.compose(dp_event(steps))
        return float(judge.get_epsilon(delta))


def noise_for(
    target_epsilon: float,
    delta: float,
    plan: Sequence[NoisySteps],
    *,
    accountant: Accountant = "pld",
) -> float:
    """Factor on the noise of a plan that meets a target without ever exceeding it.

    With every ``noise_multiplier`` of the plan set to 1, it is the noise multiplier itself; with
    a decay (1, gamma, gamma^2, ...) it is the first one.

    Args:
        target_epsilon: to be met within a thousandth from below.
        delta: in (0, 1).
        plan: the steps.
        accountant: see :func:`epsilon`.

    Raises:
        ParameterError: the target cannot be met with noise below 100; says what can.
    """
    if not target_epsilon > 0:
        raise ParameterError(f"target_epsilon must be positive, not {target_epsilon}")

    def cost(noise: float, judge: Accountant, discretization: float = _STATEMENT) -> float:
        scaled = [NoisySteps(k.sample_rate, noise * k.noise_multiplier, k.steps) for k in plan]
        return epsilon(scaled, delta, accountant=judge, discretization=discretization)

    least = cost(LARGEST_NOISE, accountant)
    if least > target_epsilon:
        raise ParameterError(
            f"epsilon {target_epsilon} at delta {delta:g} cannot be reached: noise multiplier "
            f"{LARGEST_NOISE:g} still costs {least:.3g}. Take fewer steps or a smaller sample rate"
        )
    if cost(SMALLEST_NOISE, accountant, 1e-2) <= target_epsilon:
        return SMALLEST_NOISE
    # The quick accountant finds the place, the coarse one the surroundings, the fine one has the
    # last word. All err upwards.
    low, high = SMALLEST_NOISE, LARGEST_NOISE
    if cost(LARGEST_NOISE, "rdp") <= target_epsilon:
        high = _root(partial(cost, judge="rdp"), target_epsilon, low, high)
    if accountant == "rdp":
        return high
    for discretization in (_SEARCH, _STATEMENT):
        low = max(SMALLEST_NOISE, 0.7 * high)
        while cost(low, "pld", discretization) <= target_epsilon:
            if low == SMALLEST_NOISE:
                return SMALLEST_NOISE
            low = max(SMALLEST_NOISE, 0.7 * low)
        coarse = partial(cost, judge="pld", discretization=discretization)
        high = _root(coarse, target_epsilon, low, high)
        if cost(high, "pld") >= target_epsilon * (1 - 1e-3):
            break
    return high


def _root(cost: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The noise in a bracket that costs between 0.999 and 1 times the target."""
    costs: dict[float, float] = {}

    def excess(logarithm: float) -> float:
        value = cost(math.exp(logarithm))
        costs[math.exp(logarithm)] = value
        middle = target * (1 - 5e-4)
        # Within the tolerance counts as found.
        return (
            0.0 if target * (1 - 1e-3) <= value <= target else math.log(max(value, 1e-12) / middle)
        )

    scipy.optimize.brentq(excess, math.log(low), math.log(high), xtol=1e-9, rtol=1e-9)
    return min(noise for noise, value in costs.items() if value <= target)


def _library() -> Any:
    try:
        import dp_accounting
    except ModuleNotFoundError:
        raise ParameterError(
            "private training needs the package dp-accounting: pip install 'foretell[private]'"
        ) from None
    return dp_accounting


@contextmanager
def _quiet() -> Iterator[None]:
    """The accountants warn of orders that do not converge, which is harmless."""
    from absl import logging as absl_logging

    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)
