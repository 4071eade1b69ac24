"""Lower bounds on epsilon from many runs, or many independent canaries."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from foretell.audits.dp.result import LowerBound, Try, binomial_high, binomial_low
from foretell.audits.membership.result import ThreatModel
from foretell.errors import DataError, ParameterError

_RANKS = 24


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
    if not 0 < confidence < 1:
        raise ParameterError(f"confidence must lie in (0, 1), not {confidence}")
    miss = 1 - confidence
    canaries = len(inside) + len(outside)
    if threshold == "split":
        rng = np.random.default_rng(seed)
        first_in, inside = _halves(inside, rng)
        first_out, outside = _halves(outside, rng)
        rules, misses = [_choose(first_in, first_out, delta, miss)], miss / 2
        tries = [_try(rule, inside, outside, delta, misses) for rule in rules]
    elif threshold == "bonferroni":
        tries = _at_ranks(inside, outside, delta, miss)
    elif isinstance(threshold, str):
        raise ParameterError(
            f"threshold must be 'split', 'bonferroni' or a number, not {threshold!r}"
        )
    else:
        tries = [_try(_Rule(float(threshold), False), inside, outside, delta, miss / 2)]
    best = max(tries, key=lambda t: t.epsilon)
    return LowerBound(
        best.epsilon, delta, confidence, "clopper_pearson", threat_model, canaries, unit,
        tuple(tries),
        (
            "scores of one world are independent of each other: one a run, or canaries that do not "
            "touch each other",
            "runs differ in the canary alone",
        ),
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
    inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float, miss: float
) -> _Rule:
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
            epsilon = np.log(np.maximum(low - delta, 0.0)) - np.log(high)
        at = int(epsilon.argmax())
        if epsilon[at] > most:
            cut = float(cuts[at])
            most, best = float(epsilon[at]), _Rule(-cut if reverse else cut, reverse)
    return best


def _fine(size: int) -> NDArray[np.int64]:
    return np.unique(np.geomspace(1, size, 400).round().astype(np.int64))


def _try(
    rule: _Rule, inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float,
    miss: float,
) -> Try:  # fmt: skip
    """What a rule proves of scores that it was not chosen on; ``miss`` for each rate."""
    if rule.reverse:
        hits, false = int((outside < rule.threshold).sum()), int((inside < rule.threshold).sum())
        positives, negatives = len(outside), len(inside)
    else:
        hits, false = int((inside > rule.threshold).sum()), int((outside > rule.threshold).sum())
        positives, negatives = len(inside), len(outside)
    return _proof(rule.threshold, hits, positives, false, negatives, delta, miss)


def _proof(
    rule: float, hits: int, positives: int, false: int, negatives: int, delta: float, miss: float
) -> Try:
    low, high = binomial_low(hits, positives, miss), binomial_high(false, negatives, miss)
    epsilon = max(0.0, math.log((low - delta) / high)) if low > delta else 0.0
    return Try(
        rule, epsilon, hits / positives, binomial_low(hits, positives, 0.025),
        binomial_high(hits, positives, 0.025), false / negatives,
    )  # fmt: skip


def _at_ranks(
    inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float, miss: float
) -> list[Try]:
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
                )
            )
    return found
