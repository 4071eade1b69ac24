"""Cells of very unequal evidence: where equal scores hide unequal certainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EvidenceDraws:
    """Draws from cells, with what a model that counted in training says of each.

    Args:
        score: (n,) mean of the cell's Beta posterior.
        uncertainty: (n,) its standard deviation.
        y: (n,) int8 outcome of the draw.
        theta: (n,) true rate of the cell: the expected value of ``y``.
        cell: (n,) which cell was drawn from.
        alpha: (n, 2) parameters of the posterior: positive, negative.
    """

    score: FloatArray
    uncertainty: FloatArray
    y: NDArray[np.int8]
    theta: FloatArray
    cell: NDArray[np.int64]
    alpha: FloatArray

    def __len__(self) -> int:
        return len(self.score)

    def select(self, rows: NDArray) -> EvidenceDraws:
        """The draws at given positions or under a mask."""
        return EvidenceDraws(
            self.score[rows],
            self.uncertainty[rows],
            self.y[rows],
            self.theta[rows],
            self.cell[rows],
            self.alpha[rows],
        )


def evidence_cells(
    *,
    cells: int = 40_000,
    draws: int = 6,
    prior: float = 0.2,
    base_rate: float = 0.1,
    concentration: float = 2.0,
    negative_sampling: float = 1.0,
    split: Literal["draw", "cell"] = "draw",
    seed: int = 0,
) -> tuple[EvidenceDraws, EvidenceDraws]:
    """Hold-out and test draws from cells whose rate was learned from few or many examples.

    Rates are Beta(xi kappa, (1 - xi) kappa). The training count n of a cell is
    1 + Geometric(1/5) (on 1, 2, ...) for 70 % of them and log-uniform on 50 to 400 for the
    others; k of n are positive, and each negative is kept with probability 1 / tau. The model
    says Beta(a + k, a + negatives): its mean is the score, its standard deviation the uncertainty.

    Args:
        cells: number of cells C.
        draws: draws a cell, half of them hold-out and half test.
        prior: a; the smaller, the more a few examples persuade the model.
        base_rate: xi.
        concentration: kappa.
        negative_sampling: tau >= 1.
        split: ``"draw"``: every cell gives half of its draws to each part; ``"cell"``: every cell
            gives all draws to one part, so that the test part has cells never seen.
        seed: the same seed gives the same draws.

    Returns:
        Hold-out and test draws, each in random order.
    """
    if cells < 2 or draws < 1 or (split == "draw" and draws % 2):
        raise ParameterError(
            "at least 2 cells and 1 draw are needed, and an even number of draws under split='draw'"
        )
    if split not in ("draw", "cell"):
        raise ParameterError(f"split must be 'draw' or 'cell', not {split!r}")
    if not (0 < base_rate < 1 and concentration > 0 and prior > 0 and negative_sampling >= 1):
        raise ParameterError(
            "base_rate must lie in (0, 1), concentration and prior be positive and "
            "negative_sampling at least 1"
        )
    rng = np.random.default_rng(seed)
    theta = rng.beta(base_rate * concentration, (1 - base_rate) * concentration, cells)
    few = 1 + rng.geometric(1 / 5, cells)
    many = np.exp(rng.uniform(np.log(50), np.log(400), cells)).astype(np.int64)
    count = np.where(rng.random(cells) < 0.7, few, many)
    positive = rng.binomial(count, theta)
    negative = rng.binomial(count - positive, 1 / negative_sampling)
    alpha = np.stack([prior + positive, prior + negative], axis=1)
    total = alpha.sum(1)
    score = alpha[:, 0] / total
    uncertainty = np.sqrt(alpha.prod(1) / (total**2 * (total + 1)))
    y = (rng.random((cells, draws)) < theta[:, None]).astype(np.int8)
    held = np.zeros((cells, draws), bool)
    if split == "draw":
        held[:, : draws // 2] = True
    else:
        held[rng.permutation(cells)[: cells // 2]] = True
    cell = np.broadcast_to(np.arange(cells)[:, None], y.shape)

    def part(mask: NDArray[np.bool_]) -> EvidenceDraws:
        c, outcome = cell[mask], y[mask]
        order = rng.permutation(len(c))
        c, outcome = c[order], outcome[order]
        return EvidenceDraws(score[c], uncertainty[c], outcome, theta[c], c, alpha[c])

    return part(held), part(~held)
