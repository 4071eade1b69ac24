"""The entrance to federated training: :func:`run_federated`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy as ServerStrategy
from torch import Tensor

from foretell.errors import ParameterError
from foretell.learners.contract import Learner
from foretell.training.checkpoint import load_checkpoint
from foretell.training.federated.client import ClientEvaluation, Workshop, client_app
from foretell.training.federated.clients import Clients
from foretell.training.federated.grid import InProcessGrid
from foretell.training.federated.guard import SizeCap
from foretell.training.federated.local import LocalTraining
from foretell.training.federated.records import load_record, to_record, travelling
from foretell.training.federated.result import FederatedResult
from foretell.training.federated.server import Evaluate, Server, check_rounds, table
from foretell.training.federated.state import load_client_states
from foretell.training.federated.strategies import make_strategy
from foretell.training.strategy import Strategy

Backend = Literal["inprocess", "ray", "superlink"]
BACKEND_OPTIONS = {"ray": ("cpus_per_client",), "superlink": ("authenticate", "start_timeout")}


def run_federated(
    build: Callable[[], Learner],
    clients: Clients,
    *,
    strategy: str | ServerStrategy = "fedavg",
    rounds: int = 10,
    clients_per_round: int | None = None,
    selection: Any = None,
    aggregation: str | None = None,
    local: LocalTraining | None = None,
    strategies: Sequence[Strategy] = (),
    evaluate: Evaluate | None = None,
    evaluate_every: int = 1,
    clients_evaluation: Clients | None = None,
    evaluate_client: ClientEvaluation | None = None,
    evaluate_clients_every: int | None = None,
    backend: Backend = "inprocess",
    freeze_layers: Sequence[str | int] = (),
    initial: Mapping[str, Tensor] | None = None,
    previous: FederatedResult | None = None,
    cap: SizeCap | None = SizeCap(),  # noqa: B008 - frozen
    timeout: float = 3600.0,
    checkpoint: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    **options: Any,
) -> FederatedResult:
    """Trains a learner on clients whose data stays with them.

    The rounds are Flower's, the training on a client is :func:`foretell.training.fit`. The same
    seed selects the same clients and ends with the same weights on every backend.

    Args:
        build: makes the learner; called under a fixed seed on the server and on every client.
        clients: where the clients' data comes from.
        strategy: ``fedavg``, ``fedprox``, ``fedadam``, ``fedavgm``, ``fedadagrad``, ``fedyogi``,
            ``scaffold``, or any strategy of Flower's message API. One that is given is changed:
            it keeps its state for the next call.
        rounds: rounds to make.
        clients_per_round: clients that train in a round, for strategies by name; None for all.
        selection: an ``ActivitySelection``, for strategies by name; uniform when None.
        aggregation: how the updates of clients selected so are weighed.
        local: what a client does in a round.
        strategies: of the local training, as in ``fit``; every round works on copies.
        evaluate: measures the learner on the server, before the first round too.
        evaluate_every: rounds between these measurements.
        clients_evaluation: the clients' test data: each is evaluated on its own.
        evaluate_client: measures a learner on one client's test examples; the mean score, called
            ``loss``, when None.
        evaluate_clients_every: rounds between evaluations on the clients; the last round only
            when None.
        backend: ``inprocess`` (one process, no Ray), ``ray`` (Flower's simulation) or
            ``superlink`` (a SuperLink and SuperNodes over TLS on this machine).
        freeze_layers: layers that neither move nor travel: names of modules, or numbers of the
            learner's stack.
        initial: weights to start from, by name of the learner's state.
        previous: an earlier result to go on from: weights, the server's optimizer, rounds and (in
            process) what clients keep.
        cap: what sizes of clients are believed; None for all.
        timeout: seconds a client may take in a round; the others' replies are used.
        checkpoint: folder for a checkpoint after every round; None for none.
        resume: go on from the checkpoint in that folder, or start when there is none yet. A
            resumed run ends with the same weights as one that was not interrupted.
        seed: of everything that is random.
        options: of a strategy by name, by Flower's names (``eta``, ``proximal_mu``,
            ``server_momentum``), or of the backend (``cpus_per_client`` for Ray,
            ``authenticate`` and ``start_timeout`` for the SuperLink).

    Returns:
        The learner and tables of rounds and clients.

    Raises:
        ParameterError: an unknown name, or a value out of its range.
        TrainingError: a server whose weights are not finite any more, nodes that do not come, or
            earlier rounds that a statement of privacy would leave out.
    """
    check_rounds(rounds, timeout)
    if len(clients) < 1:
        raise ParameterError("there is no client")
    if evaluate_every < 1:
        raise ParameterError(f"evaluate_every must be at least 1, not {evaluate_every!r}")
    if resume and checkpoint is None:
        raise ParameterError("resume=True needs the folder of the checkpoint: checkpoint=...")
    local = LocalTraining() if local is None else local
    backend_options = {k: options.pop(k) for k in BACKEND_OPTIONS.get(backend, ()) if k in options}
    algorithm = make_strategy(
        strategy,
        clients_per_round,
        selection=selection,
        aggregation=aggregation,
        seed=seed,
        **options,
    )
    state = None if previous is None else previous.state
    weights = dict(initial or {})
    if previous is not None:
        weights = {name: t.detach().cpu() for name, t in previous.learner.state_dict().items()}
    workshop = Workshop(build, freeze_layers, seed, weights)
    app = client_app(
        workshop,
        clients,
        local,
        strategies=strategies,
        clients_evaluation=clients_evaluation,
        evaluate_client=evaluate_client,
        seed=seed,
    )
    every = evaluate_clients_every
    evaluated = []
    if clients_evaluation is not None:
        every = (1 << 60) if every is None else every
        evaluated = [k for k in range(len(clients_evaluation)) if clients_evaluation.activity(k)]
    server = Server(
        workshop=workshop,
        strategy=algorithm,
        clients=len(clients),
        rounds=rounds,
        seed=seed,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        evaluate_clients_every=every if evaluated else None,
        evaluated=evaluated,
        cap=cap,
        timeout=timeout,
        previous=state,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        resume=resume,
        settings={
            "strategy": type(algorithm).__name__,
            "clients": len(clients),
            "seed": seed,
            "rounds": rounds,
            "local": repr(local),
            "freeze_layers": list(freeze_layers),
        },
    )
    used = [build, clients, evaluate, clients_evaluation, evaluate_client, algorithm]
    final = _run(backend, server, app, [*used, local.schedule, *strategies], backend_options)
    return _result(server, final)


def _run(
    backend: Backend, server: Server, app: ClientApp, used: list[Any], options: dict[str, Any]
) -> dict[str, Any]:
    if backend == "inprocess":
        found = server.previous
        if server.resume and server.checkpoint is not None:
            found = load_checkpoint(server.checkpoint) or found
        states = load_client_states(found["clients"]) if found else {}
        grid = InProcessGrid(app, server.clients, states=states)
        with grid.open():
            return server.run(grid)
    if backend == "ray":
        from foretell.training.federated.backends.ray import run_on_ray

        return run_on_ray(server, app, used=used, **options)
    if backend == "superlink":
        from foretell.training.federated.backends.superlink import run_on_superlink

        return run_on_superlink(server, app, used=used, **options)
    raise ParameterError(f"unknown backend {backend!r}: one of inprocess, ray, superlink")


def _result(server: Server, final: dict[str, Any]) -> FederatedResult:
    learner = server.workshop.make()
    load_record(travelling(learner), to_record(final["arrays"]))
    learner.eval()
    rows = final["rows"]
    log = table(rows["clients"])
    clients = pl.DataFrame({"client": range(server.clients)}, schema={"client": pl.Int64})
    if not log.is_empty():
        counts = log.group_by("client").agg(
            selected=pl.len(),
            completed=pl.col("failure").is_null().sum(),
            samples=pl.col("samples").sum(),
        )
        clients = clients.join(counts, on="client", how="left").with_columns(
            pl.col("selected", "completed", "samples").fill_null(0)
        )
    tests = table(rows["evaluations"])
    if not tests.is_empty():
        last = tests.sort("round").group_by("client", maintain_order=True).last()
        clients = clients.join(last.drop("round"), on="client", how="left")
    extra = getattr(server.strategy, "selection_log", None)
    if extra is not None and not log.is_empty():
        more = extra if isinstance(extra, pl.DataFrame) else table(list(extra))
        if not more.is_empty():
            log = log.join(more, on=["round", "client"], how="left")
    statements = getattr(server.strategy, "statements", ())
    return FederatedResult(
        learner=learner,
        rounds=table(rows["rounds"]),
        clients=clients.sort("client"),
        selection_log=log,
        statements=tuple(statements() if callable(statements) else statements),
        state=final,
    )
