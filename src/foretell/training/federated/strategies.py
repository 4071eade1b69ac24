"""Server algorithms by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    Strategy,
)

from foretell.errors import ParameterError
from foretell.training.federated.flower import quiet
from foretell.training.federated.scaffold_server import Scaffold

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedadagrad": FedAdagrad,
    "fedyogi": FedYogi,
    "scaffold": Scaffold,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "fedavgm": {"server_momentum": 0.9},
    "fedprox": {"proximal_mu": 0.1},
    "fedadam": {"eta": 0.03},
}
"""Where a name means more than Flower's defaults, which would make FedAvgM and FedProx FedAvg."""


def make_strategy(
    strategy: str | Strategy,
    clients_per_round: int | None = None,
    *,
    selection: Any = None,
    aggregation: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Strategy:
    """A Flower strategy by name, or the one given.

    Args:
        strategy: ``fedavg``, ``fedavgm`` (server momentum .9), ``fedprox`` (mu .1), ``fedadam``
            (eta .03), ``fedadagrad``, ``fedyogi``, ``scaffold``, or a Flower strategy.
        clients_per_round: clients that train in a round, drawn uniformly; None for all.
        selection: how else they are drawn: an ``ActivitySelection``.
        aggregation: how their updates are weighed then.
        seed: of that selection.
        options: of the strategy, by Flower's names.

    Raises:
        ParameterError: an unknown name, or options for a strategy that is made already.
    """
    if not isinstance(strategy, str):
        if clients_per_round is not None or selection is not None or options:
            raise ParameterError(
                "clients_per_round, selection and options are for strategies by name: give them to "
                f"{type(strategy).__name__} itself (min_train_nodes, fraction_train)"
            )
        return strategy
    if strategy not in STRATEGIES:
        raise ParameterError(f"unknown strategy {strategy!r}: one of {', '.join(STRATEGIES)}")
    arguments: dict[str, Any] = {"fraction_evaluate": 0.0, "min_available_nodes": 1}
    if clients_per_round is None:
        arguments.update(fraction_train=1.0, min_train_nodes=1)
    elif clients_per_round < 1:
        raise ParameterError(f"clients_per_round must be at least 1, not {clients_per_round}")
    else:
        # Flower takes the larger of fraction and minimum; a fraction of 0 means no training.
        arguments.update(fraction_train=1e-12, min_train_nodes=clients_per_round)
    arguments.update({**DEFAULTS.get(strategy, {}), **options})
    kind = STRATEGIES[strategy]
    if selection is not None:
        from foretell.training.federated.with_selection import WithSelection

        kind = WithSelection(kind)
        # Its own number of clients: it may be drawn with replacement, or on average only.
        arguments.update(
            selection=selection, seed=seed, clients_per_round=clients_per_round, min_train_nodes=1
        )
        if aggregation is not None:
            arguments.update(aggregation=aggregation)
    with quiet(40):
        return kind(**arguments)
