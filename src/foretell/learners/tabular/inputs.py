"""Columns of a table as the inputs of a network: standardised numbers and embedded codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foretell.errors import ParameterError


class TabularInputs(nn.Module):
    """Standardises numeric columns and embeds categorical ones.

    Args:
        n_features: columns d of the table.
        cardinalities: column number -> number of codes; codes run from 0, and any code that is
            not among them, negative or too large, counts as code 0 (unknown).
        embedding_size: width of each embedding; ``min(32, round(1.6 n^0.56))`` of the number of
            codes ``n`` when None.

    Attributes:
        width: of what :meth:`forward` returns.

    Raises:
        ParameterError: a column outside the table, or without codes.
    """

    def __init__(
        self,
        n_features: int,
        cardinalities: Mapping[int, int] | None = None,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        self.cardinalities = dict(sorted((cardinalities or {}).items()))
        for column, codes in self.cardinalities.items():
            if not 0 <= column < n_features or codes < 1:
                raise ParameterError(
                    f"categorical column {column} with {codes} codes: a column of the "
                    f"{n_features} and at least one code are needed"
                )
        numeric = [c for c in range(n_features) if c not in self.cardinalities]
        self.mean: Tensor
        self.scale: Tensor
        self.numeric: Tensor
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.long), persistent=False)
        self.register_buffer("mean", torch.zeros(len(numeric)))
        self.register_buffer("scale", torch.ones(len(numeric)))
        sizes = [
            min(32, max(1, round(1.6 * codes**0.56))) if embedding_size is None else embedding_size
            for codes in self.cardinalities.values()
        ]
        self.embeddings = nn.ModuleList(
            nn.Embedding(codes, size)
            for codes, size in zip(self.cardinalities.values(), sizes, strict=True)
        )
        self.width = len(numeric) + sum(sizes)

    def learn(self, X: NDArray, sample_weight: NDArray | None = None) -> None:
        """Takes mean and standard deviation of the numeric columns from a table ``(n, d)``."""
        values = np.asarray(X, np.float64)[:, self.numeric.cpu().numpy()]
        mean = np.average(values, axis=0, weights=sample_weight)
        spread = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=sample_weight))
        # A column that does not vary carries nothing; rounding may leave it a spread of its own.
        flat = spread <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
        self.mean.copy_(torch.as_tensor(mean))
        self.scale.copy_(torch.as_tensor(np.where(flat, 1.0, spread)))

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``(B, width)`` of a table ``(B, d)``."""
        parts = [(x[:, self.numeric] - self.mean) / self.scale]
        for (column, codes), embedding in zip(
            self.cardinalities.items(), self.embeddings, strict=True
        ):
            code = x[:, column].long()
            parts.append(embedding(torch.where((code >= 0) & (code < codes), code, 0)))
        return torch.cat(parts, dim=-1)


def count_codes(X: NDArray, columns: Sequence[int]) -> dict[int, int]:
    """Number of codes of each categorical column of a table ``(n, d)``: its largest plus one."""
    return {int(c): int(np.asarray(X[:, c], np.int64).max(initial=0)) + 1 for c in columns}
