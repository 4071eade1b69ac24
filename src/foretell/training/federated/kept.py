"""An optimizer's moments in a client's Flower state, between its rounds."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import RecordDict
from torch import Tensor
from torch.optim import Optimizer

from foretell.training.federated.records import from_record, to_record
from foretell.training.optimizer import optimizer_state

KEY = "optimizer"


def save(state: RecordDict, optimizer: Optimizer) -> None:
    """Writes moments and counters into the client's state."""
    tensors: dict[str, Tensor] = {}
    for index, values in optimizer_state(optimizer).items():
        for name, value in values.items():
            if value is not None:
                tensors[f"{index}.{name}"] = torch.as_tensor(value)
    if tensors:
        state[KEY] = to_record(tensors)


def load(state: RecordDict) -> dict[int, dict[str, Any]] | None:
    """Moments and counters by number of the parameter; None before the first round."""
    if KEY not in state.array_records:
        return None
    found: dict[int, dict[str, Any]] = {}
    for key, tensor in from_record(state.array_records[KEY]).items():
        index, _, name = key.partition(".")
        found.setdefault(int(index), {})[name] = tensor
    return found
