"""Clipping without noise: no privacy at all, for ablations."""

from __future__ import annotations

from typing import Any

from foretell.training.private import PrivateTraining


class ClippingOnly(PrivateTraining):
    """Private training but for its noise: what clipping and large batches do by themselves.

    It guarantees nothing, and its statement says epsilon infinity. Every example gets the same say
    however well it is known already, so that rare ones are learned by heart: such models can leak
    more than ordinary ones.

    Args:
        options: those of :class:`~foretell.training.private.PrivateTraining` but the noise.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(1.0, **options)
        self.noise_multiplier = 0.0
