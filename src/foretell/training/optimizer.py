"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from foretell.errors import ParameterError

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
"""Makes an optimizer from parameter groups; for what the names do not offer."""

OPTIMIZERS = ("adamw", "adam", "sgd")


def make_optimizer(
    optimizer: str | OptimizerFactory,
    parameters: Mapping[str, nn.Parameter],
    learning_rate: float,
    weight_decay: float,
) -> Optimizer:
    """The optimizer over ``parameters``.

    Weight decay is for matrices and kernels: biases, gains and other vectors are left out of it,
    since pulling them towards 0 regularises nothing.
    """
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay, "lr": learning_rate},
        {"params": vectors, "weight_decay": 0.0, "lr": learning_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if not isinstance(optimizer, str):
        return optimizer(groups)
    fused = _can_fuse(parameters.values())
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)
    if optimizer == "adam":
        return torch.optim.Adam(groups, lr=learning_rate, fused=fused)
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True, fused=fused)
    raise ParameterError(
        f"unknown optimizer {optimizer!r}: one of {', '.join(OPTIMIZERS)}, or a function of the "
        "parameter groups"
    )


def _can_fuse(parameters: Iterable[nn.Parameter]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)


def optimizer_state(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """Moments and counters by number of the parameter; rates and decays are settings, not state."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return state


def load_optimizer_state(optimizer: Optimizer, state: Mapping[int, dict[str, Any]]) -> None:
    """Puts back what :func:`optimizer_state` gave."""
    content = optimizer.state_dict()
    content["state"] = dict(state)
    optimizer.load_state_dict(content)
