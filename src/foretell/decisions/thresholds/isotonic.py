"""MIST: isotonic regression in every level and one global threshold; the single threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.thresholds import kernels
from foretell.decisions.thresholds.candidates import NEVER, Candidates, LevelCurves


@dataclass(frozen=True, eq=False)
class IsotonicLevels:
    """Pool-adjacent-violators blocks of every level, lowest scores first.

    Args:
        start: K arrays, lowest score of each block.
        hits: K arrays, positive weight of each block.
        mass: K arrays, weight of each block.
    """

    start: tuple[NDArray[np.float64], ...]
    hits: tuple[NDArray[np.float64], ...]
    mass: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(cls, curves: LevelCurves) -> IsotonicLevels:
        """Isotonic regression of the label on the score, level by level, unbinned."""
        starts, hits, masses = [], [], []
        for score, positive, weight in zip(
            curves.scores, curves.positive, curves.weight, strict=True
        ):
            first, hit, mass = kernels.isotonic_blocks(score, positive, weight)
            starts.append(score[first])
            hits.append(hit)
            masses.append(mass)
        return cls(tuple(starts), tuple(hits), tuple(masses))

    def rates(self, k: int) -> NDArray[np.float64]:
        """Calibrated positive rate of the blocks of level ``k``, strictly rising."""
        return self.hits[k] / self.mass[k]


def mist(blocks: IsotonicLevels) -> Candidates:
    """The nested family of MIST surfaces: blocks of all levels taken in order of falling rate.

    The longest prefix whose precision suffices is the Lagrangian solution of the problem; its loss
    of true positives against the optimum is less than those of the next block.

    Returns:
        One candidate for every prefix, the highest block alone first.
    """
    levels = len(blocks.start)
    sizes = [len(start) for start in blocks.start]
    level = np.repeat(np.arange(levels), sizes)
    rank = np.concatenate([np.arange(size, 0, -1) for size in sizes])  # 1 = highest scores
    hits = np.concatenate(blocks.hits)
    mass = np.concatenate(blocks.mass)
    order = np.lexsort((rank, level, -(hits / mass)))
    index = np.zeros((len(order), levels), np.int32)
    index[np.arange(len(order)), level[order]] = rank[order]
    np.maximum.accumulate(index, axis=0, out=index)
    cuts = tuple(np.concatenate([[NEVER], start[::-1]]) for start in blocks.start)
    tp = np.cumsum(hits[order])
    return Candidates(cuts, index, tp, np.cumsum(mass[order]))


def monotone_mist(blocks: IsotonicLevels, curves: LevelCurves, ordered: int) -> Candidates:
    """MIST where thresholds never fall from one of the first ``ordered`` levels to the next.

    For every price of a positive call the chain of thresholds with the greatest Lagrangian is found
    by dynamic programming over the block edges of all levels; the prices are the block rates. The
    chains are nested: a higher price never lowers a threshold.

    Returns:
        One candidate for every distinct chain.
    """
    grid = np.concatenate([np.unique(np.concatenate(blocks.start[:ordered])), [NEVER]])
    table = [curves.counts(k, grid) for k in range(ordered)]
    hits = np.stack([tp for tp, _ in table])
    mass = np.stack([n for _, n in table])
    prices = np.unique(np.concatenate([blocks.rates(k) for k in range(len(blocks.start))]))[::-1]
    free = range(ordered, len(blocks.start))
    cuts = tuple(
        [grid] * ordered + [np.concatenate([[NEVER], blocks.start[k][::-1]]) for k in free]
    )
    chains: list[list[int]] = []
    for price in prices:
        # slightly below the price, so that blocks whose rate it is are taken
        chain = list(kernels.best_monotone_chain(hits - price * (1 - 1e-12) * mass))
        chain += [int(np.count_nonzero(blocks.rates(k) >= price)) for k in free]
        if not chains or chain != chains[-1]:
            chains.append(chain)
    index = np.array(chains, np.int32)
    thresholds = np.column_stack([cut[index[:, k]] for k, cut in enumerate(cuts)])
    tp, n = curves.totals(thresholds)
    taken = n > 0
    return Candidates(cuts, index[taken], tp[taken], n[taken])


def single_threshold(curves: LevelCurves) -> Candidates:
    """Every cut of one level between distinct scores, highest first."""
    score = curves.scores[0]
    first = np.flatnonzero(np.append(True, score[1:] != score[:-1]))[::-1]
    index = np.arange(len(first), dtype=np.int64)[:, None]
    return Candidates((score[first],), index, curves.hits[0][first], curves.mass[0][first])
