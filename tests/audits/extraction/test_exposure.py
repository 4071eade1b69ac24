from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from foretell.audits.extraction import estimated_exposure, exposure, rank_of
from foretell.audits.extraction.report import CHANCE_BITS
from foretell.errors import ParameterError


def test_the_best_secret_has_all_bits_and_the_worst_none():
    losses = np.arange(1024.0)
    assert exposure(losses, 0) == 10 and exposure(losses, 1023) == 0
    assert exposure(losses, 1) == 9
    assert rank_of(np.array([1.0, 0.5, 0.5, 2.0]), 1) == 1.5
    assert rank_of(np.zeros(9), 4) == 5  # all alike: the middle


def test_a_secret_by_chance_has_one_point_four_four_bits():
    losses = np.random.default_rng(0).random(4096)
    mean = np.mean([exposure(losses, i) for i in range(4096)])
    assert mean == pytest.approx(CHANCE_BITS, abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.data())
def test_ranks_are_those_of_scipy(values, data):
    at = data.draw(st.integers(0, len(values) - 1))
    expected = scipy.stats.rankdata(values)[at]
    assert rank_of(np.array(values), at) == pytest.approx(expected)


def test_the_estimate_is_near_the_exact_exposure():
    rng = np.random.default_rng(0)
    losses = scipy.stats.skewnorm.rvs(4.0, size=50_000, random_state=0)
    sample = rng.choice(losses, 10_000)
    for share in (0.5, 0.05, 0.002):
        at = int(np.argsort(losses)[int(share * len(losses))])
        assert estimated_exposure(sample, losses[at]) == pytest.approx(
            exposure(losses, at), abs=0.35
        )
    tiny = estimated_exposure(sample * 1e-7, float(losses[at]) * 1e-7)
    assert tiny == pytest.approx(exposure(losses, at), abs=0.35)


def test_losses_without_spread_or_meaning():
    assert estimated_exposure(np.ones(128), 1.0) == 1
    assert estimated_exposure(np.ones(128), 0.5) == 7
    assert estimated_exposure(np.ones(128), 2.0) == 0
    assert math.isfinite(estimated_exposure(np.random.default_rng(0).random(500), -1e6))
    with pytest.raises(ParameterError, match="finite"):
        exposure(np.array([1.0, np.nan]), 0)
    with pytest.raises(ParameterError, match="position"):
        exposure(np.array([1.0, 2.0]), 2)
    with pytest.raises(ParameterError, match="100"):
        estimated_exposure(np.ones(5), 1.0)
