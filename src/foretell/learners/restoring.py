"""Nets with saved weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def restored(make: Callable[[], Net], arrays: Mapping[str, NDArray], prefix: str = "") -> Net:
    """A net with saved weights, in evaluation mode; the caller's random numbers stay as they are.

    Args:
        make: an untrained net of the same shape.
        arrays: name in the net's ``state_dict`` -> weights.
        prefix: before the names, where several nets share one file.

    Raises:
        KeyError: an array is missing.
        ValueError: one has another size, or is not finite.
    """
    # Sizes first, without memory: a wrong file must not have gigabytes allocated.
    with torch.device("meta"):
        expected = make().state_dict()
    state = {}
    for name, tensor in expected.items():
        values = arrays[prefix + name]
        if values.size == 1 and tensor.ndim == 0:  # files know no arrays without a dimension
            values = values.reshape(())
        if values.shape != tuple(tensor.shape):
            raise ValueError(f"{prefix}{name} has shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{prefix}{name} is not finite")
        state[name] = torch.from_numpy(values.copy())
    with torch.random.fork_rng(devices=[]):
        net = make()
    net.load_state_dict(state)
    return net.eval()
