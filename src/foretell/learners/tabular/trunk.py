"""The body of a tabular network: numbers and embedded categories through dense layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch


class Trunk(nn.Module):
    """Dense layers with LeakyReLU, each with batch normalisation if wanted.

    The published networks of delayed feedback have 256, 256 and 128 units with batch normalisation
    (Yang et al. 2021).

    Args:
        width: numeric inputs; batch key ``numbers`` ``(B, width)``.
        cardinalities: largest code of each category; batch key ``codes`` ``(B, C)``.
        hidden_sizes: units of the layers.
        embedding: dimensions of a category.
        batch_norm: whether layers are normalised. Networks that are updated with few rows a step
            do better without.
        extra: further numeric inputs, batch key ``extra`` ``(B, extra)``: an elapsed time, say.

    Attributes:
        out: width of the encoding.
    """

    def __init__(
        self,
        width: int,
        cardinalities: Sequence[int] = (),
        hidden_sizes: Sequence[int] = (256, 256, 128),
        *,
        embedding: int = 8,
        batch_norm: bool = True,
        extra: int = 0,
    ) -> None:
        super().__init__()
        if any(size < 1 for size in hidden_sizes):
            raise ParameterError(f"hidden_sizes must be positive, not {tuple(hidden_sizes)}")
        self.embeddings = nn.ModuleList(
            nn.Embedding(cardinality + 1, embedding) for cardinality in cardinalities
        )
        self.extra = extra
        size = width + embedding * len(cardinalities) + extra
        layers: list[nn.Module] = []
        for hidden in hidden_sizes:
            layers.append(nn.Linear(size, hidden))
            if batch_norm:
                layers.append(_BatchNorm(hidden))
            layers.append(nn.LeakyReLU())
            size = hidden
        self.layers = nn.Sequential(*layers)
        self.out = size

    def forward(self, batch: Batch) -> Tensor:
        """Encoding ``(B, out)``."""
        parts = [batch["numbers"]]
        for i, embedding in enumerate(self.embeddings):
            parts.append(embedding(batch["codes"][:, i]))
        if self.extra:
            parts.append(batch["extra"])
        encoding: Tensor = self.layers(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
        return encoding


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes the running figures for a single row, which has no spread."""

    def forward(self, values: Tensor) -> Tensor:
        if self.training and len(values) == 1:
            return nn.functional.batch_norm(
                values, self.running_mean, self.running_var, self.weight, self.bias, False,
                0.0, self.eps,
            )  # fmt: skip
        return super().forward(values)


class ModuleTrunk(nn.Module):
    """Somebody's own network as a trunk: it maps numbers ``(B, width)`` to ``(B, out)``.

    Args:
        module: the network; embedded categories and extra inputs are appended to its numbers, so
            that its first layer must take the width it is given.
        width: numeric inputs.

    Raises:
        ParameterError: the module does not return ``(B, out)``.
    """

    extra = 0

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module = module
        was = module.training
        module.eval()
        try:
            with torch.no_grad():
                result = module(torch.zeros(2, width))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ParameterError(
                f"base: the module does not take numbers of shape (B, {width}): {error}"
            ) from error
        finally:
            module.train(was)
        if not isinstance(result, Tensor) or result.ndim != 2:
            raise ParameterError("base: the module must map (B, width) to a tensor (B, out)")
        self.out = int(result.shape[1])

    def forward(self, batch: Batch) -> Tensor:
        """Encoding ``(B, out)``."""
        encoding: Tensor = self.module(batch["numbers"])
        return encoding
