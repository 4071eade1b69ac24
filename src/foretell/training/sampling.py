"""Randomness as a pure function of seed and step, so that resuming needs no generator's state."""

from __future__ import annotations

import numpy as np
import torch

from foretell.errors import DataError

# Independent streams of one seed: what each kind of draw is keyed with.
EPOCH, DRAW, STEP, TORCH, VALIDATION = range(5)


def generator(seed: int, *key: int) -> np.random.Generator:
    """The generator of ``seed`` for one purpose, step and process."""
    return np.random.default_rng(_sequence(seed, *key))


def _sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """A spawned sequence: a list of seed and key would make ``(1,)`` and ``(1, 0)`` the same."""
    return np.random.SeedSequence(seed, spawn_key=key)


def seed_torch(device: torch.device, seed: int, *key: int) -> None:
    """Sets torch's global generators for one purpose, step and process.

    ``torch.manual_seed`` would do, but records a stack for each kind of device that is not there,
    which costs as much as a small model's step.
    """
    number = int(_sequence(seed, TORCH, *key).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


class Sampler:
    """Which examples each step takes.

    Without weights, the stream of examples is one permutation after the other, and a step takes
    the next ``size`` of it: every example is seen equally often. With weights, each step draws
    with replacement.

    Args:
        length: number of examples ``N``.
        size: examples a step.
        seed: seed of the run.
        weights: ``(N,)`` relative chances, or None.

    Raises:
        DataError: no examples, or weights that are no chances.
    """

    def __init__(
        self, length: int, size: int, seed: int, weights: np.ndarray | None = None
    ) -> None:
        if length < 1:
            raise DataError("there is no example to train on")
        self.length, self.size, self.seed = length, size, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        self._cumulative: np.ndarray | None = None
        if weights is not None:
            weights = np.asarray(weights, dtype=np.float64)
            if weights.shape != (length,):
                raise DataError(
                    f"sampling weights have shape {weights.shape}",
                    hint=f"One weight for each of the {length} examples is needed.",
                )
            bad = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
            if bad.size:
                raise DataError(
                    f"a sampling weight is {weights[bad[0]]}",
                    row=int(bad[0]),
                    hint="Weights must be finite and not negative.",
                )
            if weights.sum() <= 0:
                raise DataError("all sampling weights are 0: no example can be drawn")
            self._cumulative = np.cumsum(weights)
            self._cumulative /= self._cumulative[-1]

    def indices(self, step: int) -> np.ndarray:
        """Examples ``(size,)`` of a step."""
        if self._cumulative is not None:
            draws = generator(self.seed, DRAW, step).random(self.size)
            # "right", so that an example of weight 0 (an empty interval) is never hit.
            return np.searchsorted(self._cumulative, draws, side="right")
        start, end = step * self.size, (step + 1) * self.size
        parts = []
        while start < end:
            epoch, offset = divmod(start, self.length)
            part = self._permutation(epoch)[offset : offset + end - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = generator(self.seed, EPOCH, epoch).permutation(self.length)
            self._epoch = epoch
        return self._order
