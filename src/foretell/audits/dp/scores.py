"""Scores of canaries: how much of each stands in the final weights, or in each update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.training import Context, Examples, Strategy
from foretell.training.private import ExactClipper

_AT_ONCE = 512


def loss_scores(learner: Learner, canaries: Examples) -> NDArray[np.float64]:
    """Less the loss of each canary ``(m,)`` at the final weights: what a black box shows."""
    found = []
    with torch.inference_mode(), _evaluating(learner):
        for batch in _batches(canaries, learner):
            found.append(-learner.loss(batch).double().cpu().numpy())
    return np.concatenate(found)


def weight_scores(
    learner: Learner, initial: Mapping[str, Tensor], canaries: Examples, *, normalise: bool = True
) -> NDArray[np.float64]:
    """How far the weights moved against each canary's gradient ``(m,)``: a white box at the end.

    Args:
        learner: after training.
        initial: its ``state_dict`` before.
        canaries: all of them, in and out.
        normalise: whether gradients are brought to norm 1, as clipping would.
    """
    now = {name: value.detach().clone() for name, value in learner.state_dict().items()}
    moved = {
        name: initial[name].to(p.device) - p.detach() for name, p in learner.named_parameters()
    }
    learner.load_state_dict(dict(initial))
    try:
        return directional(learner, moved, canaries, normalise=normalise)
    finally:
        learner.load_state_dict(now)


class IterateScores(Strategy):
    """Sums the dot products of every noisy update with every canary's gradient.

    The strongest attacker that private training allows for sees each update. Listed beside
    :class:`~foretell.training.private.PrivateTraining` (or any other training), it looks at the
    gradient that the optimizer is about to use, noise and all, and at each canary's gradient at
    the same weights. It changes nothing.

    Args:
        canaries: all of them, in and out; label and order are those of the coins.
        normalise: whether gradients are brought to norm 1, as clipping would.
        every: steps between looks.

    Attributes:
        scores: ``(m,)`` sums so far.

    Raises:
        ParameterError: ``every`` below 1.
    """

    threat_model: Literal["white_box_iterates"] = "white_box_iterates"

    def __init__(self, canaries: Examples, *, normalise: bool = True, every: int = 1) -> None:
        if every < 1:
            raise ParameterError(f"every must be at least 1, not {every}")
        self.canaries, self.normalise, self.every = canaries, normalise, every
        self.scores = np.zeros(len(canaries))

    def adjust_gradient(self, context: Context) -> None:
        """Looks at the update; leaves it as it is."""
        if context.step % self.every:
            return
        named = dict(context.learner.named_parameters())
        update = {n: p.grad.detach() for n, p in named.items() if p.grad is not None}
        kept = {n: p.grad for n, p in named.items()}
        random = torch.get_rng_state()
        self.scores += directional(context.learner, update, self.canaries, normalise=self.normalise)
        torch.set_rng_state(random)
        for name, parameter in named.items():
            parameter.grad = kept[name]

    def state_dict(self) -> dict[str, Any]:
        """The sums, for an exact resume."""
        return {"scores": torch.from_numpy(self.scores.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self.scores = state["scores"].cpu().numpy().copy()

    def settings(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return {"canaries": len(self.canaries), "normalise": self.normalise, "every": self.every}


def directional(
    learner: Learner, direction: Mapping[str, Tensor], canaries: Examples, *,
    normalise: bool = True,
) -> NDArray[np.float64]:  # fmt: skip
    """Derivative of each canary's loss along a direction of the weights ``(m,)``.

    That is the dot product of its gradient with the direction. It takes one forward pass that
    carries derivatives along; where a layer has no rule for those (an LSTM), the difference of two
    passes.

    Args:
        learner: at the weights in question.
        direction: by name of the parameter; others stand still.
        canaries: m.
        normalise: whether to divide by the norm of each gradient, which takes a backward pass.
    """
    found = []
    clipper = ExactClipper(learner) if normalise else None
    with _evaluating(learner):
        for batch in _batches(canaries, learner):
            products = _along(learner, direction, batch)
            if clipper is not None:
                products = products / _norms(clipper, learner, batch).clamp(min=1e-12)
            found.append(products.double().cpu().numpy())
    return np.concatenate(found)


def _along(learner: Learner, direction: Mapping[str, Tensor], batch: Batch) -> Tensor:
    named = {name: p.detach() for name, p in learner.named_parameters() if name in direction}
    tangents = {name: direction[name].to(value.dtype) for name, value in named.items()}
    loss = _Loss(learner)

    def losses(values: dict[str, Tensor]) -> Tensor:
        given = {f"learner.{name}": value for name, value in values.items()}
        result: Tensor = torch.func.functional_call(loss, given, (batch,))
        return result

    try:
        with torch.no_grad():
            return torch.func.jvp(losses, (named,), (tangents,))[1].detach()
    except (NotImplementedError, RuntimeError):
        return _difference(losses, named, tangents)


def _difference(losses: Any, named: dict[str, Tensor], tangents: dict[str, Tensor]) -> Tensor:
    """The same by a central difference, of a step that rounding does not drown."""
    size = torch.stack([t.double().norm() for t in tangents.values()]).norm()
    if size == 0:
        with torch.no_grad():
            return torch.zeros_like(losses(named))
    weights = torch.stack([v.double().norm() for v in named.values()]).norm()
    step = float(1e-3 * weights.clamp(min=1.0) / size)
    with torch.no_grad():
        ends = [
            losses({name: value + sign * step * tangents[name] for name, value in named.items()})
            for sign in (1, -1)
        ]
    return (ends[0] - ends[1]) / (2 * step)


def _norms(clipper: ExactClipper, learner: Learner, batch: Batch) -> Tensor:
    def evaluate(part: Batch) -> tuple[Tensor, Tensor]:
        scores = learner.loss(part)
        return scores, torch.ones_like(scores)

    with torch.enable_grad():
        return clipper(batch, evaluate, torch.zeros_like).norms.detach()


class _Loss(nn.Module):
    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch) -> Tensor:
        return self.learner.loss(batch)


class _evaluating:  # noqa: N801
    """Holds a learner in evaluation mode, so that dropout draws nothing."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def __enter__(self) -> None:
        self.before = {m: m.training for m in self.learner.modules()}
        self.learner.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.before.items():
            module.training = training


def _batches(canaries: Examples, learner: Learner) -> Any:
    device = next(learner.parameters()).device
    rng = np.random.default_rng(0)
    for begin in range(0, len(canaries), _AT_ONCE):
        rows = np.arange(begin, min(begin + _AT_ONCE, len(canaries)))
        batch = canaries.batch(rows, rng)
        yield {key: value.to(device) for key, value in batch.items()}
