"""Small tables for the providers."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def table():
    """``make(n, seed)``: three columns, labels from a logistic model of two of them."""

    def make(n: int, seed: int):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, 3))
        p = 1 / (1 + np.exp(-(1.5 * X[:, 0] - 1.0 * X[:, 1] - 0.5)))
        return X, (rng.random(n) < p).astype(int)

    return make
