"""Watches a forward and backward pass, and keeps what each layer read and what came back to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foretell.errors import TrainingError
from foretell.training.private.clipping.lstm import lstm_parameters, run_lstm
from foretell.training.private.clipping.rules import RULES, LinearUse, Rule, Use

MIXING = (nn.modules.batchnorm._BatchNorm,)
"""Modules that let examples see one another."""


class Recorder:
    """Records the uses of parameters of a module while :meth:`watching`.

    Parameters are held (they ask for no gradient) in the meantime, so that the backward pass does
    not form the gradient that private training must not use.

    Args:
        module: whose parameters.
        by_autograd: parameters that are used in ways no rule knows; they are left alone.

    Raises:
        TrainingError: a module lets examples see one another, or keeps statistics of them.
    """

    def __init__(
        self, module: nn.Module, by_autograd: frozenset[nn.Parameter] = frozenset()
    ) -> None:
        self.module = module
        self.uses: list[Use] = []
        for name, child in module.named_modules():
            if isinstance(child, MIXING):
                raise TrainingError(
                    f"{name or type(child).__name__} is a {type(child).__name__}: it mixes the "
                    "examples of a batch, so no gradient belongs to one example alone. Use "
                    "torch.nn.GroupNorm or LayerNorm in its place"
                )
            if getattr(child, "track_running_stats", False):
                raise TrainingError(
                    f"{name or type(child).__name__} is a {type(child).__name__} that keeps means "
                    "of the examples, which no noise protects: set track_running_stats=False"
                )
            _check_kind(name, child, by_autograd)
        self._all = [p for p in module.parameters() if p.requires_grad]
        self._trained = {p for p in self._all if p not in by_autograd}

    @property
    def known(self) -> set[nn.Parameter]:
        """Parameters that belong to layers with a rule."""
        known: set[nn.Parameter] = set()
        for child in self.module.modules():
            if isinstance(child, nn.LSTM) or _rule(child) is not None:
                known |= {p for p in child.parameters(recurse=False) if p in self._trained}
        return known

    @property
    def recurrent(self) -> set[nn.Parameter]:
        """Parameters of LSTMs, whose gradients are read off the recorder alone."""
        lstms = [m for m in self.module.modules() if isinstance(m, nn.LSTM)]
        return {p for lstm in lstms for p in lstm.parameters() if p in self._trained}

    @contextmanager
    def watching(self, *, hold: bool = True, fresh: bool = True) -> Iterator[list[Use]]:
        """Records forward passes in the block; backward passes may follow within or after it.

        Args:
            hold: whether parameters ask for no gradient in the block.
            fresh: whether what was seen before is forgotten.
        """
        if fresh:
            self.uses = []
        known = self.known
        handles: list[Any] = []
        replaced: list[nn.LSTM] = []
        try:
            for parameter in self._all if hold else ():
                parameter.requires_grad_(False)
            for child in self.module.modules():
                own = {n: p for n, p in child.named_parameters(recurse=False) if p in known}
                if not own:
                    continue
                if isinstance(child, nn.LSTM):
                    child.forward = partial(self._lstm, child)  # type: ignore[method-assign]
                    replaced.append(child)
                elif (rule := _rule(child)) is not None:
                    hook = partial(self._saw, rule, own)
                    handles.append(child.register_forward_hook(hook))
            yield self.uses
        finally:
            for handle in handles:
                handle.remove()
            for lstm in replaced:
                del lstm.forward
            for parameter in self._all if hold else ():
                parameter.requires_grad_(True)

    def _saw(
        self,
        rule: Rule,
        parameters: dict[str, nn.Parameter],
        module: nn.Module,
        inputs: tuple[Tensor, ...],
        output: Tensor,
    ) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        read = tuple(value.detach() for value in inputs)

        def came_back(gradient: Tensor) -> None:
            self.uses.append(rule.use(module, parameters, read, gradient.detach()))

        if output.requires_grad:
            output.register_hook(came_back)
            return None
        # Nothing before this layer asks for a gradient. The copy may be changed in place.
        copy = output.requires_grad_().clone()
        copy.register_hook(came_back)
        return copy

    def _lstm(self, module: nn.LSTM, inputs: Any, state: Any = None) -> Any:
        if not torch.is_grad_enabled():
            return nn.LSTM.forward(module, inputs, state)

        def listener(layer: int) -> Any:
            def came_back(direction: int, read: Tensor, gradient: Tensor) -> None:
                own = lstm_parameters(module, layer, direction)
                own = {role: p for role, p in own.items() if p in self._trained}
                size = module.hidden_size
                columns = {"weight_ih": slice(None, -size), "weight_hh": slice(-size, None)}
                self.uses.append(LinearUse(own, read, gradient, columns))

            return came_back

        return run_lstm(module, inputs, state, listener)


def _check_kind(name: str, module: nn.Module, by_autograd: frozenset[nn.Parameter]) -> None:
    """Refuses settings of layers that no guarantee, or no rule, covers.

    Raises:
        TrainingError: says what to set instead.
    """
    where = name or type(module).__name__
    own = [p for p in module.parameters(recurse=False) if p.requires_grad]
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and own:
        if module.max_norm is not None:
            raise TrainingError(
                f"{where} has max_norm={module.max_norm}, which shortens the rows that a batch "
                "reads, without noise: set max_norm=None"
            )
        if module.scale_grad_by_freq:
            raise TrainingError(
                f"{where} has scale_grad_by_freq, by which examples that share a word share a "
                "gradient: set it to False"
            )
    if not own or all(p in by_autograd for p in own):
        return
    if isinstance(module, nn.Conv1d) and module.padding_mode != "zeros":
        raise TrainingError(
            f"{where} has padding_mode={module.padding_mode!r}, for which exact clipping has no "
            "rule: pad by torch.nn.functional.pad before a convolution without padding, or use "
            "clipping='per_sample'"
        )
    if isinstance(module, nn.LSTM) and module.proj_size:
        raise TrainingError(
            f"{where} is an LSTM with projections (proj_size={module.proj_size}), for which exact "
            "clipping has no rule: set proj_size=0 and add a torch.nn.Linear, or use "
            "clipping='per_sample'"
        )


def _rule(module: nn.Module) -> Rule | None:
    return next((RULES[kind] for kind in type(module).__mro__ if kind in RULES), None)
