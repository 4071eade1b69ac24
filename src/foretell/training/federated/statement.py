"""One honest statement about a federation: what is guaranteed, to whom, and what adds up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foretell.errors import ParameterError
from foretell.training.federated.accounting import ClientLedger
from foretell.training.federated.local import LocalTraining
from foretell.training.private.accounting import Accountant, NoisySteps, dp_event, epsilon
from foretell.training.private.statement import PrivacyStatement

_SHARES = (("median", 0.5), ("90%", 0.9), ("99%", 0.99), ("largest", 1.0))

PUBLIC_ACTIVITY = (
    "the numbers of examples that clients are chosen by are public; they are not protected"
)
OF_THE_MODEL = (
    "it protects against who sees the server's models, all of them; not against the server, which "
    "sees each update before the noise"
)
ONE_CLIENT_EACH = (
    "clients' epsilons do not add up: each bounds what is told of one client, and the distribution "
    "is over clients"
)
OTHER_RECORDS = (
    "the guarantees of one client and of one example do not add up either: they are about "
    "different records, noise and observers; who sees models alone learns of an example no more "
    "than of its client"
)
ROUNDS_COMPOSE = (
    "what composes is one client's rounds: its examples' guarantee counts every step of every "
    "round that it was asked in, without amplification, since the server knows whom it asked"
)


@dataclass(frozen=True)
class FederatedStatement:
    """What a private federation guarantees: to the client it costs most, and to the others.

    Attributes:
        worst: the guarantee of the client whose privacy costs most, which holds for all.
        clients: clients that could have been chosen.
        distribution: epsilons over clients, at ``worst.delta``: names and values.
        by_activity: pairs of a number of examples and the largest epsilon of clients with so many.
        local: what is guaranteed of one example to the server too, where local training was
            private; of the client that it costs most.
        assumptions: what must be true beside what ``worst`` assumes, and what does not add up.
    """

    worst: PrivacyStatement
    clients: int
    distribution: tuple[tuple[str, float], ...]
    by_activity: tuple[tuple[float, float], ...] = ()
    local: PrivacyStatement | None = None
    assumptions: tuple[str, ...] = (PUBLIC_ACTIVITY, OF_THE_MODEL, ONE_CLIENT_EACH)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "worst": self.worst.to_dict(),
            "clients": self.clients,
            "distribution": {name: _finite(value) for name, value in self.distribution},
            "by_activity": [[n, _finite(value)] for n, value in self.by_activity],
            "local": None if self.local is None else self.local.to_dict(),
            "assumptions": list(self.assumptions),
        }

    def __str__(self) -> str:
        spread = ", ".join(f"{name} {value:.4g}" for name, value in self.distribution)
        lines = [
            str(self.worst),
            f"  epsilon of {self.clients:,} clients at delta {self.worst.delta:.3g}: {spread}",
            *(f"  {assumption}" for assumption in self.assumptions),
        ]
        if self.local is not None:
            lines += ["against the server as well, one example of a client:", str(self.local)]
        return "\n".join(lines)


def federated_statement(
    ledger: ClientLedger, local: PrivacyStatement | None = None
) -> FederatedStatement:
    """States what a federation's ledger says, over all clients.

    Args:
        ledger: of the strategy, after its rounds.
        local: see :func:`local_statement`.

    Raises:
        ParameterError: there was no round.
    """
    worst = ledger.statement()
    table = ledger.table()
    costs = table["epsilon"].to_numpy()
    # The statement of the worst client is exact; the table rounds chances up where many differ.
    distribution = tuple(
        (name, float(np.quantile(costs, share, method="higher")) if share < 1 else worst.epsilon)
        for name, share in _SHARES
    )
    held = table["activity"].to_numpy()
    shown = np.unique(np.quantile(held, [0, 0.5, 0.9, 0.99, 1.0], method="higher"))
    by_activity = tuple((float(n), float(costs[held == n].max())) for n in shown)
    assumptions = [PUBLIC_ACTIVITY, OF_THE_MODEL, ONE_CLIENT_EACH]
    if local is not None:
        assumptions += [OTHER_RECORDS, ROUNDS_COMPOSE]
    return FederatedStatement(
        worst, len(costs), distribution, by_activity, local, tuple(assumptions)
    )


def local_statement(
    activity: Sequence[int] | ArrayLike,
    rounds: Sequence[int] | ArrayLike,
    local: LocalTraining,
    noise_multiplier: float,
    delta: float,
    *,
    accountant: Accountant = "pld",
    max_grad_norm: float = 1.0,
) -> PrivacyStatement:
    """What private local training guarantees of one example, over all rounds of its client.

    :class:`~foretell.training.private.PrivateTraining` on a client accounts for one round. A client
    that was asked R times made R times as many steps on the same examples: these compose, for each
    client by itself. The statement is that of the client that it costs most, and since an example
    belongs to one client, it holds for all examples.

    Args:
        activity: examples of each client ``(N,)``.
        rounds: rounds that each was asked in ``(N,)``; not only those that counted.
        local: the local training.
        noise_multiplier: of ``PrivateTraining`` on the clients.
        delta: of the guarantee.
        accountant: see :func:`foretell.training.private.epsilon`.
        max_grad_norm: bound of one example's gradient.

    Raises:
        ParameterError: lengths that differ, or no client that was asked.
    """
    sizes, asked = np.asarray(activity, np.int64), np.asarray(rounds, np.int64)
    if sizes.shape != asked.shape or sizes.ndim != 1:
        raise ParameterError(
            f"activity and rounds must be as many, not {sizes.shape} and {asked.shape}"
        )
    held = (sizes > 0) & (asked > 0)
    if not held.any():
        raise ParameterError("no client with examples was asked: there is nothing to state")
    costs: dict[tuple[float, int], float] = {}
    for n, times in np.unique(np.stack([sizes[held], asked[held]], 1), axis=0).tolist():
        q, steps = min(1.0, local.batch_size / n), local.steps(n) * times
        costs[q, steps] = epsilon(
            [NoisySteps(q, noise_multiplier, steps)], delta, accountant=accountant
        )
    q, steps = max(costs, key=lambda key: costs[key])
    noisy = [NoisySteps(q, noise_multiplier, steps)]
    return PrivacyStatement(
        epsilon=costs[q, steps],
        delta=delta,
        adjacency="add_remove_example",
        unit="example",
        sampling=f"poisson({q:.4g}) on the client, the one whose examples' privacy costs most",
        accountant=accountant,
        clipping=f"gradient of an example to norm {max_grad_norm:g}, on the client",
        sensitivity_factor=1.0,
        noise_multipliers=(noise_multiplier,),
        steps=(steps,),
        assumptions=(
            "each example belongs to one client",
            "a client's number of examples is public",
            "clients run the training that they are asked to run",
        ),
        dp_event=str(dp_event(noisy)) if noise_multiplier > 0 else "none",
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
