"""Nets with saved weights: what does not fit is refused before memory is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foretell.learners.restoring import restored


class Scaled(nn.Module):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 2)
        self.register_buffer("scale", torch.tensor(2.0))


def saved(prefix: str = "") -> dict[str, np.ndarray]:
    state = Scaled().state_dict()
    return {prefix + n: np.ascontiguousarray(t.numpy()) for n, t in state.items()}


@pytest.mark.parametrize("prefix", ["", "net0."])
def test_weights_come_back_and_random_numbers_stay(prefix):
    arrays = saved(prefix)
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    net = restored(Scaled, arrays, prefix)
    assert torch.equal(torch.rand(3), wanted)
    assert not net.training
    assert net.scale.shape == ()
    for name, values in net.state_dict().items():
        assert np.array_equal(values.numpy(), arrays[prefix + name].reshape(values.shape))
    arrays[f"{prefix}layer.weight"][:] = 9.0
    assert not (net.layer.weight == 9.0).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"layer.weight has shape \(2, 3\)"):
        restored(lambda: Scaled(10**9), saved())
    arrays = saved()
    arrays["layer.bias"][1] = np.nan
    with pytest.raises(ValueError, match=r"layer.bias is not finite"):
        restored(Scaled, arrays)
    del arrays["layer.bias"]
    with pytest.raises(KeyError, match="bias"):
        restored(Scaled, arrays)
