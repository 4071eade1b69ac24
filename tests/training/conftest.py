"""A small learner and its data, for every test of training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foretell.learners.contract import Batch, Learner
from foretell.training import TensorExamples


class Linear(Learner):
    """Least squares: ``x`` (B, P) to ``y`` (B,)."""

    def __init__(self, inputs: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 1)
        self.dropout = nn.Dropout(dropout)

    def encode(self, batch: Batch) -> Tensor:
        return self.dropout(batch["x"])

    def decode(self, encoding: Tensor, batch: Batch) -> Any:
        return self.layer(encoding)[:, 0]

    def score(self, output: Any, batch: Batch) -> Tensor:
        return (output - batch["y"]) ** 2


@pytest.fixture
def linear():
    """Makes a linear learner with the same start each time."""

    def make(**options: Any) -> Linear:
        torch.manual_seed(1)
        return Linear(**options)

    return make


@pytest.fixture
def regression():
    """Tensors of a noisy linear regression with 200 examples."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 3, generator=generator)
    noise = 0.3 * torch.randn(200, generator=generator)
    return {"x": x, "y": x @ torch.tensor([1.0, -2.0, 3.0]) + 0.5 + noise}


@pytest.fixture
def examples(regression):
    """The same as examples."""
    return TensorExamples(regression)
