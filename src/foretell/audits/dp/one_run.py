"""Lower bounds on epsilon from one run with many canaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from foretell.audits.dp.gaussian import least_other, mu_of
from foretell.audits.dp.result import GAUSSIAN_CLAIM, LowerBound, Try, binomial_high, binomial_low
from foretell.audits.membership.result import ThreatModel
from foretell.errors import DataError, ParameterError

Method = Literal["steinke", "fdp"]
Side = Literal["both", "in", "out"]
_LARGEST, _EXACT = 64.0, 1e-3
_GRID = 33
_COIN = 1e-6


def audit_one_run(
    scores: ArrayLike,
    included: ArrayLike,
    delta: float,
    *,
    method: Method = "fdp",
    guesses: int | Sequence[int] | None = None,
    side: Side = "both",
    confidence: float = 0.95,
    threat_model: ThreatModel = "white_box_final",
    unit: str = "example",
    seed: int = 0,
) -> LowerBound:
    """Bounds epsilon by how many of m coins a score guesses right, in a single training.

    Each canary was put in by a fair coin of its own. The auditor guesses the canaries with the
    highest scores to be in and those with the lowest to be out, and keeps silent on the others. Too
    many right guesses refute a guarantee:

    - ``"steinke"`` (Steinke, Nasr and Jagielski 2023, theorem 5.2) refutes (epsilon, delta) for any
      mechanism whatever, and cannot prove more than guesses of that many can.
    - ``"fdp"`` (Mahloujifar, Melis and Chaudhuri 2025) refutes the whole trade-off curve of the
      Gaussian mechanism that has (epsilon, delta), which proves far more of mechanisms that are
      like it, as noisy gradient steps are.

    Args:
        scores: of each canary ``(m,)``; larger means "in". Ties are broken by chance.
        included: which canaries were in ``(m,)``, decided by fair coins.
        delta: at which epsilon is bounded; in (0, 1), 0 is allowed for ``"steinke"``.
        method: see above.
        guesses: how many to guess; several, and ``None`` for eight from all down to a 128th, are
            all tried and paid for (Bonferroni).
        side: whether guesses are shared between both ends of the scores, or all at one.
        confidence: chance that the bound holds.
        threat_model: what the attacker saw.
        unit: what a canary is.
        seed: of the ties.

    Raises:
        DataError: scores that are not finite, or coins that were not fair.
        ParameterError: values out of range.
    """
    values, coins = _checked(scores, included)
    count = len(values)
    if method not in ("steinke", "fdp"):
        raise ParameterError(f"method must be 'steinke' or 'fdp', not {method!r}")
    if side not in ("both", "in", "out"):
        raise ParameterError(f"side must be 'both', 'in' or 'out', not {side!r}")
    if not (0 < delta < 1 or (delta == 0 and method == "steinke")):
        raise ParameterError(f"delta must lie in (0, 1), not {delta}")
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence must lie in (0, 1), not {confidence}")
    tried = _numbers(guesses, count)
    miss = (1 - confidence) / len(tried)
    order = np.random.default_rng(seed).permutation(count)
    order = order[np.argsort(-values[order], kind="stable")]
    judge = _steinke if method == "steinke" else _fdp
    found = []
    for number in tried:
        right = _right(coins[order], number, side)
        epsilon = judge(count, number, right, delta, miss)
        found.append(
            Try(
                float(number),
                epsilon,
                right / number,
                binomial_low(right, number, 0.025),
                binomial_high(right, number, 0.025),
            )
        )
    best = max(found, key=lambda t: t.epsilon)
    assumptions = ["each canary was in by a fair coin of its own, which the scores did not see"]
    if method == "fdp":
        assumptions.append(GAUSSIAN_CLAIM)
    return LowerBound(
        best.epsilon, delta, confidence, method, threat_model, count, unit, tuple(found),
        tuple(assumptions),
        {"guesses": best.rule, "right": round(best.share * best.rule), "tried": len(tried)},
    )  # fmt: skip


def steinke_p_value(epsilon: float, delta: float, canaries: int, guesses: int, right: int) -> float:
    """Chance of so many right guesses, at most, under (epsilon, delta) privacy.

    With ``Q = 1 / (1 + e^-epsilon)`` each guess is right with chance Q at most, and delta can hand
    over some more: ``beta + 2 m delta max_i (P[Bin(r, Q) >= v - i] - beta) / i``.
    """
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(scipy.stats.binom.sf(right - 1, guesses, chance))
    if delta == 0 or right == 0:
        return min(1.0, tail)
    given = np.arange(1, right + 1)
    more = scipy.stats.binom.sf(right - given - 1, guesses, chance) - tail
    slope = max(0.0, float((more / given).max()))
    return min(1.0, tail + 2 * canaries * delta * slope)


def fdp_refuted(
    mu: ArrayLike, canaries: int, guesses: int, right: int, miss: float
) -> NDArray[np.bool_]:
    """Whether so many right guesses refute Gaussian trade-offs, failing with chance ``miss``.

    Let ``p_i`` be the chance of exactly i right guesses, ``r_c = sum_{i >= c} i p_i / m`` and
    ``h_c = sum_{i >= c} (g - i) p_i / m``. That no canary's coin can be told better than the
    trade-off allows means ``h_{c-1} >= Phi(Phi^-1(r_c) - mu)`` for all c. If v right guesses had a
    chance of ``miss`` at least, these would force ``r_0 + h_0`` above the ``g / m`` that it is.

    Args:
        mu: of the trade-offs ``(E,)``, or one.
        canaries: m.
        guesses: g.
        right: v.
        miss: chance of refuting a true one.
    """
    distance = np.atleast_1d(np.asarray(mu, np.float64))
    caught = np.full(distance.shape, miss * right / canaries)
    missed = np.full(distance.shape, miss * (guesses - right) / canaries)
    moving = np.ones(distance.shape, bool)
    for i in range(right - 1, -1, -1):
        least = least_other(caught[moving], distance[moving])
        rise = least - missed[moving]
        grows = rise > 0
        # Where the rest is forced to nothing now, it is forced to nothing ever after.
        moving[np.flatnonzero(moving)[~grows]] = False
        if not moving.any():
            break
        rise = rise[grows]
        missed[moving] += rise
        caught[moving] = np.minimum(caught[moving] + i / (guesses - i) * rise, 1.0)
    return np.asarray(caught + missed > guesses / canaries)


def _steinke(canaries: int, guesses: int, right: int, delta: float, miss: float) -> float:
    def refuted(epsilons: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.array(
            [steinke_p_value(e, delta, canaries, guesses, right) < miss for e in epsilons]
        )

    return _largest_refuted(refuted, 9)


def _fdp(canaries: int, guesses: int, right: int, delta: float, miss: float) -> float:
    def refuted(epsilons: NDArray[np.float64]) -> NDArray[np.bool_]:
        distances = np.array([mu_of(float(e), delta) for e in epsilons])
        return fdp_refuted(distances, canaries, guesses, right, miss)

    if 2 * right <= guesses:
        return 0.0
    return _largest_refuted(refuted, _GRID)


def _largest_refuted(
    refuted: Callable[[NDArray[np.float64]], NDArray[np.bool_]], points: int
) -> float:
    """The largest refuted epsilon, from below, by bisection of several points at once."""
    if not refuted(np.zeros(1))[0]:
        return 0.0
    low, high = 0.0, 1.0
    while high < _LARGEST and refuted(np.array([high]))[0]:
        low, high = high, 2 * high
    while high - low > _EXACT:
        grid = np.linspace(low, high, points)[1:-1]
        right = refuted(grid)
        last = int(right.sum()) if right.all() else int((~right).argmax())
        low, high = ([low, *grid][last], [*grid, high][last])
    return float(low)


def _right(coins: NDArray[np.bool_], number: int, side: Side) -> int:
    """Right guesses; ``coins`` in falling order of the scores."""
    top = {"both": number - number // 2, "in": number, "out": 0}[side]
    bottom = number - top
    return int(coins[:top].sum()) + int((~coins[len(coins) - bottom :]).sum())


def _numbers(guesses: int | Sequence[int] | None, count: int) -> list[int]:
    if guesses is None:
        return sorted({max(1, count >> halvings) for halvings in range(8)})
    numbers = [guesses] if isinstance(guesses, int) else list(guesses)
    if not numbers or any(not 1 <= number <= count for number in numbers):
        raise ParameterError(
            f"guesses must be numbers from 1 to the {count} canaries, not {numbers}"
        )
    return sorted(set(numbers))


def _checked(
    scores: ArrayLike, included: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, coins = np.asarray(scores, np.float64), np.asarray(included)
    if values.ndim != 1 or len(values) < 1 or coins.shape != values.shape:
        raise DataError(
            "scores and included must be of one length (m,), not of shapes "
            f"{values.shape} and {coins.shape}"
        )
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} scores are not finite", column="scores", row=int(bad.argmax())
        )
    if coins.dtype != bool and not np.isin(coins, (0, 1)).all():
        raise DataError("included must be true or false", column="included")
    coins = coins.astype(bool)
    chance = scipy.stats.binomtest(int(coins.sum()), len(coins)).pvalue
    if chance < _COIN:
        raise DataError(
            f"{int(coins.sum())} of {len(coins)} canaries were in: no fair coins decided that",
            hint="Each must be put in with chance 1/2 by itself; foretell.audits.dp.flip does so",
        )
    return values, coins
