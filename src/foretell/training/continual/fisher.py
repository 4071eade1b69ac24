"""The diagonal of the Fisher information: which parameters a task has pinned down.

Importance is a mean over *single* examples. Squaring the gradient of a batch's mean, as is often
done, makes it shrink with the batch size and the strength of the penalty with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.training.continual.memory import all_batches
from foretell.training.examples import Examples
from foretell.training.per_sample import per_sample_gradients

_NUMBERS_AT_ONCE = 20_000_000

Outcomes = Callable[[Any, Batch], Iterable[tuple[Tensor, Batch]]]
"""``(output, batch) -> [(probability (B,), batch as if this had happened), ...]``."""


class Fisher(NamedTuple):
    """Importance of parameters.

    Args:
        values: name -> tensor of the parameter's shape, mean over the examples.
        examples: number of examples behind it.
        not_finite: entries that were not finite and count as 0.
    """

    values: dict[str, Tensor]
    examples: int
    not_finite: int


def binary_outcomes(output: Any, batch: Batch) -> list[tuple[Tensor, Batch]]:
    """Both labels with the model's probabilities, for outputs with a ``logit``."""
    p = torch.sigmoid(output.logit.detach())
    zero, one = torch.zeros_like(batch["label"]), torch.ones_like(batch["label"])
    return [(1 - p, {**batch, "label": zero}), (p, {**batch, "label": one})]


def diagonal_fisher(
    learner: Learner,
    examples: Examples,
    *,
    names: Sequence[str] | None = None,
    outcomes: Outcomes | None = None,
) -> Fisher:
    """Mean squared gradient of single examples' scores.

    ``F_i = 1/M sum_m sum_y p(y | x_m) (d score(x_m, y) / d theta_i)^2``: with ``outcomes`` the
    exact expectation over the model's own labels (the Fisher information), without it the labels
    as observed (the empirical Fisher).

    Args:
        learner: at the optimum of the task; it is put in evaluation mode meanwhile.
        examples: all of them are used; choose with :class:`Subset`.
        names: of the parameters; all that are trained by default.
        outcomes: see :data:`Outcomes`; :func:`binary_outcomes` for a binary label.

    Raises:
        ParameterError: there is no such parameter.
    """
    known = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    if names is not None:
        missing = [name for name in names if name not in dict(learner.named_parameters())]
        if missing:
            raise ParameterError(f"the learner has no parameter {missing[0]!r}")
        known = {n: p for n, p in learner.named_parameters() if n in set(names)}
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in known.items()}
    size = max(1, sum(p.numel() for p in known.values()))
    step = max(1, _NUMBERS_AT_ONCE // size)
    was_training = learner.training
    learner.eval()
    count = 0
    for whole in all_batches(examples):
        length = len(next(iter(whole.values())))
        count += length
        for at in range(0, length, step):
            batch = {key: value[at : at + step] for key, value in whole.items()}
            _add(learner, batch, known, sums, outcomes)
    learner.train(was_training)
    bad = 0
    values = {}
    for name, total in sums.items():
        mean = total / max(count, 1)
        wrong = ~torch.isfinite(mean)
        bad += int(wrong.sum())
        values[name] = torch.where(wrong, 0.0, mean).to(known[name].dtype)
    return Fisher(values, count, bad)


def _add(
    learner: Learner,
    batch: Batch,
    known: dict[str, torch.nn.Parameter],
    sums: dict[str, Tensor],
    outcomes: Outcomes | None,
) -> None:
    cases: Iterable[tuple[Tensor | None, Batch]] = [(None, batch)]
    if outcomes is not None:
        with torch.no_grad():
            cases = outcomes(learner(batch), batch)
    for chance, case in cases:
        weight = None if chance is None else chance.double()
        rest = dict(known)
        for name, squares in _linear_squares(learner, case, known, weight).items():
            sums[name] += squares
            del rest[name]
        if not rest:
            continue
        found = per_sample_gradients(learner, case, rest.values())
        for name, parameter in rest.items():
            squared = found[parameter].double().square()
            if weight is None:
                sums[name] += squared.sum(0)
            else:
                sums[name] += torch.tensordot(weight, squared, dims=1)


def _linear_squares(
    learner: Learner, batch: Batch, known: dict[str, torch.nn.Parameter], weight: Tensor | None
) -> dict[str, Tensor]:
    """Sums of squared gradients of linear layers, without forming those of single examples.

    The gradient of one row of a linear layer is the outer product of what flows back and what came
    in, and the sum of its squares over rows is a product of two matrices of squares. Only for
    layers that are applied once to (B, features); whether nothing else uses their parameters is
    seen from the gradient of the whole batch.
    """
    places = {id(p): n for n, p in known.items()}
    layers = [m for m in learner.modules() if type(m) is torch.nn.Linear and id(m.weight) in places]
    seen: dict[torch.nn.Linear, list[tuple[Tensor, Tensor]]] = {m: [] for m in layers}

    def note(module: torch.nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        seen[module].append((given[0], out))  # type: ignore[index]

    hooks = [m.register_forward_hook(note) for m in layers]
    size = len(next(iter(batch.values())))
    try:
        with torch.enable_grad():
            loss = learner.loss(batch)
    finally:
        for hook in hooks:
            hook.remove()
    usable = {
        m: calls[0]
        for m, calls in seen.items()
        if len(calls) == 1 and calls[0][0].ndim == 2 and len(calls[0][0]) == size
        and calls[0][1].requires_grad
    }  # fmt: skip
    if not usable or loss.shape != (size,):
        return {}
    parameters = {
        places[id(p)]: p
        for m in usable
        for p in (m.weight, m.bias)
        if p is not None and id(p) in places
    }
    wanted = [out for _, out in usable.values()] + list(parameters.values())
    grads = torch.autograd.grad(loss.sum(), wanted, allow_unused=True, materialize_grads=True)
    whole = dict(zip(parameters, grads[len(usable) :], strict=True))
    found: dict[str, Tensor] = {}
    for (module, (given, _)), back in zip(usable.items(), grads[: len(usable)], strict=True):
        given, back = given.detach().double(), back.double()
        scaled = back.square() if weight is None else back.square() * weight[:, None]
        parts = [(module.weight, back.T @ given, scaled.T @ given.square())]
        if module.bias is not None:
            parts.append((module.bias, back.sum(0), scaled.sum(0)))
        for parameter, total, squares in parts:
            name = places.get(id(parameter))
            if name is None:
                continue
            least = 1e-4 * float(total.abs().max())
            if torch.allclose(total, whole[name].double(), rtol=1e-3, atol=max(least, 1e-12)):
                found[name] = squares
    return found
