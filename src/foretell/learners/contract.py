"""The contract of everything that is learned by gradient: encode, decode, score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

Batch = Mapping[str, Tensor]
"""A batch: named tensors, examples first.

Standard optional keys: ``weight`` (B,), ``mask``, ``site``, ``domain``, ``client``, ``group``.
"""


class Learner(nn.Module, ABC):
    """A model that is trained on the sum of its examples' scores.

    Three verbs, so that each part of the library finds what it needs: encodings are stored and
    compared, decodings are predictions, and scores **per example** can be clipped, weighed and
    attacked.
    """

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """Represents each example: ``(B, ..., D)``."""

    @abstractmethod
    def decode(self, encoding: Tensor, batch: Batch) -> Any:
        """Predicts from a representation: a NamedTuple of tensors, examples first."""

    @abstractmethod
    def score(self, output: Any, batch: Batch) -> Tensor:
        """Loss of each example ``(B,)``, in nats or in the loss's own unit."""

    def forward(self, batch: Batch) -> Any:
        """Prediction for a batch: ``decode(encode(batch), batch)``."""
        return self.decode(self.encode(batch), batch)

    def loss(self, batch: Batch) -> Tensor:
        """Loss of each example ``(B,)``."""
        return self.score(self.forward(batch), batch)
