"""Lower bounds on epsilon from many runs, or many independent canaries."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import beta

from foretell.audits.dp.gaussian import epsilon_of
from foretell.audits.dp.result import GAUSSIAN_CLAIM, LowerBound, Try, binomial_high, binomial_low
from foretell.audits.membership.result import ThreatModel
from foretell.errors import DataError, ParameterError

_RANKS = 24
Curve = Literal["any", "gaussian"]


class _Rule(NamedTuple):
    """``score > threshold`` is called "in", or "out" where ``reverse``."""

    threshold: float
    reverse: bool


def audit_clopper_pearson(
    in_scores: ArrayLike,
    out_scores: ArrayLike,
    delta: float,
    *,
    confidence: float = 0.95,
    threshold: Literal["split", "bonferroni"] | float = "split",
    curve: Curve = "any",
    threat_model: ThreatModel = "white_box_final",
    unit: str = "example",
    seed: int = 0,
) -> LowerBound:
    """Bounds epsilon by how well a score tells runs with a canary from runs without it.

    For an (epsilon, delta) private training any event has ``P_in <= e^epsilon P_out + delta``, and
    the same the other way round, so that ``epsilon >= log((TPR - delta) / FPR)`` for each
    threshold; Clopper-Pearson bounds take the place of the rates (Jagielski et al. 2020).

    Args:
        in_scores: one score a run with the canary ``(n,)``; larger means "in".
        out_scores: one score a run without it ``(m,)``.
        delta: at which epsilon is bounded; 0 is allowed.
        confidence: chance that the bound holds.
        threshold: ``"split"`` chooses it on one half and bounds on the other; ``"bonferroni"``
            bounds at fixed ranks of the scores and pays for all; a number is used as it is, and
            must come from other scores than these.
        curve: ``"any"`` refutes (epsilon, delta) for whatever mechanism, but n runs cannot prove
            more than about log n; ``"gaussian"`` refutes the whole trade-off curve of the Gaussian
            mechanism that has (epsilon, delta), of which some hundred runs tell much more (Nasr et
            al. 2023).
        threat_model: what the attacker saw.
        unit: what a canary is.
        seed: of the halves.

    Raises:
        DataError: too few scores, or scores that are not finite.
        ParameterError: values out of range.
    """
    inside, outside = _checked(in_scores, "in_scores"), _checked(out_scores, "out_scores")
    if not 0 <= delta < 1:
        raise ParameterError(f"delta must lie in [0, 1), not {delta}")
    if curve not in ("any", "gaussian") or (curve == "gaussian" and delta == 0):
        raise ParameterError(
            f"curve must be 'any', or 'gaussian' with a delta above 0, not {curve!r} with {delta}"
        )
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence must lie in (0, 1), not {confidence}")
    miss = 1 - confidence
    canaries = len(inside) + len(outside)
    if threshold == "split":
        rng = np.random.default_rng(seed)
        first_in, inside = _halves(inside, rng)
        first_out, outside = _halves(outside, rng)
        rule = _choose(first_in, first_out, delta, miss, curve)
        tries = [_try(rule, inside, outside, delta, miss / 2, curve)]
    elif threshold == "bonferroni":
        tries = _at_ranks(inside, outside, delta, miss, curve)
    elif isinstance(threshold, str):
        raise ParameterError(
            f"threshold must be 'split', 'bonferroni' or a number, not {threshold!r}"
        )
    else:
        tries = [_try(_Rule(float(threshold), False), inside, outside, delta, miss / 2, curve)]
    best = max(tries, key=lambda t: t.epsilon)
    assumptions = [
        "scores of one world are independent of each other: one a run, or canaries that do not "
        "touch each other",
        "runs differ in the canary alone",
    ]
    if curve == "gaussian":
        assumptions.append(GAUSSIAN_CLAIM)
    name = "clopper_pearson" + ("_gaussian" if curve == "gaussian" else "")
    return LowerBound(
        best.epsilon, delta, confidence, name, threat_model, canaries, unit,
        tuple(tries), tuple(assumptions),
        {"true_positive_rate": best.share, "false_positive_rate": best.false_share or 0.0,
         "threshold": best.rule},
    )  # fmt: skip


def _checked(scores: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise DataError(f"{name} must be two scores (n,) or more, not of shape {values.shape}")
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(
            f"{name} has {int(bad.sum())} values that are not finite", row=int(bad.argmax())
        )
    return values


def _halves(
    scores: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = rng.permutation(len(scores))
    return scores[order[: len(scores) // 2]], scores[order[len(scores) // 2 :]]


def _ranks(size: int) -> NDArray[np.int64]:
    """Ranks from the top, close at the top: 1, 2, 3, ... up to a half."""
    return np.unique(np.geomspace(1, max(1, size // 2), _RANKS).round().astype(np.int64))


def _choose(
    inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float, miss: float,
    curve: Curve,
) -> _Rule:  # fmt: skip
    """The rule that would prove most of these scores."""
    best, most = _Rule(float(np.median(outside)), False), -math.inf
    for reverse in (False, True):
        yes, no = (-outside, -inside) if reverse else (inside, outside)
        yes, no = np.sort(yes), np.sort(no)
        cuts = np.concatenate([no[-_fine(len(no))], yes[-_fine(len(yes))]])
        hits = len(yes) - np.searchsorted(yes, cuts, "right")
        false = len(no) - np.searchsorted(no, cuts, "right")
        low = np.where(hits > 0, beta.ppf(miss / 2, hits, len(yes) - hits + 1), 0.0)
        high = beta.ppf(1 - miss / 2, false + 1, np.maximum(len(no) - false, 1e-12))
        with np.errstate(divide="ignore"):
            if curve == "gaussian":
                proven = ndtri(low) - ndtri(high)
            else:
                proven = np.log(np.maximum(low - delta, 0.0)) - np.log(high)
        at = int(proven.argmax())
        if proven[at] > most:
            cut = float(cuts[at])
            most, best = float(proven[at]), _Rule(-cut if reverse else cut, reverse)
    return best


def _fine(size: int) -> NDArray[np.int64]:
    return np.unique(np.geomspace(1, size, 400).round().astype(np.int64))


def _try(
    rule: _Rule, inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float,
    miss: float, curve: Curve,
) -> Try:  # fmt: skip
    """What a rule proves of scores that it was not chosen on; ``miss`` for each rate."""
    if rule.reverse:
        hits, false = int((outside < rule.threshold).sum()), int((inside < rule.threshold).sum())
        positives, negatives = len(outside), len(inside)
    else:
        hits, false = int((inside > rule.threshold).sum()), int((outside > rule.threshold).sum())
        positives, negatives = len(inside), len(outside)
    return _proof(rule.threshold, hits, positives, false, negatives, delta, miss, curve)


def _proof(
    rule: float, hits: int, positives: int, false: int, negatives: int, delta: float, miss: float,
    curve: Curve,
) -> Try:  # fmt: skip
    low, high = binomial_low(hits, positives, miss), binomial_high(false, negatives, miss)
    if curve == "gaussian":
        distance = float(ndtri(low) - ndtri(high)) if low > high else 0.0
        epsilon = epsilon_of(distance, delta)
    else:
        epsilon = max(0.0, math.log((low - delta) / high)) if low > delta else 0.0
    return Try(
        rule, epsilon, hits / positives, binomial_low(hits, positives, 0.025),
        binomial_high(hits, positives, 0.025), false / negatives,
    )  # fmt: skip


def _at_ranks(
    inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float, miss: float,
    curve: Curve,
) -> list[Try]:  # fmt: skip
    """Rules at fixed ranks of one world's scores, both ways round.

    A threshold at the j-th largest score of one world is independent of the other world's scores,
    and the chance above it is Beta(j, m - j + 1) at most: as if j - 1 of m had been found above a
    threshold fixed before. No rule is chosen by what it is judged on.
    """
    sides = [(inside, outside, 1.0), (-outside, -inside, -1.0)]
    number = sum(len(_ranks(len(no))) for _, no, _ in sides)
    found = []
    for yes, no, sign in sides:
        ordered = np.sort(no)[::-1]
        for rank in _ranks(len(no)).tolist():
            cut = ordered[rank - 1]
            hits = int((yes > cut).sum())
            found.append(
                _proof(
                    float(sign * cut),
                    hits,
                    len(yes),
                    rank - 1,
                    len(no),
                    delta,
                    miss / (2 * number),
                    curve,
                )
            )
    return found
