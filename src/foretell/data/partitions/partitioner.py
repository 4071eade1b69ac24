"""What every way of dividing a data set among clients has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError

Indices = NDArray[np.int64]


class Partitioner(ABC):
    """Divides a data set among clients, each example to exactly one.

    Has the verbs of ``flwr_datasets.partitioner.Partitioner``: set ``dataset`` once, then ask
    ``num_partitions`` and ``load_partition(i)``. The data set is anything with rows: a ``TextSet``,
    a polars frame, a Hugging Face ``Dataset`` (or whatever has ``select(indices)``), or an array.

    Attributes:
        notes: what was out of the ordinary, one sentence each.
    """

    def __init__(self) -> None:
        self._dataset: Any = None
        self._parts: list[Indices] | None = None
        self.notes: list[str] = []

    @property
    def dataset(self) -> Any:
        """The data set.

        Raises:
            AttributeError: it was not set yet.
        """
        if self._dataset is None:
            raise AttributeError("set .dataset before asking for partitions")
        return self._dataset

    @dataset.setter
    def dataset(self, value: Any) -> None:
        if self._dataset is not None:
            raise ParameterError(
                "a partitioner's data set can be set only once: partitions of the first one may be "
                "in use. Make another with like()"
            )
        self._dataset = value

    def is_dataset_assigned(self) -> bool:
        """Whether the data set was set."""
        return self._dataset is not None

    @property
    def num_partitions(self) -> int:
        """Number of clients."""
        return len(self.parts)

    @property
    def parts(self) -> list[Indices]:
        """Rows of each client."""
        if self._parts is None:
            self._parts = [np.asarray(part, dtype=np.int64) for part in self._divide()]
        return self._parts

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Examples of each client ``(clients,)``."""
        return np.array([len(part) for part in self.parts], dtype=np.int64)

    @property
    def clients(self) -> NDArray[np.int64]:
        """Client of each row ``(N,)``."""
        owners = np.full(row_count(self.dataset), -1, dtype=np.int64)
        for client, part in enumerate(self.parts):
            owners[part] = client
        return owners

    def load_partition(self, partition_id: int) -> Any:
        """The rows of one client, of the same type as the data set.

        Raises:
            ParameterError: there is no such client.
        """
        if not 0 <= partition_id < self.num_partitions:
            raise ParameterError(
                f"there is no partition {partition_id}: they are 0 to {self.num_partitions - 1}"
            )
        return take(self.dataset, self.parts[partition_id])

    def classes_per_client(self, labels: str | NDArray[Any]) -> NDArray[np.int64]:
        """Different labels that each client really holds ``(clients,)``.

        Args:
            labels: column of the data set, or a value for each row ``(N,)``.
        """
        values = column(self.dataset, labels)
        return np.array([len(np.unique(values[part])) for part in self.parts], dtype=np.int64)

    def summary(self, labels: str | NDArray[Any] | None = None) -> str:
        """What became of the data: clients, sizes and, of labels, classes a client."""
        sizes = self.sizes
        text = (
            f"{type(self).__name__}: {len(sizes):,} clients of {sizes.min():,} to {sizes.max():,} "
            f"examples, median {np.median(sizes):g}"
        )
        if labels is None:
            labels = getattr(self, "partition_by", None)
        if labels is not None:
            held = self.classes_per_client(labels)
            text += f"; {held.mean():.1f} classes a client ({held.min()} to {held.max()})"
        return "\n".join([text, *(f"  {note}" for note in self.notes)])

    def like(self, dataset: Any) -> Self:
        """A partitioner with these settings for another data set, such as the test part.

        Its randomness is its own, so that train and test are divided separately.
        """
        other = type(self)(**self._settings())
        other.dataset = dataset
        return other

    @abstractmethod
    def _divide(self) -> list[Indices]:
        """Rows of each client."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Arguments that make another partitioner for a second data set."""


def row_count(dataset: Any) -> int:
    """Rows of a data set."""
    return len(dataset)


def take(dataset: Any, rows: Indices) -> Any:
    """Rows of a data set, as what it is."""
    if isinstance(dataset, pl.DataFrame | np.ndarray):
        return dataset[rows]
    if hasattr(dataset, "select"):
        return dataset.select(rows)
    raise DataError(
        f"rows cannot be taken from a {type(dataset).__name__}",
        hint="Give a TextSet, a polars frame, a Hugging Face Dataset or an array",
    )


def column(dataset: Any, name: str | NDArray[Any]) -> NDArray[Any]:
    """Values of a column ``(N,)``; an array stands for itself.

    Raises:
        DataError: there is no such column, a value is missing, or lengths differ.
    """
    if not isinstance(name, str):
        values = np.asarray(name)
    else:
        frame = getattr(dataset, "frame", dataset)
        try:
            found = frame[name]
        except (KeyError, IndexError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise DataError("there is no such column to divide by", column=name) from error
        if isinstance(found, pl.Series):
            if found.null_count():
                row = int(found.is_null().arg_max() or 0)
                raise DataError("a value to divide by is missing", column=name, row=row)
            if found.dtype in (pl.Categorical, pl.Enum):
                found = found.cast(pl.String)
            values = found.to_numpy()
        else:
            values = np.asarray(found)
        if values.dtype == object:
            values = values.astype(str)
    if values.ndim != 1 or len(values) != row_count(dataset):
        raise DataError(
            f"there are {row_count(dataset)} rows but values of shape {values.shape} to divide by"
        )
    return values


def check_clients(num_partitions: int, examples: int) -> None:
    """Refuses more clients than examples."""
    if num_partitions < 1:
        raise ParameterError(f"num_partitions must be at least 1, not {num_partitions}")
    if num_partitions > examples:
        raise DataError(
            f"{num_partitions:,} clients cannot share {examples:,} examples",
            hint="Take fewer clients",
        )
