"""Where client data comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from foretell.errors import DataError
from foretell.training.examples import Examples


@runtime_checkable
class Clients(Protocol):
    """Clients, numbered ``0 .. n - 1``, each with examples of its own.

    Only the client's own process calls :meth:`examples`; what it holds never travels. To run on
    Ray or on SuperNodes the object is pickled to every process, so that it should hold where the
    data is rather than the data, where that matters.
    """

    def __len__(self) -> int:
        """Number of clients."""
        ...

    def examples(self, client: int) -> Examples:
        """The local training data of a client."""
        ...

    def activity(self, client: int) -> int:
        """Its number of examples ``n_k``, without building them."""
        ...


class ListedClients:
    """Clients whose examples are at hand: one entry each, None for a client without data."""

    def __init__(self, examples: Sequence[Examples | None]) -> None:
        self._examples = list(examples)

    def __len__(self) -> int:
        return len(self._examples)

    def examples(self, client: int) -> Examples:
        """The examples of a client.

        Raises:
            IndexError: the client has none.
        """
        found = self._examples[client]
        if found is None:
            raise IndexError(f"client {client} has no example")
        return found

    def activity(self, client: int) -> int:
        """Its number of examples, 0 without any."""
        found = self._examples[client]
        return 0 if found is None else len(found)


class SplitClients:
    """Clients that share one set of examples, of which each sees its own rows.

    Thousands of simulated clients then cost no more memory than their rows' numbers.

    Args:
        examples: of all clients.
        rows: rows of each client.

    Raises:
        DataError: a row that is not there.
    """

    def __init__(self, examples: Examples, rows: Sequence[Sequence[int] | np.ndarray]) -> None:
        self._examples = examples
        self._rows = [np.asarray(own, dtype=np.int64) for own in rows]
        for client, own in enumerate(self._rows):
            if own.size and not (0 <= own.min() and own.max() < len(examples)):
                raise DataError(
                    f"client {client} has rows {own.min()} to {own.max()}; there are "
                    f"{len(examples)} examples"
                )

    def __len__(self) -> int:
        return len(self._rows)

    def examples(self, client: int) -> Examples:
        """The examples of a client."""
        return _Rows(self._examples, self._rows[client])

    def activity(self, client: int) -> int:
        """Its number of examples."""
        return len(self._rows[client])


class _Rows:
    """Some rows of a set of examples."""

    def __init__(self, examples: Examples, rows: np.ndarray) -> None:
        self._examples, self._rows = examples, rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        return self._examples.batch(self._rows[indices], rng)
