"""What the same learner reaches when all data lies in one place: the price of a federation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from foretell.learners.contract import Learner
from foretell.training.examples import Examples
from foretell.training.federated.client import TRAIN_SEED, Workshop, round_seed
from foretell.training.federated.clients import Clients
from foretell.training.federated.local import LocalTraining, whole_epochs
from foretell.training.federated.result import FederatedResult
from foretell.training.fit import fit
from foretell.training.strategy import Strategy


class PooledExamples:
    """The examples of all clients, one after the other: what a federation exists to avoid.

    Batches are collated client by client and joined, so that tensors must be of one length beyond
    the first axis; hand :func:`train_centrally` pooled examples where they are not.

    Args:
        clients: whose data is pooled.
    """

    def __init__(self, clients: Clients) -> None:
        self._parts = [clients.examples(k) for k in range(len(clients)) if clients.activity(k)]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """Examples ``indices`` as a dict of tensors ``(B, ...)``."""
        owners = np.searchsorted(self._ends, indices, side="right")
        rows = []
        for owner in np.unique(owners):
            begin = self._ends[owner] - len(self._parts[owner])
            rows.append(self._parts[owner].batch(indices[owners == owner] - begin, rng))
        return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def train_centrally(
    build: Callable[[], Learner],
    clients: Clients | Examples,
    *,
    epochs: int,
    local: LocalTraining | None = None,
    strategies: Sequence[Strategy] = (),
    freeze_layers: Sequence[str | int] = (),
    seed: int = 0,
) -> Learner:
    """Trains the same learner on all clients' data in one place, by the same ``fit``.

    Args:
        build: makes the learner; it starts from the same weights as a federation of this seed.
        clients: the clients, whose data is pooled, or the pooled examples.
        epochs: passes through all data; a federation in which every client trains ``E`` epochs in
            each of ``R`` rounds makes ``E R``.
        local: optimizer, rate, batch size and schedule, as on the clients.
        strategies: as on the clients.
        freeze_layers: as in the federation.
        seed: of everything that is random.
    """
    local = LocalTraining() if local is None else local
    pooled = clients if hasattr(clients, "batch") else PooledExamples(clients)  # type: ignore[arg-type]
    learner = Workshop(build, freeze_layers, seed).make()
    size = len(pooled)  # type: ignore[arg-type]
    steps = epochs * -(-size // local.batch_size)
    fit(
        learner,
        pooled,  # type: ignore[arg-type]
        strategies=whole_epochs(pooled, local, tuple(strategies)),  # type: ignore[arg-type]
        max_steps=steps,
        batch_size=local.batch_size,
        optimizer=local.make_optimizer,
        learning_rate=local.learning_rate,
        weight_decay=local.weight_decay,
        schedule=local.schedule,
        gradient_clip=local.gradient_clip,
        validate_every=steps,
        checkpoint_every=steps + 1,
        seed=round_seed(seed, TRAIN_SEED, 0, 1),
        device=local.device,
        precision=local.precision,
        threads=local.threads,
    )
    return learner


def central_gap(
    result: FederatedResult,
    central: Learner,
    evaluate: Callable[[Learner], Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Both learners' figures, and how much larger the federated ones are.

    Args:
        result: of the federation.
        central: of :func:`train_centrally`.
        evaluate: measures a learner.

    Returns:
        For each metric ``federated``, ``central`` and ``gap``, their difference.
    """
    ours, theirs = evaluate(result.learner), evaluate(central)
    return {
        name: {
            "federated": float(ours[name]),
            "central": float(theirs[name]),
            "gap": float(ours[name]) - float(theirs[name]),
        }
        for name in ours
    }
