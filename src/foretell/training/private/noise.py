"""Gaussian noise on sums of gradients."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_AT_ONCE = 1 << 18


class NoiseSource:
    """Draws the noise of each step.

    Args:
        secure: noise comes from the operating system's randomness, and each number is the mean of
            four (Holohan and Braghin 2021), so that neither a seed nor the holes of floating point
            numbers give it away. Such a run cannot be repeated bit by bit.

    Attributes:
        generator: where noise comes from if not secure; torch's own where it is None.
    """

    def __init__(self, secure: bool = False) -> None:
        self.secure = secure
        self.generator: torch.Generator | None = None

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
        for parameter, total in sums.items():
            deviation = deviations[parameter]
            if self.secure:
                noise = torch.from_numpy(_secure_normal(total.numel()) * deviation)
                total += noise.view(total.shape).to(device, total.dtype)
            else:
                total += torch.empty_like(total).normal_(0, deviation, generator=self.generator)

    def normal(self, deviation: float, device: torch.device) -> float:
        """One number."""
        if self.secure:
            return float(_secure_normal(1)[0] * deviation)
        number = torch.empty((), device=device)
        return float(number.normal_(0, deviation, generator=self.generator))


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
