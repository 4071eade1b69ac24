"""Synaptic intelligence: importance of parameters, measured along the path of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foretell.errors import ParameterError
from foretell.training.context import Context
from foretell.training.penalty import ParameterPenalty


class SynapticIntelligence(ParameterPenalty):
    """Holds parameters by how much each has lowered the loss of earlier tasks.

    Along the way each parameter's share of the fall of the loss is summed,
    ``w_k = - sum_t g_k(t) (theta_k(t + 1) - theta_k(t))``, and at the end of the task
    ``Omega_k += w_k / (Delta_k^2 + xi)`` (Zenke, Poole and Ganguli 2017, eqs. 3 to 5). The gradient
    is that of the task, without this penalty's own.

    Args:
        anchor: parameters at the end of the last task; empty for the first.
        precision: Omega so far.
        strength: factor on the penalty, ``c`` of the paper times 2.
        xi: keeps parameters that hardly moved from weighing infinitely.
    """

    def __init__(
        self,
        anchor: Mapping[str, Tensor] | None = None,
        precision: Mapping[str, Tensor] | None = None,
        *,
        strength: float = 1.0,
        xi: float = 1e-3,
    ) -> None:
        super().__init__(anchor or {}, precision or {}, strength)
        if not xi > 0:
            raise ParameterError(f"xi must be positive, not {xi}")
        self.xi = xi

    def setup(self, context: Context) -> None:
        """Notes where the parameters start."""
        super().setup(context)
        self._parameters = dict(context.parameters)
        self._begin = {n: p.detach().clone() for n, p in self._parameters.items()}
        self._before = dict(self._begin)
        self._path = {n: torch.zeros_like(p) for n, p in self._begin.items()}
        self._gradient: dict[str, Tensor] = {}

    def adjust_gradient(self, context: Context) -> None:
        """Notes the task's gradient and where each parameter stands."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            gradient = parameter.grad.detach().clone()
            if name in self.anchor:
                own = self.precision[name] * (parameter.detach() - self.anchor[name])
                gradient -= self.strength * own
            self._gradient[name] = gradient
            self._before[name] = parameter.detach().clone()

    def after_step(self, context: Context) -> None:
        """Adds the step's part of the path integral."""
        for name, gradient in self._gradient.items():
            moved = self._parameters[name].detach() - self._before[name]
            self._path[name] -= gradient * moved
        self._gradient = {}

    def consolidated(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Anchor and Omega after this task, for the next one.

        Parameters that did worse than nothing count as unimportant.
        """
        anchor = {n: p.detach().clone() for n, p in self._parameters.items()}
        omega = {}
        for name, path in self._path.items():
            moved = anchor[name].to(path) - self._begin[name]
            share = (path / (moved.square() + self.xi)).clamp(min=0)
            earlier = self.precision.get(name)
            omega[name] = share if earlier is None else earlier + share
        return anchor, omega

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {**super().settings(), "xi": self.xi}

    def state_dict(self) -> dict[str, Any]:
        """Anchors, Omega and the path so far."""
        return {**super().state_dict(), "begin": dict(self._begin), "path": dict(self._path)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        super().load_state_dict(state)
        self._begin, self._path = dict(state["begin"]), dict(state["path"])
