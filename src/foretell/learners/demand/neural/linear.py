"""Products that layers share, unless somebody watches the layers one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def watched(layer: nn.Module) -> bool:
    """Whether a forward hook waits for a call of the layer.

    Private training reads each example's gradient off what layers read and what comes back to
    them: it must see every layer called, with the examples first. Shortcuts that use a layer's
    weights without calling it ask here before they are taken.
    """
    return bool(layer._forward_hooks)


def together(values: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """Outputs of several layers that read the same values, side by side ``(..., sum of widths)``.

    One product for all of them; one each where they are watched.
    """
    if any(watched(layer) for layer in layers):
        return torch.cat([layer(values) for layer in layers], -1)
    weight = torch.cat([layer.weight for layer in layers])
    return F.linear(values, weight, torch.cat([layer.bias for layer in layers]))
