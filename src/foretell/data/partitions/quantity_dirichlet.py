"""Clients of different sizes and the same kind of content."""

from __future__ import annotations

from typing import Any

import numpy as np

from foretell.data.partitions.label_dirichlet import _whole
from foretell.data.partitions.partitioner import Indices, Partitioner, check_clients, row_count
from foretell.errors import DataError, ParameterError

_ATTEMPTS = 1000


class QuantityDirichlet(Partitioner):
    """Sizes from Dir(beta, ..., beta), examples at random; redrawn until every client has one.

    Args:
        num_partitions: clients.
        beta: concentration of sizes; less is more skewed.
        min_partition_size: fewest examples of a client.
        seed: of all draws.

    Raises:
        ParameterError: beta is not positive.
    """

    def __init__(
        self, num_partitions: int, beta: float = 5.0, *, min_partition_size: int = 1, seed: int = 42
    ) -> None:
        super().__init__()
        if not (np.isfinite(beta) and beta > 0):
            raise ParameterError(f"beta must be positive, not {beta}")
        self.clients_asked = num_partitions
        self.beta = beta
        self.min_partition_size = min_partition_size
        self.seed = seed

    def _settings(self) -> dict[str, Any]:
        return {
            "num_partitions": self.clients_asked,
            "beta": self.beta,
            "min_partition_size": self.min_partition_size,
            "seed": self.seed,
        }

    def _divide(self) -> list[Indices]:
        total, clients = row_count(self.dataset), self.clients_asked
        check_clients(clients * max(1, self.min_partition_size), total)
        rng = np.random.default_rng(self.seed)
        for _ in range(_ATTEMPTS):
            shares = rng.dirichlet(np.full(clients, self.beta))
            if not np.isfinite(shares).all():
                continue
            sizes = _whole(shares * total, total)
            if sizes.min() >= self.min_partition_size:
                order = rng.permutation(total)
                return list(np.split(order, np.cumsum(sizes)[:-1]))
        raise DataError(
            f"{_ATTEMPTS} draws of sizes left a client with fewer than {self.min_partition_size} "
            "examples",
            hint="Raise beta or take fewer clients",
        )
