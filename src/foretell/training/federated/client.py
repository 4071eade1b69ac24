"""Any learner as a Flower ClientApp."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from foretell.errors import TrainingError
from foretell.learners.contract import Learner
from foretell.training.examples import Examples
from foretell.training.federated import kept
from foretell.training.federated.activity import private_activity
from foretell.training.federated.clients import Clients
from foretell.training.federated.freezing import freeze
from foretell.training.federated.local import KeptOptimizer, LocalTraining, whole_epochs
from foretell.training.federated.records import load_record, to_record, travelling
from foretell.training.federated.scaffold import ControlVariates
from foretell.training.fit import fit
from foretell.training.penalty import L2ToReference
from foretell.training.strategy import Strategy

Metrics = Mapping[str, float]
ClientEvaluation = Callable[[Learner, Examples], Metrics]

TRAIN_SEED, BUILD_SEED = range(2)


class Workshop:
    """Builds the learner once a process and thread, and hands it out with new weights each time.

    Args:
        build: makes the learner. Torch's seed is set before, so that what is not sent (frozen
            layers) is the same everywhere.
        freeze_layers: see :func:`foretell.training.federated.freeze`.
        seed: of the weights that ``build`` draws.
        frozen: values to start from, by name of the learner's state, instead of those drawn.
    """

    def __init__(
        self,
        build: Callable[[], Learner],
        freeze_layers: Sequence[str | int] = (),
        seed: int = 0,
        frozen: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.build, self.freeze_layers, self.seed = build, tuple(freeze_layers), seed
        self.frozen = dict(frozen or {})
        self._local = threading.local()

    def make(self) -> Learner:
        """A new learner."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(round_seed(self.seed, BUILD_SEED))
            learner = self.build()
        if self.frozen:
            learner.load_state_dict({**learner.state_dict(), **self.frozen})
        freeze(learner, self.freeze_layers)
        return learner

    def take(self) -> Learner:
        """This thread's learner, whose weights are whatever they were last."""
        if not hasattr(self._local, "learner"):
            self._local.learner = self.make()
        learner: Learner = self._local.learner
        return learner

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_local"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())


def round_seed(seed: int, *key: int) -> int:
    """A seed for one purpose, client and round."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1)


def client_app(
    build: Callable[[], Learner] | Workshop,
    clients: Clients,
    local: LocalTraining | None = None,
    *,
    strategies: Sequence[Strategy] = (),
    clients_evaluation: Clients | None = None,
    evaluate_client: ClientEvaluation | None = None,
    freeze_layers: Sequence[str | int] = (),
    seed: int = 0,
) -> ClientApp:
    """A Flower ClientApp that trains a learner on one client's examples by ``training.fit``.

    Which client it is comes from ``partition-id`` in the node's config. It answers

    - ``train``: loads the arrays, trains, and returns the arrays with ``num-examples``,
      ``train-loss`` and ``samples``. From the message's config it heeds ``server-round`` and
      ``proximal-mu`` (FedProx); arrays named ``control`` make it a client of SCAFFOLD;
    - ``evaluate``: returns ``num-examples`` and what ``evaluate_client`` measures on the client's
      test examples (the mean score, as ``loss``, when there is none);
    - ``query.activity``: returns ``client`` and ``activity``, its number of examples; with
      ``bucket`` or ``epsilon`` in the message's config, as
      :func:`foretell.training.federated.private_activity` tells it.

    Args:
        build: makes the learner.
        clients: their data.
        local: what a client does in a round.
        strategies: of the local training; each round works on copies.
        clients_evaluation: test data of the same clients; their training data when None.
        evaluate_client: measures a learner on a client's test examples.
        freeze_layers: layers that neither move nor travel.
        seed: of everything that is random on clients.
    """
    workshop = build if isinstance(build, Workshop) else Workshop(build, freeze_layers, seed)
    local = LocalTraining() if local is None else local
    tests = clients if clients_evaluation is None else clients_evaluation
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = _client(context)
        config = message.content.config_records.get("config", ConfigRecord())
        server_round = int(config.get("server-round", 1))  # type: ignore[arg-type]
        rounds = int(config.get("rounds", server_round))  # type: ignore[arg-type]
        mu = float(config.get("proximal-mu", 0.0))  # type: ignore[arg-type]
        examples = clients.examples(client)
        learner = workshop.take()
        tensors = travelling(learner)
        load_record(tensors, message.content["arrays"])  # type: ignore[arg-type]
        used = [copy.deepcopy(strategy) for strategy in strategies]
        if mu:
            used.append(L2ToReference(mu))
        control = message.content.array_records.get("control")
        variates = None
        if control is not None:
            variates = ControlVariates.of_client(control, context.state, tensors, local)
            used.append(variates)
        optimizer = KeptOptimizer(
            local.make_optimizer, kept.load(context.state) if local.keep_optimizer else None
        )
        steps = local.steps(len(examples))
        result = fit(
            learner,
            examples,
            strategies=whole_epochs(examples, local, tuple(used)),
            max_steps=steps,
            batch_size=local.batch_size,
            optimizer=optimizer,
            learning_rate=local.learning_rate,
            weight_decay=local.weight_decay,
            schedule=local.schedule_in_round(server_round, rounds),
            gradient_clip=local.gradient_clip,
            validate_every=steps,
            checkpoint_every=steps + 1,
            seed=round_seed(seed, TRAIN_SEED, client, server_round),
            device=local.device,
            precision=local.precision,
            threads=local.threads,
        )
        if local.keep_optimizer and optimizer.optimizer is not None:
            kept.save(context.state, optimizer.optimizer)
        loss = result.history[-1]["loss"]
        figures = MetricRecord(
            {
                "num-examples": len(examples),
                "samples": local.samples(len(examples)),
                "train-loss": float("nan") if loss is None else float(loss),
            }
        )
        content = RecordDict({"arrays": to_record(tensors), "metrics": figures})
        if variates is not None:
            content["control"] = variates.finish(context.state, tensors)
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        examples = tests.examples(_client(context))
        learner = workshop.take()
        load_record(travelling(learner), message.content["arrays"])  # type: ignore[arg-type]
        learner.eval()
        measure = mean_score if evaluate_client is None else evaluate_client
        figures = {name: float(value) for name, value in measure(learner, examples).items()}
        record = MetricRecord({"num-examples": len(examples), **figures})
        return Message(RecordDict({"metrics": record}), reply_to=message)

    @app.query("activity")
    def activity(message: Message, context: Context) -> Message:
        client = _client(context)
        config = message.content.config_records.get("config", ConfigRecord())
        number = int(clients.activity(client))
        if config:
            told = float(config.get("epsilon", 0.0))  # type: ignore[arg-type]
            bucket = bool(config.get("bucket", True))
            number = private_activity(number, bucket=bucket, epsilon=told or None)
        record = MetricRecord({"client": client, "activity": number})
        return Message(RecordDict({"metrics": record}), reply_to=message)

    return app


def mean_score(learner: Learner, examples: Examples, batch_size: int = 256) -> dict[str, float]:
    """Mean loss of a learner over examples, as ``loss``."""
    total, count, rng = 0.0, 0, np.random.default_rng(0)
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            rows = np.arange(start, min(start + batch_size, len(examples)))
            total += float(learner.loss(examples.batch(rows, rng)).double().sum())
            count += len(rows)
    return {"loss": total / count}


def _client(context: Context) -> int:
    try:
        return int(context.node_config["partition-id"])
    except KeyError:
        raise TrainingError(
            "the node does not know which client it is: its config needs 'partition-id' "
            "(flower-supernode --node-config 'partition-id=0')"
        ) from None


def initial_record(learner: Learner) -> ArrayRecord:
    """What the server starts from."""
    return to_record(travelling(learner))
