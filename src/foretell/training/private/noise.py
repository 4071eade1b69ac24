"""Gaussian noise on sums of gradients."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class NoiseSource:
    """Draws the noise of each step.

    Args:
        secure: noise and samples come from the operating system's randomness, and each number is
            the mean of four (Holohan and Braghin 2021), so that neither the seed nor the holes of
            floating point numbers give it away. Such a run cannot be repeated bit by bit.
    """

    def __init__(self, secure: bool = False) -> None:
        self.secure = secure

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
        generator = self._generator(device)
        for parameter, total in sums.items():
            deviation = deviations[parameter]
            if not self.secure:
                noise = torch.empty_like(total).normal_(0, deviation)
            else:
                noise = torch.zeros_like(total)
                for _ in range(4):
                    noise += torch.empty_like(total).normal_(0, deviation / 2, generator=generator)
            total += noise

    def normal(self, deviation: float, device: torch.device) -> float:
        """One number."""
        generator = self._generator(device)
        return float(torch.empty((), device=device).normal_(0, deviation, generator=generator))

    def _generator(self, device: torch.device) -> torch.Generator | None:
        if not self.secure:
            return None
        return torch.Generator(device).manual_seed(secrets.randbits(63))
