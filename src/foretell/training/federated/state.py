"""A strategy's state as plain arrays and numbers, for checkpoints and for the next period."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from foretell.training.federated.records import to_numpy, to_record

_RECORD = "record"


def strategy_state(strategy: Strategy) -> dict[str, Any]:
    """What a strategy carries from round to round.

    Of Flower's own strategies: every attribute that holds arrays (moments, momentum, the current
    model). Of those that have a ``state_dict`` of plain arrays, numbers and strings: that too.
    """
    state: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        packed = _pack(value)
        if packed is not None:
            state[name] = packed
    own = getattr(strategy, "state_dict", None)
    return {"arrays": state, "own": {} if own is None else own()}


def load_strategy_state(strategy: Strategy, state: dict[str, Any]) -> None:
    """Puts back what :func:`strategy_state` gave."""
    for name, packed in state["arrays"].items():
        setattr(strategy, name, _unpack(packed))
    if state["own"]:
        strategy.load_state_dict(state["own"])  # type: ignore[attr-defined]


def _pack(value: Any) -> dict[str, Any] | None:
    if isinstance(value, ArrayRecord):
        return {_RECORD: {name: to_numpy(array) for name, array in value.items()}}
    if isinstance(value, np.ndarray):
        return {"array": value}
    if isinstance(value, dict) and value and _all_arrays(value.values()):
        return {"dict": dict(value)}
    if isinstance(value, list) and value and _all_arrays(value):
        return {"list": list(value)}
    return None


def _all_arrays(values: Any) -> bool:
    return all(isinstance(value, np.ndarray | np.generic) for value in values)


def _unpack(packed: dict[str, Any]) -> Any:
    ((kind, value),) = packed.items()
    if kind == _RECORD:
        return to_record(value)
    if kind == "dict":
        return {name: np.asarray(array) for name, array in value.items()}
    return [np.asarray(array) for array in value] if kind == "list" else value


def client_states(states: dict[int, RecordDict]) -> dict[str, Any]:
    """The states of clients as plain arrays and numbers."""
    found: dict[str, Any] = {}
    for client, state in states.items():
        records: dict[str, Any] = {}
        for name, record in state.items():
            if isinstance(record, ArrayRecord):
                records[name] = {"arrays": {key: to_numpy(array) for key, array in record.items()}}
            else:
                kind = "metrics" if isinstance(record, MetricRecord) else "config"
                records[name] = {kind: dict(record)}
        found[str(client)] = records
    return found


def load_client_states(found: dict[str, Any]) -> dict[int, RecordDict]:
    """The states of clients as Flower's records."""
    states = {}
    for client, records in found.items():
        state = RecordDict()
        for name, record in records.items():
            ((kind, values),) = record.items()
            if kind == "arrays":
                state[name] = to_record(values)
            else:
                state[name] = (MetricRecord if kind == "metrics" else ConfigRecord)(values)
        states[int(client)] = state
    return states
