"""Threshold vectors a method proposes, what they achieve on the hold-out, and which one is taken.

Every method hands over candidates in this one form: a family of threshold vectors, from strict to
loose, with the true positives and the weight called positive that the *deployed* rule has. The
choice among them, the frontier and the guarantee then are the same for all methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

NEVER = np.inf
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class LevelCurves:
    """For each level, what lies at or above any score.

    Args:
        scores: K ascending score arrays.
        positive: K arrays, the row's weight where its label is 1, else 0.
        weight: K arrays, the rows' weights.
        hits: K arrays, one longer: positive weight of the rows from there up, 0 at the end.
        mass: the same for the weight.
        squares: the same for the squared weight (Kish's effective size).
    """

    scores: tuple[NDArray[np.float64], ...]
    positive: tuple[NDArray[np.float64], ...]
    weight: tuple[NDArray[np.float64], ...]
    hits: tuple[NDArray[np.float64], ...]
    mass: tuple[NDArray[np.float64], ...]
    squares: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(
        cls,
        score: NDArray[np.float64],
        label: NDArray[np.float64],
        weight: NDArray[np.float64],
        level: NDArray[np.int32],
        n_levels: int,
    ) -> LevelCurves:
        """Sorts the rows of each level once."""
        parts: list[tuple[NDArray[np.float64], ...]] = []
        for k in range(n_levels):
            rows = np.flatnonzero(level == k) if n_levels > 1 else np.arange(len(score))
            rows = rows[np.argsort(score[rows], kind="stable")]
            w = weight[rows]
            p = w * label[rows]
            parts.append((score[rows], p, w, _from_above(p), _from_above(w), _from_above(w**2)))
        return cls(*zip(*parts, strict=True))

    def at(self, k: int, thresholds: NDArray[np.float64]) -> NDArray[np.intp]:
        """First row of level ``k`` that each threshold calls positive."""
        n = len(self.scores[k])
        first = np.searchsorted(self.scores[k], thresholds, side="left")
        return np.where(np.isinf(thresholds) & (thresholds > 0), n, first)

    def counts(
        self, k: int, thresholds: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """True positives and weight called positive in level ``k``, for each threshold."""
        first = self.at(k, thresholds)
        return self.hits[k][first], self.mass[k][first]

    def totals(
        self, thresholds: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """True positives and weight called positive of threshold vectors (F, K) -> (F,), (F,)."""
        tp = np.zeros(len(thresholds))
        n = np.zeros(len(thresholds))
        for k in range(thresholds.shape[1]):
            hits, mass = self.counts(k, thresholds[:, k])
            tp += hits
            n += mass
        return tp, n


def _from_above(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros(len(values) + 1)
    total[:-1] = np.cumsum(values[::-1])[::-1]
    return total


@dataclass(frozen=True, eq=False)
class Candidates:
    """F threshold vectors over K levels, strict ones first.

    Args:
        cuts: K arrays of thresholds; +inf is "never".
        index: (F, K) the threshold that a candidate takes in each level.
        tp: (F,) positive weight that the deployed rule calls positive.
        n: (F,) weight that it calls positive, above 0.
    """

    cuts: tuple[NDArray[np.float64], ...]
    index: NDArray[np.integer]
    tp: NDArray[np.float64]
    n: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.tp)

    def thresholds(self, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float64]:
        """Threshold vectors of some candidates, (f, K)."""
        index = self.index[rows]
        return np.column_stack([cut[index[:, k]] for k, cut in enumerate(self.cuts)])

    def select(self, rows: NDArray[np.int64]) -> Candidates:
        """Some of the candidates, in the order given."""
        return Candidates(self.cuts, self.index[rows], self.tp[rows], self.n[rows])

    def pareto(self) -> Candidates:
        """Those that no other beats in both precision and true positives, strict ones first."""
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = self.tp / self.n
        order = np.lexsort((-precision, -self.tp))
        best = np.maximum.accumulate(precision[order])
        better = np.ones(len(order), bool)
        better[1:] = precision[order][1:] > best[:-1]
        return self.select(order[better & (self.tp[order] > 0)][::-1])


@dataclass(frozen=True)
class Goals:
    """What a surface must reach, on a hold-out with a given number of positives.

    Shares are of the hold-out's weight, after the prior shift where there is one.

    Args:
        min_precision: target precision, or None where ``min_recall`` leads.
        min_recall: least recall.
        max_positive_rate: greatest share of rows called positive.
        max_cost: greatest mean cost a row.
        costs: cost of a false positive and of a false negative.
        class_weights: factors of positive and negative rows that stand for another base rate.
    """

    min_precision: float | None = None
    min_recall: float | None = None
    max_positive_rate: float | None = None
    max_cost: float | None = None
    costs: tuple[float, float] = (1.0, 0.0)
    class_weights: tuple[float, float] = (1.0, 1.0)

    def check(self) -> None:
        """Raises ParameterError where a goal is out of range or none is given."""
        if self.min_precision is None and self.min_recall is None:
            raise ParameterError("give min_precision, min_recall or both")
        for name in ("min_precision", "min_recall", "max_positive_rate"):
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, (int, float, np.number)) and 0 < value <= 1
            ):
                raise ParameterError(f"{name}={value!r}: must lie above 0 and at most 1")
        if self.min_precision is not None and self.min_precision >= 1:
            raise ParameterError("min_precision=1: must lie between 0 and 1, both excluded")
        if self.max_cost is not None and not self.max_cost >= 0:
            raise ParameterError(f"max_cost={self.max_cost!r}: must be at least 0")
        if len(self.costs) != 2 or min(self.costs) < 0:
            raise ParameterError(
                f"costs={self.costs!r}: give two costs of at least 0, of a false positive and of "
                "a false negative"
            )

    @property
    def raw_precision(self) -> float:
        """The precision on the hold-out as it is that amounts to the target after the shift.

        With factors w1, w0 the precision after the shift is ``w1 TP / (w1 TP + w0 FP)``: the bound
        stays a bound on the plain ratio ``TP / N``, so every method and the exact test hold.
        """
        if self.min_precision is None:
            raise ParameterError("this needs min_precision")
        w1, w0 = self.class_weights
        return (self.min_precision / w1) / (self.min_precision / w1 + (1 - self.min_precision) / w0)

    def shifted(self, rate: NDArray[np.float64]) -> NDArray[np.float64]:
        """A precision on the hold-out as it is after the shift of the base rate."""
        w1, w0 = self.class_weights
        rate = np.asarray(rate, float)
        if w1 == w0:
            return rate
        return w1 * rate / (w1 * rate + w0 * (1 - rate))

    def met(
        self,
        tp: NDArray[np.float64],
        n: NDArray[np.float64],
        positives: float,
        total: float,
        precision: bool = True,
    ) -> NDArray[np.bool_]:
        """Which of (F,) candidates meet the goals; ``precision=False`` looks at all others."""
        w1, w0 = self.class_weights
        ok = n > 0
        rows = w1 * positives + w0 * (total - positives)
        if precision and self.min_precision is not None:
            ok &= tp - self.raw_precision * n >= -TOLERANCE * np.maximum(n, 1.0)
        if self.min_recall is not None:
            ok &= tp >= self.min_recall * positives * (1 - TOLERANCE)
        if self.max_positive_rate is not None:
            ok &= w1 * tp + w0 * (n - tp) <= self.max_positive_rate * rows * (1 + TOLERANCE)
        if self.max_cost is not None:
            cost = self.costs[0] * w0 * (n - tp) + self.costs[1] * w1 * (positives - tp)
            ok &= cost <= self.max_cost * rows * (1 + TOLERANCE)
        return ok

    def choose(self, candidates: Candidates, positives: float, total: float) -> int | None:
        """The candidate with most true positives that meets the goals, or None.

        Without ``min_precision`` the one with the greatest precision.
        """
        tp, n = candidates.tp, candidates.n
        ok = np.flatnonzero(self.met(tp, n, positives, total))
        if not len(ok):
            return None
        first = tp[ok] if self.min_precision is not None else tp[ok] / n[ok]
        second = -n[ok] if self.min_precision is not None else tp[ok]
        return int(ok[np.lexsort((second, first))[-1]])
