"""A module whose outputs are cut from their graph, so that gradients can be clipped behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from foretell.errors import TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.private.clipping import ClippedSum, ExactClipper
from foretell.training.private.clipping.book_keeping import Ledger
from foretell.training.private.clipping.clipper import clipped_sum
from foretell.training.private.layers import Layers
from foretell.training.private.microbatch import MicroBatchTraining


@dataclass(eq=False)
class Call:
    """One forward pass of a private module that a step may follow.

    Attributes:
        size: number of examples B.
        outputs: results with their graph.
        leaves: the same without it, which the caller got: the loss' gradient lands there.
        batch: what was read, by name.
        fixed: inputs without rows of examples, by place.
        slots: rows of each slot and its outputs, when micro-batches are clipped.
    """

    size: int
    outputs: list[Tensor]
    leaves: list[Tensor]
    batch: dict[str, Tensor] = field(default_factory=dict)
    fixed: dict[int, Any] = field(default_factory=dict)
    slots: list[tuple[Tensor, list[Tensor]]] = field(default_factory=list)


class Surrogate(Learner):
    """A module as a learner: its loss is linear in its outputs, with the true loss' gradient.

    So whatever clips learners clips modules whose loss is computed elsewhere.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.structure: Any = None
        self.fixed: dict[int, Any] = {}

    def read(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[int, dict[str, Tensor]]:
        """Number of examples, and the inputs that hold one row for each.

        Raises:
            TrainingError: no input is a tensor with the examples first.
        """
        values, self.structure = tree_flatten((tuple(args), kwargs))
        tensors = [v for v in values if isinstance(v, Tensor) and v.ndim]
        if not tensors:
            raise TrainingError("a private module must be called with tensors, examples first")
        size = len(tensors[0])
        batch, self.fixed = {}, {}
        for i, value in enumerate(values):
            if isinstance(value, Tensor) and value.ndim and len(value) == size:
                batch[f"in{i}"] = value
            else:
                self.fixed[i] = value
        return size, batch

    def call(self, batch: Batch) -> Any:
        """The module's output on rows of what was read."""
        count = len(self.fixed) + sum(key.startswith("in") for key in batch)
        values = [self.fixed[i] if i in self.fixed else batch[f"in{i}"] for i in range(count)]
        args, kwargs = tree_unflatten(values, self.structure)
        return self.module(*args, **kwargs)

    def encode(self, batch: Batch) -> Any:
        """The outputs that a loss can be made of."""
        return [v for v in tree_flatten(self.call(batch))[0] if _floating(v)]

    def decode(self, encoding: Any, batch: Batch) -> Any:
        """Nothing more."""
        return encoding

    def score(self, output: Any, batch: Batch) -> Tensor:
        """Products with ``back0``, ``back1``, ... where there are, or with fixed random numbers."""
        total = None
        for i, values in enumerate(output):
            back = batch.get(f"back{i}")
            if back is None:
                random = torch.Generator().manual_seed(i)
                back = torch.randn(values.shape[1:], generator=random).to(values)
            part = (values * back).flatten(1).sum(1) if values.ndim > 1 else values * back
            total = part if total is None else total + part
        if total is None:
            raise TrainingError("the module returned no tensor that a loss could be made of")
        return total


class PrivateModule(nn.Module):
    """Wraps a module; called like it, with the examples first.

    In training the outputs are cut from the graph, so that no backward pass of the caller reaches a
    parameter: the gradients of single examples are clipped when the optimizer makes its step. In
    evaluation mode, or without gradients, it is the module itself.

    Args:
        module: what is trained. Returns tensors, examples first, alone or in tuples, lists, dicts.
        clipper: of its surrogate.
    """

    def __init__(self, module: nn.Module, clipper: ExactClipper) -> None:
        super().__init__()
        self._module = module
        self._clipper = clipper
        self._slots: Callable[[int], list[Tensor]] | None = None
        self._calls: list[Call] = []

    def by_slot(self, slots: Callable[[int], list[Tensor]]) -> None:
        """Clips micro-batches: ``slots`` gives the rows of each for a number of examples."""
        self._slots = slots

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["_module"], name)

    def to_standard_module(self) -> nn.Module:
        """The module itself."""
        return self._module

    @property
    def surrogate(self) -> Surrogate:
        """The module as a learner."""
        assert isinstance(self._clipper.learner, Surrogate)
        return self._clipper.learner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns.

        Raises:
            TrainingError: in training: inputs or outputs without the examples first, or a module
                that mixes examples.
        """
        if not (self.training and torch.is_grad_enabled()):
            return self._module(*args, **kwargs)
        surrogate = self.surrogate
        size, batch = surrogate.read(args, kwargs)
        if not size:
            return self._empty(batch)
        call = Call(size, [], [], batch)
        if self._slots is not None:
            return self._by_slot(call)
        call.fixed = surrogate.fixed
        if not self._clipper.proven and not self._calls:
            self._clipper.prove(batch, lambda given: (surrogate.loss(given), _ones(given)))
        # Without earlier calls, what was seen of steps that were not made is forgotten.
        fresh = not self._calls
        hold = self._clipper.clipping != "ghost"  # which makes an ordinary backward pass too
        with self._clipper.recorder.watching(hold=hold, fresh=fresh):
            found, structure = tree_flatten(surrogate.call(batch))
        returned = []
        for value in found:
            value = _checked(value, size, self._module)
            if _floating(value):
                call.outputs.append(value)
                value = value.detach().requires_grad_()
                call.leaves.append(value)
            returned.append(value)
        self._calls.append(call)
        return tree_unflatten(returned, structure)

    def _by_slot(self, call: Call) -> Any:
        assert self._slots is not None
        order, parts = [], []
        structure: Any = None
        for rows in self._slots(call.size):
            part = {key: value[rows.to(value.device)] for key, value in call.batch.items()}
            found, structure = tree_flatten(self.surrogate.call(part))
            found = [_checked(value, len(rows), self._module) for value in found]
            call.slots.append((rows, [value for value in found if _floating(value)]))
            order.append(rows)
            parts.append(found)
        back = torch.cat(order).argsort()
        returned = []
        for values in zip(*parts, strict=True):
            if not isinstance(values[0], Tensor):
                returned.append(values[0])
                continue
            whole = torch.cat([value.detach() for value in values])[back.to(values[0].device)]
            if _floating(whole):
                call.leaves.append(whole.requires_grad_())
            returned.append(whole)
        self._calls.append(call)
        return tree_unflatten(returned, structure)

    def _empty(self, batch: dict[str, Tensor]) -> Any:
        """Outputs of no rows, for a draw that took no example."""
        training = self._module.training
        self._module.eval()
        try:
            with torch.no_grad():
                one = {key: value.new_ones(1, *value.shape[1:]) for key, value in batch.items()}
                found, structure = tree_flatten(self.surrogate.call(one))
        finally:
            self._module.train(training)
        rows = [v[:0].detach().requires_grad_() if _floating(v) else v for v in found]
        return tree_unflatten(rows, structure)

    def take(self) -> list[Call]:
        """Calls since the last time."""
        calls, self._calls = self._calls, []
        return calls

    def clipped(self, calls: list[Call], layers: Layers) -> list[ClippedSum]:
        """Clipped sums of calls to whose leaves a gradient has come, all of one step's examples.

        Raises:
            TrainingError: calls of different sizes, so that their rows are not the same examples.
        """
        calls = [call for call in calls if any(leaf.grad is not None for leaf in call.leaves)]
        if not calls:
            return []
        sizes = {call.size for call in calls}
        if len(sizes) > 1:
            raise TrainingError(
                f"the module was called with {sorted(sizes)} examples before one step: all calls "
                "of a step must have the same examples; larger batches go through "
                "BatchMemoryManager"
            )
        (size,) = sizes
        clipper = self._clipper
        if clipper.formed:
            self._refuse_dropout()
        uses = clipper.recorder.uses
        losses = torch.zeros(size, device=calls[0].leaves[0].device)
        graphs = [
            (out, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            for call in calls
            for out, leaf in zip(call.outputs, call.leaves, strict=True)
            if out.requires_grad
        ]
        outputs, backs = [out for out, _ in graphs], [back for _, back in graphs]
        if clipper.clipping == "ghost" and outputs:

            def pull(weights: Tensor | None) -> Sequence[Tensor | None]:
                scaled = backs if weights is None else [
                    back * weights.view(-1, *[1] * (back.ndim - 1)).to(back.dtype) for back in backs
                ]  # fmt: skip
                return torch.autograd.grad(
                    outputs, clipper.direct, scaled, retain_graph=weights is None, allow_unused=True
                )

            found = clipper.ghost_sum(pull, uses, losses, lambda: self._form(calls), layers)
        else:
            if outputs:
                torch.autograd.backward(outputs, backs)
            found = clipped_sum(Ledger(uses, size), self._form(calls), losses, layers)
        clipper.recorder.uses = []
        return [found]

    def _form(self, calls: list[Call]) -> dict[nn.Parameter, Tensor]:
        """Gradients of the parameters without rules, by running the module again."""
        formed: dict[nn.Parameter, Tensor] = {}
        for call in calls if self._clipper.formed else ():
            self.surrogate.fixed = call.fixed
            given = dict(call.batch)
            for i, leaf in enumerate(call.leaves):
                given[f"back{i}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            for p, g in self._clipper.form(given, _ones(given)).items():
                formed[p] = formed[p] + g if p in formed else g
        return formed

    def clipped_slots(
        self, calls: list[Call], mechanism: MicroBatchTraining, sums: dict[nn.Parameter, Tensor]
    ) -> None:
        """Adds the slots' clipped mean gradients to ``sums``.

        Raises:
            TrainingError: several calls a step, whose slots are not the same.
        """
        calls = [call for call in calls if any(leaf.grad is not None for leaf in call.leaves)]
        if len(calls) > 1:
            raise TrainingError("micro-batches: the module can be called only once a step")
        bounds = mechanism.layers.bounds()
        for call in calls:
            for rows, outputs in call.slots:
                graphs = [
                    (out, leaf.grad[rows.to(leaf.device)] / len(rows))
                    for out, leaf in zip(outputs, call.leaves, strict=True)
                    if leaf.grad is not None and out.requires_grad
                ]
                if not graphs:
                    continue
                ends, backs = zip(*graphs, strict=True)
                found = torch.autograd.grad(ends, list(sums), backs, allow_unused=True)
                mechanism.add_clipped(dict(zip(sums, found, strict=True)), bounds, sums)

    def _refuse_dropout(self) -> None:
        for name, child in self._module.named_modules():
            rate = child.p if isinstance(child, nn.modules.dropout._DropoutNd) else 0.0
            if isinstance(getattr(child, "dropout", None), float):
                rate = child.dropout  # of recurrent layers and attention
            if child.training and rate:
                raise TrainingError(
                    f"{name or type(child).__name__} drops values, and parameters "
                    f"{self._clipper.names()[:3]} need the module to be run again, where others "
                    "would be dropped: set its rate to 0"
                )


def clipped_grad_sum(
    module: nn.Module, loss_per_example: Callable[[], Tensor], C: float
) -> ClippedSum:
    """Sum of the examples' gradients, each clipped to norm C, in one backward pass.

    Args:
        module: whose layers all have rules; see :func:`register_norm_rule`.
        loss_per_example: computes one loss for each example ``(B,)`` by calling the module's layers
            with the examples first.
        C: the bound.

    Returns:
        Gradients by parameter, and the norms ``(B,)``. There is no noise in them.

    Raises:
        TrainingError: a loss that was reduced, or parameters that no rule explains.
    """

    def evaluate(_: Batch) -> tuple[Tensor, Tensor]:
        losses = loss_per_example()
        return losses, torch.ones_like(losses)

    clipper = ExactClipper(Surrogate(module))
    clipper._apart = True  # nothing to take a part of
    clipper.prove({}, evaluate)
    if clipper.formed:
        names = [name.removeprefix("module.") for name in clipper.names()]
        raise TrainingError(
            f"no rule explains the gradients of {', '.join(names)}: register_norm_rule can teach "
            "one, and PrivacyEngine forms them by itself"
        )
    return clipper({}, evaluate, lambda norms: (C / norms.clamp(min=1e-12)).clamp(max=1))


def _ones(batch: Batch) -> Tensor:
    value = next(iter(batch.values()))
    return torch.ones(len(value), device=value.device)


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.is_floating_point()


def _checked(value: Any, size: int, module: nn.Module) -> Any:
    if isinstance(value, Tensor):
        rows = value.ndim and len(value) == size
        if not rows and (value.requires_grad or _floating(value)):
            raise TrainingError(
                f"{type(module).__name__} returned shape {tuple(value.shape)} for {size} examples: "
                "outputs must have the examples first, and the loss one value for each"
            )
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise TrainingError(
            f"{type(module).__name__} returned a {type(value).__name__}, in which gradients cannot "
            "be found: return tensors, alone or in tuples, lists and dicts"
        )
    return value
