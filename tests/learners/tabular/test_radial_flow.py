from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import ParameterError
from foretell.learners.tabular.radial_flow import RadialFlow


def make(dimension: int, layers: int, flows: int, seed: int, spread: float = 1.0) -> RadialFlow:
    torch.manual_seed(seed)
    flow = RadialFlow(dimension, layers, flows).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(0, spread)
    return flow


@given(
    dimension=st.integers(1, 5),
    layers=st.integers(1, 6),
    flows=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_determinant_is_that_of_the_numerical_jacobian(dimension, layers, flows, seed):
    flow = make(dimension, layers, flows, seed)
    z = torch.randn(3, dimension, dtype=torch.float64)
    _, log_determinant = flow(z)
    step = 1e-6
    for row in range(3):
        for c in range(flows):
            jacobian = np.zeros((dimension, dimension))
            for j in range(dimension):
                e = torch.zeros(dimension, dtype=torch.float64)
                e[j] = step
                high, _ = flow((z[row] + e)[None])
                low, _ = flow((z[row] - e)[None])
                jacobian[:, j] = ((high - low)[0, c] / (2 * step)).detach().numpy()
            sign, value = np.linalg.slogdet(jacobian)
            assert sign > 0
            assert value == pytest.approx(float(log_determinant[row, c].detach()), abs=1e-5)


@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.1, 1.0, 4.0]))
def test_inverse_undoes_the_flow(seed, spread):
    flow = make(4, 5, 2, seed, spread)
    z = 3 * torch.randn(20, 4, dtype=torch.float64)
    y, _ = flow(z)
    assert torch.allclose(flow.inverse(y), z[:, None, :].expand(-1, 2, -1), atol=1e-7)


def test_the_density_of_a_flow_integrates_to_one():
    flow = make(2, 6, 2, seed=5)
    grid = torch.linspace(-12, 12, 601, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    mass = flow.log_prob(points).exp().sum(0) * float(grid[1] - grid[0]) ** 2
    assert torch.allclose(mass, torch.ones(2, dtype=torch.float64), atol=2e-3)


def test_samples_follow_the_density():
    flow = make(1, 4, 1, seed=2)
    draws = flow.sample(40_000, torch.Generator().manual_seed(0))[:, 0, 0].detach().numpy()
    grid = torch.linspace(-15, 15, 30_001, dtype=torch.float64)
    density = flow.log_prob(grid[:, None])[:, 0].exp().detach().numpy()
    cumulative = np.cumsum(density) * float(grid[1] - grid[0])
    for level in (0.1, 0.5, 0.9):
        expected = float(grid[np.searchsorted(cumulative, level)])
        share = (draws <= expected).mean()
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / len(draws)))


def test_a_point_on_a_centre_has_a_finite_gradient():
    flow = make(3, 2, 1, seed=0)
    flow.log_prob(flow.centre[0].detach()).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters())


def test_counts_below_one_are_refused():
    with pytest.raises(ParameterError, match="layers must be at least 1, not 0"):
        RadialFlow(2, 0)
