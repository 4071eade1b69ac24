"""Canary clients: whole clients that are in a federation by the flip of a coin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foretell.audits.dp.canaries import WithCanaries
from foretell.audits.dp.one_run import Method, audit_one_run
from foretell.audits.dp.result import LowerBound
from foretell.errors import ParameterError
from foretell.training import Examples


class PlantedClients:
    """The clients of a federation, followed by canaries; those whose coin says so never answer.

    That a client is left out must change nothing but its updates: the chances of the others follow
    from the numbers of examples, which are public, so that canaries that are out are drawn like
    those that are in. They fail when they are asked, and a private mean counts no update of theirs.

    Give it to :func:`foretell.training.federated.run_federated` as its clients.

    Args:
        examples: of all real clients.
        parts: rows of each.
        canaries: tensors ``(m, ...)``, one example a canary client, by the keys of real examples.
        included: coins ``(m,)``.
        activity: copies of its example that each canary client has.

    Raises:
        ParameterError: lengths that differ, or no copy.
    """

    def __init__(
        self,
        examples: Examples,
        parts: Sequence[ArrayLike],
        canaries: Mapping[str, Tensor],
        included: NDArray[np.bool_],
        activity: int = 1,
    ) -> None:
        if activity < 1:
            raise ParameterError(f"activity must be at least 1, not {activity}")
        self._both = WithCanaries(examples, canaries, np.ones(len(included), bool))
        self._parts = [np.asarray(rows, np.int64) for rows in parts]
        self.real, self.included, self.copies = len(self._parts), included, activity
        self._first = len(examples)

    def __len__(self) -> int:
        """Number of clients, canaries included."""
        return self.real + len(self.included)

    @property
    def canaries(self) -> NDArray[np.int64]:
        """Numbers of the canary clients ``(m,)``."""
        return np.arange(self.real, len(self))

    def examples(self, client: int) -> Examples:
        """The examples of a client.

        Raises:
            LookupError: a canary that is out.
        """
        if client < self.real:
            return _Rows(self._both, self._parts[client])
        number = client - self.real
        if not self.included[number]:
            raise LookupError(f"client {client} is a canary that is left out")
        return _Rows(self._both, np.full(self.copies, self._first + number))

    def activity(self, client: int) -> int:
        """Its number of examples; the same for canaries that are in and out."""
        return self.copies if client >= self.real else len(self._parts[client])


def audit_clients(
    scores: ArrayLike,
    included: ArrayLike,
    delta: float,
    *,
    method: Method = "fdp",
    confidence: float = 0.95,
    seed: int = 0,
) -> LowerBound:
    """Bounds the epsilon of one client from one federated training with canary clients.

    See :func:`~foretell.audits.dp.audit_one_run`, whose arguments these are. Canaries that were
    never drawn cannot be told apart: some rules guess only those that stick out most.
    """
    return audit_one_run(
        scores, included, delta, method=method, side="in", confidence=confidence, unit="client",
        threat_model="white_box_final", seed=seed,
    )  # fmt: skip


class _Rows:
    """Some rows of examples."""

    def __init__(self, examples: Examples, rows: NDArray[np.int64]) -> None:
        self._examples, self._rows = examples, rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        return self._examples.batch(self._rows[indices], rng)
