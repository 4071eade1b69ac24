"""Gaussian noise on sums of gradients."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foretell.errors import ParameterError, TrainingError

_AT_ONCE = 1 << 18
_OWN = 7919
DRAW_STREAM, SLOT_STREAM, _NOISE = range(3)


class NoiseSource:
    """Draws the noise of each step.

    Args:
        secure: noise comes from the operating system's randomness, and each number is the mean of
            four (Holohan and Braghin 2021), so that neither a seed nor the holes of floating point
            numbers give it away. Such a run cannot be repeated bit by bit.
        seed: of the noise, which whoever knows it can draw again and take off: for runs that must
            be repeated. None for 128 bits of the operating system's randomness, the same all
            through a run, so that one that was killed goes on as if it had not been.

    Attributes:
        secret: what noise follows from if not secure; None before :meth:`start`.
    """

    def __init__(self, secure: bool = False, seed: int | None = None) -> None:
        if seed is not None and seed < 0:
            raise ParameterError(f"noise_seed must not be negative, not {seed}")
        self.secure, self.seed = secure, seed
        self.secret: int | None = None
        self._run = 0
        self._numbers: np.random.Generator | None = None

    def fresh(self) -> int:
        """A new secret, or the seed."""
        return secrets.randbits(128) if self.seed is None else self.seed

    def start(self, secret: int, run: int = 0) -> None:
        """Begins a run, which may be one of several with one seed.

        Args:
            secret: what its noise follows from.
            run: which of them; the same noise on two sums would be taken off by their difference.
        """
        self.secret, self._run, self._numbers = secret, run, None

    def begin(self, step: int) -> None:
        """The next numbers are those of a step."""
        self._numbers = None if self.secure else self.stream(_NOISE, step)

    def stream(self, purpose: int, step: int) -> np.random.Generator:
        """Numbers for a purpose and step, of nothing but chance where the source is secure."""
        if self.secure:
            return np.random.default_rng(secrets.randbits(128))
        if self.secret is None:
            self.start(self.fresh())
        key = (_OWN, self._run, purpose, step)
        return np.random.default_rng(np.random.SeedSequence(self.secret, spawn_key=key))

    def add(
        self,
        sums: Mapping[nn.Parameter, Tensor],
        deviations: Mapping[nn.Parameter, float],
        device: torch.device,
    ) -> None:
        """Adds independent normal noise to each sum, in place.

        Args:
            sums: parameter -> sum.
            deviations: parameter -> standard deviation.
            device: of the sums.
        """
        card = None
        for parameter, total in sums.items():
            deviation = deviations[parameter]
            if self.secure:
                noise = torch.from_numpy(_secure_normal(total.numel()) * deviation)
            elif total.device.type == "cuda":
                if card is None:
                    # Of a card's generator all 63 bits count; of a processor's only 32 would.
                    number = int(self._stream().integers(2**63))
                    card = torch.Generator(total.device).manual_seed(number)
                total += torch.empty_like(total).normal_(0, deviation, generator=card)
                continue
            else:
                kind = np.float64 if total.dtype == torch.float64 else np.float32
                drawn = self._stream().standard_normal(total.numel(), kind)
                noise = torch.from_numpy(drawn) * deviation
            total += noise.view(total.shape).to(device, total.dtype)

    def normal(self, deviation: float, device: torch.device) -> float:
        """One number."""
        if self.secure:
            return float(_secure_normal(1)[0] * deviation)
        return float(self._stream().standard_normal() * deviation)

    def _stream(self) -> np.random.Generator:
        if self._numbers is None:
            self._numbers = self.stream(_NOISE, 0)
        return self._numbers

    def state_dict(self) -> dict[str, str | int]:
        """What the noise follows from: a secret."""
        return {"secret": "" if self.secret is None else hex(self.secret), "run": self._run}

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Takes it back.

        Raises:
            TrainingError: it is of another seed than this one's.
        """
        if not state["secret"]:
            return
        secret = int(str(state["secret"]), 16)
        if self.seed is not None and secret != self.seed:
            raise TrainingError("the state is of a training with another noise_seed")
        self.start(secret, int(state["run"]))


def _secure_normal(count: int) -> NDArray[np.float64]:
    """Standard normal numbers ``(count,)``, none of which follows from a seed.

    A seeded generator of torch would not do: on a CPU it takes 32 bits of its seed.
    """
    parts = []
    for begin in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - begin)
        bits = np.frombuffer(secrets.token_bytes(32 * size), np.uint64).reshape(2, 2, size)
        uniform = (bits >> np.uint64(11)).astype(np.float64)
        # Box and Muller 1958: two uniform numbers make two normal ones.
        radius = np.sqrt(-2 * np.log((uniform[0] + 1) * 2.0**-53))
        angle = 2 * np.pi * 2.0**-53 * uniform[1]
        parts.append((radius * (np.cos(angle) + np.sin(angle))).sum(0) / 2)
    return np.concatenate([*parts, np.zeros(0)])
