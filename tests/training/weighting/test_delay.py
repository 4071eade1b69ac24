"""Hazards over intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import ParameterError
from foretell.training.weighting.delay import hazard_targets, interval_edges, survival


@given(
    delays=st.lists(st.floats(0, 96), max_size=40),
    wait=st.floats(0, 95.9),
    intervals=st.integers(2, 10),
)
def test_edges_rise_from_zero_over_the_waiting_time_to_the_window(delays, wait, intervals):
    edges = interval_edges(np.array(delays, float), wait, 96.0, intervals)
    assert len(edges) == intervals + 1
    assert edges[0] == 0
    assert edges[1] == wait
    assert edges[-1] == 96
    assert (np.diff(edges[1:]) > 0).all()


def test_targets_and_survival_are_the_empirical_ones():
    rng = np.random.default_rng(0)
    delays = np.minimum(rng.exponential(20, 5000), 96.0)
    edges = interval_edges(delays, 6.0, 96.0, 8)
    target, known = hazard_targets(delays, edges)
    assert (target.sum(1) == 1).all()
    hazards = torch.from_numpy(target.sum(0) / known.sum(0))[None]
    for edge in edges[1:-1]:
        assert float(survival(hazards, edges, edge)) == pytest.approx((delays > edge).mean())
    between = [float(survival(hazards, edges, s)) for s in np.linspace(0, 96, 50)]
    assert (np.diff(between) <= 1e-12).all()
    assert float(survival(hazards, edges, 96.0)) == 0
    assert float(survival(hazards, edges, -1.0)) == 1


def test_waiting_time_must_be_shorter_than_the_window():
    with pytest.raises(ParameterError, match="waiting time"):
        interval_edges(np.ones(3), 96.0, 96.0)
