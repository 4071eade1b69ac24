"""Simulated problems with known quantiles: presence matters (S1) and product lines (S2)."""

from __future__ import annotations

import numpy as np
from scipy import sparse, stats

LEVELS = np.arange(1, 10) / 10


def presence_matters(n: int, seed: int, noise: int = 40):
    """S1: the first feature's presence, zero and value set the mean of a Gamma response.

    Returns features (absent = not stored), responses and the conditional means.
    """
    rng = np.random.default_rng(seed)
    present = rng.uniform(size=(n, 1 + noise)) < 0.5
    values = np.where(rng.uniform(size=present.shape) < 0.3, 0.0, rng.normal(size=present.shape))
    x, there = values[:, 0], present[:, 0]
    mean = np.where(there, np.where(x == 0, 2.0, 2.0 * np.exp(x)), 8.0)
    y = rng.gamma(4.0, mean / 4)
    rows, columns = np.nonzero(present)
    X = sparse.csr_array((values[rows, columns], (rows, columns)), shape=present.shape)
    return X, y, mean


def product_lines(seed: int, sizes: np.ndarray, *, shared: bool = True):
    """S2: lines of falling size; a shared smooth part plus effects of each line's own features.

    With ``shared=False`` all lines have the same features and each its own meaning for them, so
    that there is nothing to pool.

    Returns features, responses, line of each row and the conditional means.
    """
    design = np.random.default_rng(77)
    n_lines, vocabulary, own = len(sizes), 60, 10
    owned = [design.choice(vocabulary, own, replace=False) for _ in sizes]
    kind = design.integers(0, 3, size=(n_lines, vocabulary))
    strength = design.uniform(0.1, 0.3, size=(n_lines, vocabulary)) * design.choice(
        [-1, 1], size=(n_lines, vocabulary)
    )
    if not shared:
        owned = [owned[0]] * n_lines  # or a line would show in what is present
    else:
        kind[:], strength[:] = kind[0], strength[0]
    rng = np.random.default_rng(seed)
    line = np.repeat(np.arange(n_lines), sizes)
    n = len(line)
    dense = rng.normal(size=(n, 6))
    sparse_part = np.full((n, vocabulary), np.nan)
    effect = np.sin(1.5 * dense[:, 0]) + 0.5 * dense[:, 1] * (dense[:, 2] > 0)
    sign = np.ones(n_lines) if shared else design.choice([-1.0, 1.0], size=n_lines)
    effect *= sign[line]
    for g in range(n_lines):
        here = np.flatnonzero(line == g)
        z = rng.normal(size=(len(here), own))
        sparse_part[np.ix_(here, owned[g])] = z
        for k, column in enumerate(owned[g]):
            shapes = (z[:, k], np.abs(z[:, k]) - 0.8, np.where(z[:, k] > 0, 0.8, -0.8))
            effect[here] += strength[g, column] * shapes[kind[g, column]]
    mean = 5 * np.exp(effect)
    y = rng.gamma(6.0, mean / 6)
    X = np.concatenate([dense, sparse_part], axis=1)
    return X, y, line, mean


def expected_pinball(quantiles: np.ndarray, mean: np.ndarray, shape: float) -> float:
    """Expected pinball loss, mean over rows and levels, under the true Gamma distribution.

    ``E rho_q(Y, f) = q (E Y - f) + f F_k(f) - E Y F_{k+1}(f)`` with shape ``k``: the noise of drawn
    test responses, heavy in these problems, stays out of the comparison.
    """
    z = quantiles * shape / mean[:, None]
    low = stats.gamma.cdf(z, shape) * quantiles - mean[:, None] * stats.gamma.cdf(z, shape + 1)
    return float((LEVELS * (mean[:, None] - quantiles) + low).mean())


def true_quantiles(mean: np.ndarray, shape: float) -> np.ndarray:
    """Quantiles ``(n, 9)`` of Gamma responses."""
    return mean[:, None] * stats.gamma.ppf(LEVELS, shape) / shape


def regret(quantiles: np.ndarray, mean: np.ndarray, shape: float) -> float:
    """Expected pinball loss above that of the true quantiles, as a share of it."""
    best = expected_pinball(true_quantiles(mean, shape), mean, shape)
    return expected_pinball(quantiles, mean, shape) / best - 1
