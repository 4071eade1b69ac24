"""Exact clipping of each example's gradient at about the price of one ordinary backward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import torch
from torch import Tensor, nn

from foretell.errors import TrainingError
from foretell.training.private.clipping.rules import (
    EmbeddingUse,
    LinearUse,
    Use,
    cross,
    joined,
    wide,
)


class Ledger:
    """What one forward and one backward pass say of each example's gradient.

    Args:
        uses: what a :class:`~foretell.training.private.clipping.recorder.Recorder` saw.
        examples: number of examples B.

    Raises:
        TrainingError: a layer was not called with the examples first, or layers share a parameter
            in a way that no rule knows.
    """

    def __init__(self, uses: list[Use], examples: int) -> None:
        self.examples = examples
        entries: dict[nn.Parameter, list[tuple[Use, str]]] = defaultdict(list)
        for use in uses:
            if use.examples != examples:
                raise TrainingError(
                    f"a layer saw {use.examples} rows where the batch has {examples} examples: "
                    "layers must be called with the examples first"
                )
            for role, parameter in use.parameters.items():
                entries[parameter].append((use, role))
        self.entries = {parameter: _merged(found) for parameter, found in entries.items()}

    def only(self, parameters: Collection[nn.Parameter]) -> Ledger:
        """The entries of some parameters."""
        part = Ledger([], self.examples)
        part.entries = {p: found for p, found in self.entries.items() if p in parameters}
        return part

    def squared_norms(self) -> Tensor:
        """Squared norms ``(B,)`` of the examples' gradients, all parameters together."""
        parts = []
        for found in self.entries.values():
            found = [(use.widened(), role) for use, role in found]
            parts += [use.squared_norms(role) for use, role in found]
            if len(found) == 2:
                (table, _), (layer, role) = found
                assert isinstance(table, EmbeddingUse) and isinstance(layer, LinearUse)
                parts.append(2 * cross(table, layer, role))
        if not parts:
            return torch.zeros(self.examples)
        return torch.stack(parts).sum(0).clamp(min=0)

    def weighted_sums(self, coefficients: Tensor) -> dict[nn.Parameter, Tensor]:
        """``sum_i c_i grad_i`` of each parameter, for coefficients ``(B,)``.

        Examples of coefficient 0 are left out, whatever their gradient is.
        """
        keep = coefficients != 0
        everyone = bool(keep.all())
        kept_coefficients = coefficients if everyone else coefficients[keep]
        sums: dict[nn.Parameter, Tensor] = {}
        for parameter, found in self.entries.items():
            for use, role in found:
                kept = use if everyone else use.select(keep)
                weights = wide(kept_coefficients.to(parameter.dtype))
                part = kept.widened().weighted_sum(role, weights).to(parameter.dtype)
                sums[parameter] = sums[parameter] + part if parameter in sums else part
        return sums


def _merged(found: list[tuple[Use, str]]) -> list[tuple[Use, str]]:
    """One use of a parameter, or two: a table, and the layers that share its weight."""
    if len(found) == 1:
        return found
    roles = {role for _, role in found}
    groups: list[list[Use]] = [
        [use for use, _ in found if isinstance(use, kind)] for kind in (EmbeddingUse, LinearUse)
    ]
    mixed = all(groups) and sum(map(len, groups)) == len(found)
    if len(roles) == 1:
        (role,) = roles
        merged = [joined(g, role) for g in (groups if mixed else [[use for use, _ in found]])]
        if all(use is not None for use in merged):
            return [(use, role) for use in merged if use is not None]
    raise TrainingError(
        "layers of different kinds share a parameter in a way that no rule knows: "
        "use clipping='per_sample'"
    )
