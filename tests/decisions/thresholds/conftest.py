from __future__ import annotations

import numpy as np
import pytest

from foretell.data.simulators.evidence_cells import EvidenceDraws, evidence_cells


@pytest.fixture(scope="session")
def cells() -> tuple[EvidenceDraws, EvidenceDraws]:
    """Hold-out and test draws of 12,000 cells that learned from few or many examples."""
    return evidence_cells(cells=12_000, prior=0.2, seed=3)


@pytest.fixture(scope="session")
def small_hold_out():
    """``small_hold_out(seed, n, ties)``: scores whose reliability falls with the uncertainty."""
    return _small_hold_out


def _small_hold_out(seed: int, n: int = 600, ties: bool = False):
    rng = np.random.default_rng(seed)
    score, uncertainty = rng.random(n), rng.random(n)
    if ties:
        score, uncertainty = np.round(score, 1), np.round(uncertainty, 1)
    y = (rng.random(n) < score * (1 - 0.6 * uncertainty)).astype(int)
    y[:2] = 0, 1
    return score, uncertainty, y
