"""Clients that the data themselves name: authors, sources, stores, speakers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.partitions.partitioner import Indices, Partitioner, column


class Natural(Partitioner):
    """One client for each value of a column, in sorted order.

    Args:
        partition_by: column of ids, or an id for each row ``(N,)``.

    Attributes:
        names: the id of each client, once it is divided.
    """

    def __init__(self, partition_by: str | NDArray[Any]) -> None:
        super().__init__()
        self.partition_by = partition_by
        self.names: NDArray[Any] = np.zeros(0, dtype=str)

    def summary(self, labels: str | NDArray[Any] | None = None) -> str:
        """What became of the data; ids are no labels."""
        if labels is not None:
            return super().summary(labels)
        sizes = self.sizes
        return (
            f"Natural: {len(sizes):,} clients of {sizes.min():,} to {sizes.max():,} examples, "
            f"median {np.median(sizes):g}"
        )

    def _settings(self) -> dict[str, Any]:
        return {"partition_by": self.partition_by}

    def _divide(self) -> list[Indices]:
        values = column(self.dataset, self.partition_by)
        self.names, owners = np.unique(values, return_inverse=True)
        order = np.argsort(owners, kind="stable")
        return list(np.split(order, np.cumsum(np.bincount(owners))[:-1]))
