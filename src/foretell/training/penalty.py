"""Penalties that hold parameters near an anchor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch, Learner
from foretell.training.context import Context
from foretell.training.strategy import Strategy


class ParameterPenalty(Strategy):
    """Adds ``strength / 2 * sum_j precision_j (theta_j - anchor_j)^2``.

    A Gaussian prior around ``anchor``. With the Fisher information of an earlier task as
    precision it is elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3); with a path
    integral, synaptic intelligence (Zenke et al. 2017, eq. 4); with 1, a proximal term.

    Args:
        anchor: values by name of the learner's parameters. Parameters without one are free.
        precision: tensors of the anchors' shapes, numbers, or one number for all.
        strength: factor on the whole.

    Raises:
        ParameterError: a negative strength or precision, or shapes that differ.
        TrainingError: at the start of training, anchors that the learner has no parameter for.
    """

    def __init__(
        self,
        anchor: Mapping[str, Tensor],
        precision: Mapping[str, Tensor | float] | float = 1.0,
        strength: float = 1.0,
    ) -> None:
        if not strength >= 0:
            raise ParameterError(f"strength must not be negative, not {strength}")
        self.strength = float(strength)
        self.anchor = {name: value.detach().clone() for name, value in anchor.items()}
        if not isinstance(precision, Mapping):
            precision = dict.fromkeys(self.anchor, precision)
        if set(precision) != set(self.anchor):
            odd = sorted(set(precision) ^ set(self.anchor))
            raise ParameterError(f"anchor and precision must name the same parameters, not {odd}")
        self.precision: dict[str, Tensor] = {}
        for name, value in precision.items():
            tensor = torch.as_tensor(value, dtype=self.anchor[name].dtype).detach().clone()
            if tensor.ndim and tensor.shape != self.anchor[name].shape:
                raise ParameterError(
                    f"precision of {name!r} has shape {tuple(tensor.shape)}, its anchor "
                    f"{tuple(self.anchor[name].shape)}"
                )
            if not bool((torch.isfinite(tensor) & (tensor >= 0)).all()):
                raise ParameterError(f"precision of {name!r} must be finite and not negative")
            self.precision[name] = tensor

    def setup(self, context: Context) -> None:
        """Checks the names and shapes, and brings the anchors to the device."""
        parameters = dict(context.learner.named_parameters())
        for name, value in self.anchor.items():
            if name not in parameters:
                raise TrainingError(
                    f"{self.name}: the learner has no parameter {name!r}; it has "
                    f"{', '.join(parameters)}"
                )
            like = parameters[name]
            if like.shape != value.shape:
                raise TrainingError(
                    f"{self.name}: anchor {name!r} has shape {tuple(value.shape)}, the parameter "
                    f"{tuple(like.shape)}"
                )
            self.anchor[name] = value.to(like)
            self.precision[name] = self.precision[name].to(like)

    def penalty(
        self, learner: Learner, encoding: Tensor, output: Any, batch: Batch, context: Context
    ) -> Tensor | None:
        """The penalty, a scalar."""
        return self.value(learner)

    def value(self, learner: Learner) -> Tensor | None:
        """The penalty, a function of the parameters alone; None without anchors."""
        terms = [
            (self.precision[name] * (parameter - self.anchor[name]) ** 2).sum()
            for name, parameter in learner.named_parameters()
            if name in self.anchor
        ]
        return 0.5 * self.strength * torch.stack(terms).sum() if terms else None

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {"strength": self.strength}

    def state_dict(self) -> dict[str, Any]:
        """Anchors and precisions: a resumed run holds on to those it was begun with."""
        return {"anchor": dict(self.anchor), "precision": dict(self.precision)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes anchors and precisions back."""
        self.anchor, self.precision = dict(state["anchor"]), dict(state["precision"])


class L2ToReference(ParameterPenalty):
    """Holds all trainable parameters near those the learner has when training starts (L2-SP).

    ``strength / 2 * ||theta - theta_0||^2`` (Li et al. 2018, eq. 2; FedProx's proximal term, Li
    et al. 2020, eq. 2).

    Args:
        strength: factor on the penalty.
    """

    def __init__(self, strength: float) -> None:
        super().__init__({}, 1.0, strength)

    def setup(self, context: Context) -> None:
        """Takes the learner's parameters as anchor."""
        self.anchor = {
            name: parameter.detach().clone()
            for name, parameter in context.learner.named_parameters()
            if parameter.requires_grad
        }
        self.precision = {name: value.new_ones(()) for name, value in self.anchor.items()}
