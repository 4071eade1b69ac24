"""Layers that are left as they are: not trained, and not sent."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from foretell.errors import ParameterError


def freeze(learner: nn.Module, layers: Sequence[str | int]) -> list[str]:
    """Freezes layers in place.

    Args:
        learner: any module.
        layers: a string names a module or parameter by its path or a part of it of whole
            components (``embeddings`` freezes ``encoder.embeddings.word.weight``). A number is a
            layer of the learner's stack: of its largest ``ModuleList`` or ``Sequential`` of like
            modules, or of its recurrent layers where there is none.

    Returns:
        Names of the frozen parameters.

    Raises:
        ParameterError: a layer that is not there, or nothing left to train.
    """
    parameters = dict(learner.named_parameters())
    frozen: list[str] = []
    for layer in layers:
        found = _numbered(learner, layer) if isinstance(layer, int) else _named(learner, layer)
        if not found:
            raise ParameterError(
                f"freeze_layers: {type(learner).__name__} has no layer {layer!r}. It has "
                + ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))
            )
        frozen += [name for name in found if name not in frozen]
    for name in frozen:
        parameters[name].requires_grad_(False)
    if parameters and not any(p.requires_grad for p in parameters.values()):
        raise ParameterError(f"freeze_layers={list(layers)!r} leaves nothing to train")
    return frozen


def _named(learner: nn.Module, layer: str) -> list[str]:
    part = re.compile(rf"(^|\.){re.escape(layer)}(\.|$)")
    return [name for name, _ in learner.named_parameters() if part.search(name)]


def _numbered(learner: nn.Module, layer: int) -> list[str]:
    names = [name for name, _ in learner.named_parameters()]
    stack = _stack(learner)
    if stack is not None:
        return [name for name in names if name.startswith(f"{stack}{layer}.")]
    return [name for name in names if re.search(rf"_l{layer}(_reverse)?$", name)]


def _stack(learner: nn.Module) -> str | None:
    """Path of the largest list of modules of one kind, with the dot; None without one."""
    best, size = None, 0
    for name, module in learner.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) < 2:
            continue
        kinds = {type(child) for child in module}
        count = sum(p.numel() for p in module.parameters())
        if len(kinds) == 1 and count > size:
            best, size = f"{name}." if name else "", count
    return best
