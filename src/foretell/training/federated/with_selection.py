"""Activity-based selection for every Flower strategy."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError
from foretell.training.federated.accounting import ClientLedger, ClientPrivacy
from foretell.training.federated.activity import ActivityLog
from foretell.training.federated.draws import Drawn
from foretell.training.federated.private_mean import private_mean
from foretell.training.federated.selection import ActivitySelection
from foretell.training.federated.weights import (
    Aggregation,
    aggregation_weights,
    pairing_warning,
)
from foretell.training.private.noise import NoiseSource
from foretell.training.private.statement import PrivacyStatement

_log = logging.getLogger(__name__)
_WEIGHT = "aggregation-weight"
_SELECT, _NOISE = range(2)

Array = NDArray[np.float64]


class SelectionMixin:
    """What :func:`WithSelection` puts in front of a strategy; see there."""

    # Set by the strategy behind the mixin.
    fraction_train: float
    min_train_nodes: int
    min_available_nodes: int
    weighted_by_key: str
    arrayrecord_key: str

    def __init__(
        self,
        *args: Any,
        selection: ActivitySelection | None = None,
        aggregation: Aggregation = "consistent",
        clients_per_round: int | None = None,
        privacy: ClientPrivacy | None = None,
        activity_config: dict[str, Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        options.setdefault("min_available_nodes", 1)
        super().__init__(*args, **options)
        self.selection = ActivitySelection() if selection is None else selection
        self.aggregation: Aggregation = aggregation
        if clients_per_round is not None and clients_per_round < 1:
            raise ParameterError(f"clients_per_round must be at least 1, not {clients_per_round}")
        self.clients_per_round = clients_per_round
        self.privacy = privacy
        # Who knows the noise takes it off, and who knows who was drawn gains what sampling hides:
        # neither may follow from the seed of a run, which is no secret.
        self._secret = None if privacy is None else NoiseSource(seed=privacy.noise_seed)
        self.activity_config = dict(activity_config or {})
        self.seed = seed
        self.activity = ActivityLog(self.selection.cap)
        self.ledger = None if privacy is None else ClientLedger(privacy)
        self.selection_rows: list[dict[str, Any]] = []
        self._asked: set[int] = set()
        self._current = ArrayRecord()
        self._drawn: dict[int, tuple[float, float, float, float]] = {}
        self._k = 0
        self._inclusion: tuple[bytes, Array] | None = None
        warning = pairing_warning(self.selection.made_rule, aggregation)
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        if privacy is not None:
            self._check_privacy()

    aggregates_nothing = property(
        lambda self: self.privacy is not None,
        doc="Whether a round without replies still moves the model: noise is added all the same.",
    )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages of the strategy behind, to the clients that are drawn."""
        nodes = sorted(grid.get_node_ids())
        if not nodes:
            raise DataError("there is no client to choose from")
        self._ask(nodes, grid)
        self._current = arrays
        n = self.activity.of(nodes)
        self._k = self.clients_per_round or max(
            int(len(nodes) * self.fraction_train), self.min_train_nodes, 1
        )
        selection = self.selection
        if self.privacy is not None and selection.q_max is None:
            q_max = min(1.0, 4 * self._k / len(nodes))
            selection = ActivitySelection(
                selection.rule, selection.draw_by, selection.floor, q_max, selection.cap
            )
        inclusion = self._inclusion_of(selection, n)
        if self.ledger is not None:
            self.ledger.note(nodes, inclusion, n)
        rng = self._numbers(_SELECT, server_round)
        drawn = selection.draw(rng, self._k, n, inclusion=inclusion)
        self._note(server_round, nodes, n, selection.probabilities(n, self._k), drawn)
        chosen = [nodes[position] for position in drawn.clients]
        return self._messages(server_round, arrays, config, grid, chosen)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's own aggregate, by the selection's weights."""
        replies = list(replies)
        sound = [reply for reply in replies if not reply.has_error()]
        failed = len(self._drawn) - len(sound)
        if failed and self.aggregation == "horvitz_thompson" and self.privacy is None:
            _log.warning(
                "round %d: %d of %d clients did not answer; weights are those of the %d that did",
                server_round, failed, len(self._drawn), len(sound),
            )  # fmt: skip
        examples = {r.metadata.src_node_id: self._examples(r) for r in sound}
        if not self.activity_config:
            for client, number in examples.items():
                self.activity.report(client, number)
        if self.privacy is not None:
            return self._aggregate_private(server_round, sound)
        if not sound:
            _log.warning("round %d: no client answered, the model stays", server_round)
            return None, None
        clients = list(examples)
        n = self._capped(clients, examples)
        _, chances, expected, times = (
            np.array(column) for column in zip(*(self._drawn[c] for c in clients), strict=True)
        )
        weights = aggregation_weights(self.aggregation, n, chances, expected, times)
        if not weights.sum() > 0:
            _log.warning("round %d: all weights are 0, the model stays", server_round)
            return None, None
        weights = weights / weights.mean()
        for reply, weight in zip(sound, weights.tolist(), strict=True):
            _metrics(reply.content)[_WEIGHT] = weight
        for row in self.selection_rows[-len(self._drawn) :]:
            if row["client"] in examples:
                row["weight"] = float(weights[clients.index(row["client"])])
        before, self.weighted_by_key = self.weighted_by_key, _WEIGHT
        try:
            return super().aggregate_train(server_round, replies)  # type: ignore[misc, no-any-return]
        finally:
            self.weighted_by_key = before
            for reply in sound:
                _metrics(reply.content).pop(_WEIGHT, None)

    @property
    def selection_log(self) -> pl.DataFrame:
        """A row a round and client drawn.

        Columns ``round, client, activity, probability, inclusion, expected, multiplicity, weight``;
        the weight is null for clients that failed, and 1 on average.
        """
        return pl.DataFrame(
            self.selection_rows,
            schema={
                "round": pl.Int64, "client": pl.Int64, "activity": pl.Float64,
                "probability": pl.Float64, "inclusion": pl.Float64, "expected": pl.Float64,
                "multiplicity": pl.Int64, "weight": pl.Float64,
            },
        )  # fmt: skip

    def statements(self) -> list[PrivacyStatement]:
        """The guarantee of the client whose privacy costs most; none without privacy."""
        return [] if self.ledger is None or not self.ledger.rounds else [self.ledger.statement()]

    def state_dict(self) -> dict[str, Any]:
        """What to resume with: activities as reported, clients drawn, chances so far.

        With privacy also what noise and draws follow from: a secret.
        """
        return {
            "activity": {str(client): n for client, n in self.activity.reported.items()},
            "asked": sorted(self._asked),
            "rows": [dict(row) for row in self.selection_rows],
            "ledger": None if self.ledger is None else self.ledger.state_dict(),
            "noise": None if self._secret is None else self._secret.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        for client, n in state["activity"].items():
            self.activity.report(int(client), n)
        self._asked = set(state["asked"])
        self.selection_rows = [dict(row) for row in state["rows"]]
        if self.ledger is not None and state["ledger"] is not None:
            self.ledger.load_state_dict(state["ledger"])
        if self._secret is not None and state.get("noise") is not None:
            self._secret.load_state_dict(state["noise"])

    def renew_noise(self) -> None:
        """Draws a new secret, as where one model is gone on from twice; a seed stays.

        The same noise on two sums would be taken off by their difference.
        """
        if self._secret is not None:
            self._secret.start(self._secret.fresh())

    def forget_activity(self) -> None:
        """Asks all clients anew in the next round, as when their buffers have changed."""
        self._asked = set()

    def _numbers(self, purpose: int, server_round: int) -> np.random.Generator:
        """Numbers for a purpose and round: of the seed, or of a secret where privacy needs one."""
        if self._secret is None:
            return np.random.default_rng((self.seed, purpose, server_round))
        return self._secret.stream(purpose, server_round)

    def _ask(self, nodes: list[int], grid: Grid) -> None:
        """Asks clients that were never asked; who does not answer counts as the median."""
        new = [node for node in nodes if node not in self._asked]
        if not new:
            return
        self._asked.update(new)
        content = RecordDict({"config": ConfigRecord(self.activity_config)})
        messages = [
            Message(content, dst_node_id=node, message_type="query.activity") for node in new
        ]
        for reply in grid.send_and_receive(messages):
            if reply.has_content():
                figures = _metrics(reply.content)
                self.activity.report(reply.metadata.src_node_id, float(figures["activity"]))  # type: ignore[arg-type]

    def _inclusion_of(self, selection: ActivitySelection, n: Array) -> Array:
        """Chances to be in a round, computed once as long as activities stay."""
        key = n.tobytes() + str(self._k).encode()
        if self._inclusion is None or self._inclusion[0] != key:
            self._inclusion = (key, selection.inclusion(n, self._k))
        return self._inclusion[1]

    def _note(
        self, server_round: int, nodes: list[int], n: Array, chances: Array, drawn: Drawn
    ) -> None:
        self._drawn = {}
        for at, times, inclusion, expected in zip(
            drawn.clients.tolist(), drawn.multiplicity.tolist(), drawn.inclusion.tolist(),
            drawn.expected.tolist(), strict=True,
        ):  # fmt: skip
            self._drawn[nodes[at]] = (float(n[at]), float(chances[at]), expected, times)
            self.selection_rows.append(
                {
                    "round": server_round, "client": nodes[at], "activity": float(n[at]),
                    "probability": float(chances[at]), "inclusion": inclusion,
                    "expected": expected, "multiplicity": times, "weight": None,
                }
            )  # fmt: skip

    def _messages(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        chosen: list[int],
    ) -> list[Message]:
        """What the strategy behind sends, when only the chosen clients are there.

        The strategy itself takes all that it sees, and adds to the message what its algorithm
        needs (the weight of the proximal term, control variates).
        """
        nobody = not chosen
        if nobody:
            # The strategy still must learn the current arrays: it may move by noise alone.
            chosen = list(grid.get_node_ids())[:1]
        kept = (self.fraction_train, self.min_train_nodes, self.min_available_nodes)
        self.fraction_train, self.min_train_nodes, self.min_available_nodes = 1.0, 1, 1
        # Flower shuffles by Python's global generator, which is not ours to move.
        outside = random.getstate()
        try:
            messages = list(
                super().configure_train(server_round, arrays, config, _Narrow(grid, chosen))  # type: ignore[misc]
            )
        finally:
            random.setstate(outside)
            self.fraction_train, self.min_train_nodes, self.min_available_nodes = kept
        if nobody:
            return []
        return sorted(messages, key=lambda message: message.metadata.dst_node_id)

    def _aggregate_private(
        self, server_round: int, sound: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's own step from the clipped and noisy mean of updates."""
        assert self.privacy is not None
        key = self.arrayrecord_key
        mean = private_mean(
            self._current,
            [reply.content.array_records[key] for reply in sound],
            self.privacy,
            self._k,
            self._numbers(_NOISE, server_round),
        )
        figures = MetricRecord({self.weighted_by_key: 1.0})
        content = RecordDict({key: mean, "metrics": figures})
        message = Message(content, dst_node_id=0, message_type="train")
        arrays, _ = super().aggregate_train(server_round, [message])  # type: ignore[misc]
        # Clients' figures were not made private: none is published.
        return arrays, MetricRecord({"clients": float(self._k)})

    def _examples(self, reply: Message) -> float:
        value = _metrics(reply.content).get(self.weighted_by_key, float("nan"))
        number = float(value)  # type: ignore[arg-type]
        if not np.isfinite(number) or number < 0:
            raise DataError(
                f"client {reply.metadata.src_node_id} reports {value!r} as {self.weighted_by_key!r}"
            )
        return number

    def _capped(self, clients: list[int], examples: dict[int, float]) -> Array:
        """Examples as they are weighed: as reported in this round, cut at the cap."""
        said = np.array([examples[client] for client in clients])
        if self.activity_config:
            return said
        return self.activity.of(clients)

    def _check_privacy(self) -> None:
        if self.selection.draw_by != "poisson":
            raise ParameterError(
                f"with privacy clients must be drawn by 'poisson', not {self.selection.draw_by!r}: "
                "a guarantee amplified by sampling holds for independent draws only"
            )
        if self.aggregation != "equal":
            raise ParameterError(
                f"with privacy aggregation must be 'equal', not {self.aggregation!r}: each clipped "
                "update counts 1"
            )
        if not isinstance(self, FedAvg) or hasattr(self, "control"):
            raise ParameterError(
                f"privacy of clients works on one mean update, which {type(self).__name__} does "
                "not take: use FedAvg, FedProx, FedAvgM, FedAdam, FedAdagrad or FedYogi"
            )


@cache
def WithSelection(strategy: type[Any]) -> type[Any]:  # noqa: N802
    """A Flower strategy that chooses clients by their activity.

    ``WithSelection(FedAdam)(selection=ActivitySelection("log"), aggregation="equal",
    clients_per_round=50, eta=0.1)`` is FedAdam in all but who trains and how much each counts: it
    overrides ``configure_train`` and the weights, and calls the strategy for the rest.

    Numbers of examples are asked for once, by a ``query.activity`` message, and refreshed from each
    reply's ``num-examples``. A client that did not answer counts as the median.

    Keywords of the class that is made, besides those of the strategy:

    - ``selection``: :class:`ActivitySelection`; ``"log"`` when None.
    - ``aggregation``: ``"consistent"`` (default), ``"equal"``, ``"num_examples"`` or
      ``"horvitz_thompson"``; see :func:`foretell.training.federated.aggregation_weights`.
    - ``clients_per_round``: K; when None, Flower's ``fraction_train`` and ``min_train_nodes``.
    - ``privacy``: :class:`ClientPrivacy` clips clients' updates, adds noise and keeps a ledger of
      every client's chances (``.ledger``). It needs ``draw="poisson"`` and
      ``aggregation="equal"``; ``q_max`` is 4K/N unless the selection sets it.
    - ``activity_config``: sent with the query: ``bucket`` (tell powers of two only) and ``epsilon``
      (noise on the device). Numbers in replies are then not used for selection.
    - ``seed``: of draws, a function of the seed and the round. With ``privacy`` draws and noise
      follow from the operating system's randomness instead, or from ``privacy.noise_seed``.

    Args:
        strategy: class of a strategy, ``FedAvg`` or derived from it.

    Returns:
        The class.
    """
    if not (isinstance(strategy, type) and issubclass(strategy, FedAvg)):
        raise ParameterError(f"WithSelection needs a class derived from FedAvg, not {strategy!r}")
    return type(f"Selected{strategy.__name__}", (SelectionMixin, strategy), {})


class _Narrow(Grid):
    """A grid on which only some nodes are there."""

    def __init__(self, grid: Grid, nodes: list[int]) -> None:
        self._grid, self._nodes = grid, nodes

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are there."""
        return list(self._nodes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def set_run(self, run: Any) -> None:
        """Passed on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Passed on."""
        return self._grid.run

    def create_message(self, *args: Any, **options: Any) -> Message:
        """Passed on."""
        return self._grid.create_message(*args, **options)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Passed on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Passed on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Passed on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


def _metrics(content: RecordDict) -> MetricRecord:
    return next(iter(content.metric_records.values()))
