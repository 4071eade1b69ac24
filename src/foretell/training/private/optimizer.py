"""An optimizer whose steps are private."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foretell.errors import TrainingError
from foretell.training.private.loader import Draws
from foretell.training.private.microbatch import MicroBatchTraining
from foretell.training.private.strategy import PrivateTraining
from foretell.training.private.wrapping import Call, PrivateModule
from foretell.training.sampling import STEP, generator

_LOOKS = 3


class PrivateOptimizer(torch.optim.Optimizer):
    """Wraps an optimizer: clips, adds noise, divides by the public size, then lets it step.

    ``step(loss)`` takes one loss for each example ``(B,)`` and does the rest. After
    ``loss.sum().backward()`` it is ``step()``, which cannot see how the loss was reduced.

    Args:
        optimizer: moves the weights.
        module: whose calls the steps follow.
        mechanism: bounds, noise and accounts.
        draws: what was drawn.
        mean: whether losses that are backpropagated by the caller are means over the batch.

    Attributes:
        told: steps whose loss was backpropagated by the caller.
        several: steps with several calls of the module.

    Raises:
        TrainingError: it moves parameters that the module does not train.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        module: PrivateModule,
        mechanism: PrivateTraining,
        draws: Draws,
        *,
        mean: bool = False,
    ) -> None:
        self.original_optimizer = optimizer
        self.module, self.mechanism, self.draws, self.mean = module, mechanism, draws, mean
        self.trained = [p for p in module.parameters() if p.requires_grad]
        own = set(self.trained)
        strange = [
            p for group in optimizer.param_groups for p in group["params"]
            if p not in own and p.requires_grad
        ]  # fmt: skip
        if strange:
            raise TrainingError(
                f"the optimizer moves {len(strange)} parameters that are not the module's: their "
                "gradients would not be private"
            )
        self.by_slot = isinstance(mechanism, MicroBatchTraining)
        self.told = self.several = 0
        self._sums: dict[nn.Parameter, Tensor] = {}
        self._skips: deque[bool] = deque()
        self._set: dict[nn.Parameter, tuple[Tensor, int]] = {}
        self._looks = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Those of the wrapped optimizer, as schedules need them."""
        return self.original_optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """That of the wrapped optimizer."""
        return self.original_optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """Those of the wrapped optimizer."""
        return self.original_optimizer.defaults

    def state_dict(self) -> dict[str, Any]:
        """That of the wrapped optimizer; the engine has its own."""
        return self.original_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self.original_optimizer.load_state_dict(state_dict)

    def __repr__(self) -> str:
        return f"PrivateOptimizer({self.original_optimizer!r})"

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets gradients, but no part of a step that is not yet made."""
        self.original_optimizer.zero_grad(set_to_none)
        self._set = {}

    def signal_skip_step(self, skip: bool = True) -> None:
        """Says whether the next :meth:`step` only gathers a part of a batch."""
        self._skips.append(skip)

    def forget_parts(self) -> None:
        """Forgets parts of a step that was not made."""
        self._skips.clear()
        self._sums = {}
        self.mechanism.layers.forget()

    def step(self, loss: Tensor | Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes a step, or a part of one.

        Args:
            loss: one for each example ``(B,)``, of outputs of the private module; or a function
                that calls ``backward``; or None after ``loss.sum().backward()``.

        Raises:
            TrainingError: a loss that was reduced or that mixes examples, a gradient from outside
                of the module, or a batch that was not drawn for the step.
        """
        if callable(loss) and not isinstance(loss, Tensor):
            with torch.enable_grad():
                loss()
            loss = None
        for parameter in self.trained:
            known = self._set.get(parameter)
            grad = parameter.grad
            if grad is not None and (
                known is None or known[0] is not grad or known[1] != grad._version
            ):
                raise TrainingError(
                    "a gradient reached a parameter past the private module, unclipped: compute "
                    "losses from its outputs alone (penalties on weights: weight_decay)"
                )
        calls = self.module.take()
        if loss is not None:
            self._backward(loss, calls)
        else:
            self.told += bool(calls)
            self._undo_mean(calls)
        self._gather(calls)
        if self._skips and self._skips.popleft():
            return
        self.draws.make()
        sums = {p: self._sums.get(p, torch.zeros_like(p)) for p in self.trained}
        self._sums = {}
        number = self.draws.made - 1
        device = self.trained[0].device
        self.mechanism.release(sums, number, device)
        for parameter, total in sums.items():
            parameter.grad = total
        self.original_optimizer.step()
        self._set = {p: (p.grad, p.grad._version) for p in self.trained if p.grad is not None}

    def slots(self, size: int) -> list[Tensor]:
        """Rows of each slot of the step under way."""
        assert isinstance(self.mechanism, MicroBatchTraining)
        if self.mechanism.noise.secure:
            rng = np.random.default_rng()
        else:
            rng = generator(self.draws.seed, STEP, self.draws.made, 1)
        return self.mechanism.slots(size, rng)

    def _backward(self, loss: Tensor, calls: list[Call]) -> None:
        if not isinstance(loss, Tensor) or loss.ndim != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise TrainingError(
                f"private training needs one loss for each example, shape (B,), not {shape}: do "
                "not reduce it (criterion(..., reduction='none'))"
            )
        leaves = [leaf for call in calls for leaf in call.leaves]
        if not len(loss):
            return
        if not leaves or not loss.requires_grad:
            raise TrainingError(
                "the loss does not depend on an output of the private module: call the module that "
                "make_private returned, in training mode"
            )
        if any(call.size != len(loss) for call in calls):
            raise TrainingError(
                f"{len(loss)} losses of {calls[0].size} examples: one loss for each is needed, "
                "shape (B,)"
            )
        if self._looks < _LOOKS and len(loss) > 1:
            self._look_apart(loss, leaves)
            self._looks += 1
        found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        for leaf, gradient in zip(leaves, found, strict=True):
            leaf.grad = gradient

    def _look_apart(self, loss: Tensor, leaves: list[Tensor]) -> None:
        half = len(loss) // 2
        found = torch.autograd.grad(loss[:half].sum(), leaves, retain_graph=True, allow_unused=True)
        if any(bool(g[half:].any()) for g in found if g is not None):
            raise TrainingError(
                "the loss of an example depends on outputs of others: the criterion mixes the "
                "examples of a batch, so no gradient belongs to one example alone"
            )

    def _undo_mean(self, calls: list[Call]) -> None:
        for call in calls if self.mean else ():
            for leaf in call.leaves:
                if leaf.grad is not None:
                    leaf.grad *= call.size

    def _gather(self, calls: list[Call]) -> None:
        live = [call for call in calls if any(leaf.grad is not None for leaf in call.leaves)]
        if len(live) > 1:
            self.several += 1
            # Rows of all calls are taken for the same examples and clipped as one.
            drawn = self.draws.sizes
            if self.draws.checked and not {call.size for call in live} <= drawn:
                raise TrainingError(
                    f"the module was called with {[call.size for call in live]} examples before "
                    f"one step on a batch of {sorted(drawn)}: parts of a batch, which would be "
                    "clipped together as if they were the same examples, so that the stated "
                    "epsilon would be false. Larger batches go through BatchMemoryManager"
                )
        if isinstance(self.mechanism, MicroBatchTraining):
            self._sums = {p: torch.zeros_like(p) for p in self.trained}
            self.module.clipped_slots(calls, self.mechanism, self._sums)
            return
        for found in self.module.clipped(calls, self.mechanism.layers):
            self.mechanism.dropped += found.dropped
            for p, total in found.gradients.items():
                self._sums[p] = self._sums[p] + total if p in self._sums else total
