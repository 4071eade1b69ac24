"""Gradients of single examples, formed: for parameters that no rule knows, and as the reference."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from foretell.learners.contract import Batch, Learner


def per_sample_gradients(
    learner: Learner, batch: Batch, parameters: Iterable[nn.Parameter]
) -> dict[nn.Parameter, Tensor]:
    """Gradient ``(B, ...)`` of each example's loss, vectorised over the examples.

    Args:
        learner: its operations must be known to :func:`torch.func.vmap`; else one example at a time
            is taken.
        batch: tensors, examples first.
        parameters: which gradients to form.
    """
    wanted = set(parameters)
    names = {n: p for n, p in learner.named_parameters() if p in wanted}
    state = {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
    fixed = {name: value.detach() for name, value in state.items() if name not in names}
    caller = _Caller(learner)

    def loss(values: dict[str, Tensor], example: dict[str, Tensor]) -> Tensor:
        one = {key: value.unsqueeze(0) for key, value in example.items()}
        return functional_call(caller, _prefixed({**fixed, **values}), (one,))[0]

    values = {name: parameter.detach() for name, parameter in names.items()}
    try:
        formed = vmap(grad(loss), in_dims=(None, 0), randomness="different")(values, dict(batch))
    except RuntimeError:  # an operation that vmap does not know
        return example_by_example(learner, batch, names.values())
    return {names[name]: gradient for name, gradient in formed.items()}


def example_by_example(
    learner: Learner, batch: Batch, parameters: Iterable[nn.Parameter]
) -> dict[nn.Parameter, Tensor]:
    """The same with a forward and backward pass an example: slow, and right by definition."""
    parameters = list(parameters)
    size = len(next(iter(batch.values())))
    rows: list[tuple[Tensor, ...]] = []
    for i in range(size):
        one = {key: value[i : i + 1] for key, value in batch.items()}
        with torch.enable_grad():
            loss = learner.loss(one).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(found)
    return {p: torch.stack([row[j] for row in rows]) for j, p in enumerate(parameters)}


class _Caller(nn.Module):
    """Makes the loss a forward pass, as functional calls need it."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch) -> Tensor:
        return self.learner.loss(batch)


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"learner.{name}": value for name, value in state.items()}
