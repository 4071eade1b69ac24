"""Reading features off representations, with pairs of an attacker's own to learn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foretell.errors import DataError
from foretell.learners.contract import Batch, Learner
from foretell.training import TensorExamples, fit

FloatArray = NDArray[np.float32]

PENALTIES = (1e-3, 1e-1, 1e1, 1e3)
"""Of the ridge regression, per row: the attacker chooses by a part of his own rows."""


class Inversion(NamedTuple):
    """What an attack read off the stored representations.

    Attributes:
        guess: (M, F) features it guesses.
        r2: (F,) share of each feature's variance that the guess explains, about the true mean; 0
            where the feature does not vary, never above 1.
    """

    guess: FloatArray
    r2: NDArray[np.float64]


def ridge_inversion(
    known: FloatArray, known_rows: FloatArray, stored: FloatArray, truth: FloatArray
) -> Inversion:
    """A ridge regression from representations to features.

    Args:
        known: (A, D) representations as the attacker has them, released like the stored ones.
        known_rows: (A, F) the features they belong to.
        stored: (M, D) that are attacked.
        truth: (M, F) their features.

    Raises:
        DataError: too few pairs to learn from.
    """
    if len(known) < 20:
        raise DataError(f"an attacker needs pairs to learn from, there are {len(known)}")
    centre, scale = known.mean(axis=0), known.std(axis=0) + 1e-6
    x = ((known - centre) / scale).astype(np.float64)
    middle = known_rows.mean(axis=0)
    y = (known_rows - middle).astype(np.float64)
    cut = int(0.8 * len(x))
    best: tuple[float, float] = (-np.inf, PENALTIES[0])
    for penalty in PENALTIES:
        weights = _ridge(x[:cut], y[:cut], penalty)
        found = _explained(y[cut:], x[cut:] @ weights)
        best = max(best, (float(found.mean()), penalty))
    weights = _ridge(x, y, best[1])
    guess = ((stored - centre) / scale) @ weights + middle
    return Inversion(guess.astype(np.float32), _explained(truth, guess))


def network_inversion(
    known: FloatArray,
    known_rows: FloatArray,
    stored: FloatArray,
    truth: FloatArray,
    *,
    hidden: int = 128,
    steps: int = 600,
    seed: int = 0,
) -> Inversion:
    """A small network from representations to features; arguments as :func:`ridge_inversion`."""
    if len(known) < 20:
        raise DataError(f"an attacker needs pairs to learn from, there are {len(known)}")
    centre, scale = known.mean(axis=0), known.std(axis=0) + 1e-6
    middle, spread = known_rows.mean(axis=0), known_rows.std(axis=0) + 1e-6
    x = torch.from_numpy(((known - centre) / scale).astype(np.float32))
    y = torch.from_numpy(((known_rows - middle) / spread).astype(np.float32))
    cut = int(0.8 * len(x))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = _Inverse(x.shape[1], hidden, y.shape[1])
    fit(
        learner, TensorExamples({"h": x[:cut], "y": y[:cut]}),
        validation=TensorExamples({"h": x[cut:], "y": y[cut:]}),
        max_steps=steps, batch_size=min(256, cut), learning_rate=2e-3, weight_decay=1e-2,
        validate_every=100, seed=seed,
    )  # fmt: skip
    with torch.inference_mode():
        z = learner({"h": torch.from_numpy(((stored - centre) / scale).astype(np.float32))})
    guess = z.guess.numpy() * spread + middle
    return Inversion(guess.astype(np.float32), _explained(truth, guess))


class _Guess(NamedTuple):
    guess: Tensor


class _Inverse(Learner):
    """Two layers from a representation to standardised features."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(hidden, outputs)

    def encode(self, batch: Batch) -> Tensor:
        return self.body(batch["h"])

    def decode(self, encoding: Tensor, batch: Batch) -> _Guess:
        return _Guess(self.head(encoding))

    def score(self, output: _Guess, batch: Batch) -> Tensor:
        return (output.guess - batch["y"]).square().mean(dim=1)


def _ridge(x: NDArray[np.float64], y: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += penalty * len(x)
    return np.asarray(np.linalg.solve(gram, x.T @ y), np.float64)


def _explained(truth: NDArray, guess: NDArray) -> NDArray[np.float64]:
    """(F,) 1 - residual / total variance."""
    truth = np.asarray(truth, np.float64)
    residual = ((truth - guess) ** 2).mean(axis=0)
    total = truth.var(axis=0)
    varies = total > 1e-8
    found = 1 - residual / np.where(varies, total, 1.0)
    return np.where(varies, found, 0.0)
