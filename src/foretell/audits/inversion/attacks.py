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
_Doubles = NDArray[np.float64]

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
"""Of the ridge regression, per row: the attacker chooses one a feature by rows held out."""

_HELD = 0.2
_FURTHEST = 8.0
"""Standard deviations beyond which the network sees no further: one row of a unit that is nearly
always silent would otherwise shout down all others."""


class Inversion(NamedTuple):
    """What an attack read off the stored representations.

    Attributes:
        guess: (M, F) features it guesses, none outside of what the attacker has ever seen.
        r2: (F,) share of each feature's variance that the guess explains, about the true mean; 0
            where the feature does not vary, never above 1.
        held_out: (F,) the same on the attacker's own rows that were held out, by which he chose.
    """

    guess: FloatArray
    r2: _Doubles
    held_out: _Doubles


def ridge_inversion(
    known: FloatArray, known_rows: FloatArray, stored: FloatArray, truth: FloatArray
) -> Inversion:
    """A ridge regression from representations to features, each with a penalty of its own.

    The last fifth of the pairs is held out to choose by: rows of one patient should follow one
    another, so that nobody is on both sides.

    Args:
        known: (A, D) representations as the attacker has them, released like the stored ones.
        known_rows: (A, F) the features they belong to.
        stored: (M, D) that are attacked.
        truth: (M, F) their features.

    Raises:
        DataError: too few pairs to learn from.
    """
    pairs = _Pairs(known, known_rows)
    line = _Line(pairs)
    guess = pairs.features(pairs.inputs(stored) @ line.whole)
    return Inversion(guess, _explained(truth, guess), line.held_out)


def network_inversion(
    known: FloatArray,
    known_rows: FloatArray,
    stored: FloatArray,
    truth: FloatArray,
    *,
    hidden: int = 256,
    steps: int = 2000,
    seed: int = 0,
) -> Inversion:
    """The ridge regression and what a network adds to it; arguments as :func:`ridge_inversion`.

    The network starts as the line and is trained with weight decay at a small rate, until pairs
    held out say that it no longer gains. Each feature then takes as much of the difference between
    network and line as serves it there: nothing, where the network only learned its own pairs by
    heart. What it reads is therefore no less than what the line does, but for chance.

    Args:
        known: see there.
        known_rows: see there.
        stored: see there.
        truth: see there.
        hidden: units.
        steps: at most.
        seed: of the network.

    Raises:
        DataError: too few pairs to learn from.
    """
    pairs = _Pairs(known, known_rows)
    line = _Line(pairs)
    x, y, cut = pairs.x, pairs.y, pairs.cut
    near = _tensor(np.clip(x, -_FURTHEST, _FURTHEST))
    wanted = _tensor(np.clip(y, -_FURTHEST, _FURTHEST))
    base = x @ line.part
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = _Inverse(_tensor(line.part), hidden)
    fit(
        learner, TensorExamples({"h": near[:cut], "y": wanted[:cut]}),
        validation=TensorExamples({"h": near[cut:], "y": wanted[cut:]}),
        max_steps=steps, batch_size=min(128, cut), learning_rate=5e-4, weight_decay=0.3,
        validate_every=25, patience=6, seed=seed,
    )  # fmt: skip
    beyond = learner.guesses(near[cut:]) - base[cut:]
    left = y[cut:] - base[cut:]
    size = (beyond**2).sum(axis=0)
    share = np.clip((beyond * left).sum(axis=0) / np.where(size > 0, size, 1.0), 0.0, 1.0)
    held_out = _explained(y[cut:], base[cut:] + share * beyond)
    z = pairs.inputs(stored)
    seen = learner.guesses(_tensor(np.clip(z, -_FURTHEST, _FURTHEST)))
    guess = pairs.features(z @ line.whole + share * (seen - z @ line.part))
    return Inversion(guess, _explained(truth, guess), held_out)


class _Pairs:
    """The attacker's pairs, standardised; the last fifth is held out."""

    def __init__(self, known: FloatArray, known_rows: FloatArray) -> None:
        if len(known) < 20:
            raise DataError(f"an attacker needs pairs to learn from, there are {len(known)}")
        self.cut = int((1 - _HELD) * len(known))
        spread = known.std(axis=0, dtype=np.float64)
        floor = 0.05 * float(np.median(spread[spread > 0])) if spread.any() else 1.0
        self._centre, self._scale = known.mean(axis=0, dtype=np.float64), np.maximum(spread, floor)
        self._middle = known_rows.mean(axis=0, dtype=np.float64)
        self._spread = known_rows.std(axis=0, dtype=np.float64)
        self._spread[self._spread < 1e-6] = 1.0
        self._low, self._high = known_rows.min(axis=0), known_rows.max(axis=0)
        self.x, self.y = self.inputs(known), (known_rows - self._middle) / self._spread

    def inputs(self, h: FloatArray) -> _Doubles:
        """(M, D) standardised representations."""
        return np.asarray((h - self._centre) / self._scale, np.float64)

    def features(self, y: _Doubles) -> FloatArray:
        """(M, F) features of standardised guesses, within the range the attacker knows."""
        guess = np.clip(y * self._spread + self._middle, self._low, self._high)
        return np.asarray(guess, np.float32)


class _Line:
    """Ridge regressions by feature.

    Attributes:
        part: (D, F) weights from the pairs that are not held out.
        whole: (D, F) from all, with the same penalties.
        held_out: (F,) what ``part`` explains of the pairs held out.
    """

    def __init__(self, pairs: _Pairs) -> None:
        x, y, cut = pairs.x, pairs.y, pairs.cut
        self.part, best = np.zeros((x.shape[1], y.shape[1])), np.full(y.shape[1], -np.inf)
        chosen = np.full(y.shape[1], PENALTIES[-1])
        for penalty in PENALTIES:
            weights = _ridge(x[:cut], y[:cut], penalty)
            found = _explained(y[cut:], x[cut:] @ weights)
            better = found > best
            best, chosen = np.where(better, found, best), np.where(better, penalty, chosen)
            self.part[:, better] = weights[:, better]
        self.held_out = best
        self.whole = np.empty_like(self.part)
        for penalty in np.unique(chosen):
            these = chosen == penalty
            self.whole[:, these] = _ridge(x, y[:, these], float(penalty))


class _Guess(NamedTuple):
    guess: Tensor


class _Inverse(Learner):
    """A line and two layers beside it, from a representation to standardised features."""

    def __init__(self, line: Tensor, hidden: int) -> None:
        super().__init__()
        inputs, outputs = line.shape
        self.line = nn.Linear(inputs, outputs, bias=False)
        self.body = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(hidden, outputs)
        with torch.no_grad():
            self.line.weight.copy_(line.T)
            self.head.weight.zero_()
            self.head.bias.zero_()

    def encode(self, batch: Batch) -> Tensor:
        return torch.cat([self.line(batch["h"]), self.body(batch["h"])], dim=1)

    def decode(self, encoding: Tensor, batch: Batch) -> _Guess:
        width = self.line.out_features
        return _Guess(encoding[:, :width] + self.head(encoding[:, width:]))

    def score(self, output: _Guess, batch: Batch) -> Tensor:
        return (output.guess - batch["y"]).square().mean(dim=1)

    def guesses(self, h: Tensor) -> _Doubles:
        """(M, F) standardised guesses."""
        with torch.inference_mode():
            return np.asarray(self({"h": h}).guess.numpy(), np.float64)


def _tensor(values: _Doubles) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _ridge(x: _Doubles, y: _Doubles, penalty: float) -> _Doubles:
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += penalty * len(x)
    return np.asarray(np.linalg.solve(gram, x.T @ y), np.float64)


def _explained(truth: NDArray, guess: NDArray) -> _Doubles:
    """(F,) 1 - residual / total variance."""
    truth = np.asarray(truth, np.float64)
    residual = ((truth - guess) ** 2).mean(axis=0)
    total = truth.var(axis=0)
    varies = total > 1e-8
    found = 1 - residual / np.where(varies, total, 1.0)
    return np.where(varies, found, 0.0)
