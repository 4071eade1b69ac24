"""Differential privacy of clients that are chosen with different chances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.errors import ParameterError
from foretell.training.private.accounting import Accountant, NoisySteps, dp_event, epsilon
from foretell.training.private.statement import PrivacyStatement

_EXACT = 200
_GRID = 1.01

REPRODUCIBLE = (
    "noise and draws are reproducible: both follow from noise_seed, and the guarantee holds only "
    "while that number is secret, serves one federation and the generator is as good as random"
)
SECRET = (
    "noise and draws follow from 128 bits of the operating system's randomness: checkpoints and "
    "the result's state, which hold them, are kept secret, and the generator is as good as random"
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClientPrivacy:
    """Clipping and noise of clients' updates (McMahan et al. 2018), on the server.

    Each client's update is clipped to the norm ``clip`` and counts 1; normal noise of standard
    deviation ``noise_multiplier * clip`` is added to the sum, which is divided by the *constant*
    number of clients a round: neither weights nor normaliser tell who took part.

    Args:
        noise_multiplier: noise over the bound.
        clip: the largest norm of an update, over all its arrays together.
        delta: of the guarantee.
        accountant: ``"pld"`` or ``"rdp"``.
        noise_seed: of noise and of who is drawn, for runs that must be repeated: whoever learns it
            can take the noise off again. None for the operating system's randomness; the seed of
            the run decides neither.

    Raises:
        ParameterError: a value out of its range.
    """

    noise_multiplier: float = 1.0
    clip: float = 1.0
    delta: float = 1e-4
    accountant: Accountant = "pld"
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        if not (np.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ParameterError(
                f"noise_multiplier must be a number from 0 on, not {self.noise_multiplier}"
            )
        if not (np.isfinite(self.clip) and self.clip > 0):
            raise ParameterError(f"clip must be positive, not {self.clip}")
        if not 0 < self.delta < 1:
            raise ParameterError(f"delta must lie in (0, 1), not {self.delta}")
        if self.noise_seed is not None and self.noise_seed < 0:
            raise ParameterError(f"noise_seed must not be negative, not {self.noise_seed}")


def client_epsilons(
    histories: Sequence[Sequence[tuple[float, int]]],
    noise_multiplier: float,
    delta: float,
    *,
    accountant: Accountant = "pld",
    discretization: float = 1e-4,
) -> Array:
    """What each client's privacy costs ``(N,)``, from its own chances of being chosen.

    Clients with the same history are computed once. Where more than 200 histories differ, chances
    are rounded up by at most a hundredth first, which never understates the cost.

    Args:
        histories: for each client, pairs of the chance to be in a round and a number of rounds.
        noise_multiplier: noise over the clipping bound.
        delta: of the guarantee.
        accountant: see :func:`foretell.training.private.epsilon`.
        discretization: see there.
    """
    keys = [_history(history) for history in histories]
    if len(set(keys)) > _EXACT:
        keys = [
            _history([(min(1.0, _GRID ** np.ceil(np.log(q) / np.log(_GRID))), n) for q, n in key])
            for key in keys
        ]
    costs = {
        key: epsilon(
            [NoisySteps(q, noise_multiplier, rounds) for q, rounds in key],
            delta,
            accountant=accountant,
            discretization=discretization,
        )
        for key in set(keys)
    }
    return np.array([costs[key] for key in keys], dtype=np.float64)


def _history(history: Sequence[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    """Chances that occur, with their numbers of rounds; equal ones together."""
    rounds: dict[float, int] = {}
    for q, number in history:
        if not 0 <= q <= 1 or number < 0:
            raise ParameterError(f"a chance must lie in [0, 1], not {q}")
        if q > 0 and number:
            rounds[float(q)] = rounds.get(float(q), 0) + int(number)
    return tuple(sorted(rounds.items()))


class ClientLedger:
    """Notes each round's chances, and says at the end what each client's privacy costs.

    Args:
        privacy: the mechanism.
    """

    def __init__(self, privacy: ClientPrivacy) -> None:
        self.privacy = privacy
        self.rounds = 0
        self._chances: dict[int, dict[float, int]] = {}
        self._activity: dict[int, float] = {}

    def note(self, clients: Sequence[int], chances: Array, activity: Array) -> None:
        """Notes a round: every client's chance, chosen or not, and its activity at the time."""
        self.rounds += 1
        for client, q, n in zip(clients, chances.tolist(), activity.tolist(), strict=True):
            known = self._chances.setdefault(client, {})
            known[q] = known.get(q, 0) + 1
            self._activity[client] = n

    @property
    def clients(self) -> list[int]:
        """Clients that could have been chosen."""
        return sorted(self._chances)

    def state_dict(self) -> dict[str, Any]:
        """Chances so far, as plain numbers."""
        return {
            "rounds": self.rounds,
            "noise_multiplier": self.privacy.noise_multiplier,
            "seeded": self.privacy.noise_seed is not None,
            "chances": {
                str(client): [[q, n] for q, n in known.items()]
                for client, known in self._chances.items()
            },
            "activity": {str(client): n for client, n in self._activity.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave.

        Raises:
            ParameterError: rounds were made with other noise, of which one statement cannot speak.
        """
        seeded = self.privacy.noise_seed is not None
        if bool(state.get("seeded", True)) != seeded and state["rounds"]:
            raise ParameterError(
                f"the {state['rounds']} rounds to go on from had noise that follows "
                f"{'from no seed' if seeded else 'from a noise_seed'}, and these would not: the "
                "statement could not say of both what must be kept secret. Go on "
                f"{'without' if seeded else 'with that'} noise_seed"
            )
        before = state.get("noise_multiplier", self.privacy.noise_multiplier)
        if before != self.privacy.noise_multiplier and state["rounds"]:
            raise ParameterError(
                f"the {state['rounds']} rounds to go on from had a noise multiplier of {before:g}, "
                f"and these have {self.privacy.noise_multiplier:g}: the statement would count them "
                "all by the latter. Go on with the former, or start a federation of its own"
            )
        self.rounds = int(state["rounds"])
        self._chances = {
            int(client): {float(q): int(n) for q, n in known}
            for client, known in state["chances"].items()
        }
        self._activity = {int(client): float(n) for client, n in state["activity"].items()}

    def table(self) -> pl.DataFrame:
        """A row a client: ``client, activity, expected_rounds, largest_chance, epsilon``."""
        clients = self.clients
        histories = [list(self._chances[c].items()) for c in clients]
        costs = client_epsilons(
            histories, self.privacy.noise_multiplier, self.privacy.delta,
            accountant=self.privacy.accountant,
        )  # fmt: skip
        return pl.DataFrame(
            {
                "client": clients,
                "activity": [self._activity[c] for c in clients],
                "expected_rounds": [sum(q * n for q, n in h) for h in histories],
                "largest_chance": [max(q for q, _ in h) for h in histories],
                "epsilon": costs,
            },
            schema={
                "client": pl.Int64, "activity": pl.Float64, "expected_rounds": pl.Float64,
                "largest_chance": pl.Float64, "epsilon": pl.Float64,
            },
        )  # fmt: skip

    def _worst(self) -> int:
        """The client whose privacy costs most.

        Costs grow with chances: a client whose chances, sorted and filled up with zeros, are
        nowhere above another's costs no more. Only those that no other dominates are computed.
        """
        chances = {
            client: np.sort(np.repeat(list(known), list(known.values())))[::-1]
            for client, known in self._chances.items()
        }
        different = {tuple(c.tolist()): client for client, c in sorted(chances.items())[::-1]}
        rows = np.zeros((len(different), self.rounds))
        for row, history in zip(rows, different, strict=True):
            row[: len(history)] = history
        order = np.argsort(-rows.sum(1), kind="stable")
        front: list[int] = []
        for at in order.tolist():
            if not any((rows[other] >= rows[at]).all() for other in front):
                front.append(at)
        clients = list(different.values())
        if len(front) == 1:
            return clients[front[0]]
        costs = client_epsilons(
            [list(self._chances[clients[at]].items()) for at in front],
            self.privacy.noise_multiplier, self.privacy.delta,
            accountant=self.privacy.accountant, discretization=1e-3,
        )  # fmt: skip
        return clients[front[int(np.argmax(costs))]]

    def statement(self, client: int | None = None) -> PrivacyStatement:
        """The guarantee of one client, or of the client whose privacy costs most.

        Raises:
            ParameterError: the client was never among those to choose from.
        """
        if client is None:
            if not self.rounds:
                raise ParameterError("there was no round: there is nothing to state")
            client = self._worst()
            whose = "the client whose privacy costs most"
        else:
            if client not in self._chances:
                raise ParameterError(f"client {client} was never among those to choose from")
            whose = f"client {client}"
        history = _history(list(self._chances[client].items()))
        noise = self.privacy.noise_multiplier
        steps = [NoisySteps(q, noise, rounds) for q, rounds in history]
        largest = max((q for q, _ in history), default=0.0)
        least = min((q for q, _ in history), default=0.0)
        chance = f"{largest:.4g}" if largest == least else f"{least:.4g} to {largest:.4g}"
        event: Any = dp_event(steps) if steps and noise > 0 else "none"
        return PrivacyStatement(
            epsilon=epsilon(steps, self.privacy.delta, accountant=self.privacy.accountant),
            delta=self.privacy.delta,
            adjacency="add_remove_client",
            unit="client",
            sampling=f"poisson({chance}), {whose}",
            accountant=self.privacy.accountant,
            clipping=f"update of a client to norm {self.privacy.clip:g}, on the server",
            sensitivity_factor=1.0,
            noise_multipliers=tuple(kind.noise_multiplier for kind in steps),
            steps=tuple(kind.steps for kind in steps),
            assumptions=(
                "each round takes every client by itself with its own chance",
                "numbers of examples, and with them the chances, are public",
                "the server is trusted: it sees each update before noise (honest_but_curious_"
                "server is not covered)",
                "only the weights are published: neither who or how many took part in a round, nor "
                "what was measured on clients' data, is covered",
                REPRODUCIBLE if self.privacy.noise_seed is not None else SECRET,
                f"{self.rounds} rounds; updates count 1 and are divided by a constant",
            ),
            dp_event=repr(event),
        )
