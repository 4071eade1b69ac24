"""Score bins and uncertainty levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.decisions.thresholds.binning import geometric_masses, partition, score_edges


def test_geometric_edges_are_dense_at_the_top():
    masses = geometric_masses(100)
    assert masses[0] == 1 and masses[-1] == pytest.approx(0.002)
    score = np.random.default_rng(0).random(100_000)
    edges = score_edges(score, np.ones(100_000), 30, 50)
    tail = np.array([(score >= edge).mean() for edge in edges])
    assert len(edges) == 29
    assert tail[-1] == pytest.approx(0.002, rel=0.01)
    np.testing.assert_allclose(tail[1:] / tail[:-1], tail[1] / tail[0], rtol=0.02)


@given(
    seed=st.integers(0, 10_000),
    n_bins=st.integers(1, 30),
    minimum=st.integers(1, 60),
    decimals=st.integers(1, 6),
    spacing=st.sampled_from(["geometric", "equal"]),
)
def test_bins_hold_enough_rows_and_never_split_ties(seed, n_bins, minimum, decimals, spacing):
    rng = np.random.default_rng(seed)
    score = np.round(rng.normal(size=400), decimals)
    edges = score_edges(score, np.ones(400), n_bins, minimum, spacing)
    assert np.all(np.diff(edges) > 0) and len(edges) < n_bins
    assert np.all(np.isin(edges, score))
    counts = np.bincount(np.searchsorted(edges, score, side="right"), minlength=len(edges) + 1)
    assert counts.min() >= min(minimum, 400)


@given(seed=st.integers(0, 10_000), levels=st.integers(1, 5), step=st.integers(5, 20))
def test_steps_make_cells_of_equal_weight(seed, levels, step):
    rng = np.random.default_rng(seed)
    n = 500
    score, uncertainty = rng.permutation(n) / n, rng.permutation(n) / n
    n_bins = n // (levels * step)
    cells = partition(
        score, uncertainty, np.ones(n), n_levels=levels, n_bins=n_bins, minimum=1, step=step
    )
    bins, level = cells.locate(score, uncertainty)
    counts = np.zeros((cells.n_regions, levels), int)
    np.add.at(counts, (bins, level), 1)
    assert np.all(counts[1:] == step)  # the lowest bin holds the remainder
    assert counts[0].sum() == n - (n_bins - 1) * levels * step


def test_levels_are_relative_to_the_score_or_to_all_rows():
    rng = np.random.default_rng(0)
    score = rng.random(20_000)
    uncertainty = score + 0.1 * rng.random(20_000)  # higher scores are less certain
    options = {"n_levels": 4, "n_bins": 20}
    relative = partition(score, uncertainty, np.ones(20_000), **options)
    overall = partition(
        score, uncertainty, np.ones(20_000), binning="uncertainty_then_score", **options
    )
    assert relative.n_regions > 5 and overall.n_regions == 1
    top = score > 0.95
    shares = np.bincount(relative.locate(score[top], uncertainty[top])[1], minlength=4) / top.sum()
    assert shares.min() > 0.15
    assert set(overall.locate(score[top], uncertainty[top])[1]) == {3}


def test_weighted_quantiles_divide_the_weight():
    rng = np.random.default_rng(0)
    score, uncertainty = rng.random(5_000), rng.random(5_000)
    weight = np.where(uncertainty < 0.5, 9.0, 1.0)
    cells = partition(score, uncertainty, weight, n_levels=2, n_bins=1)
    level = cells.locate(score, uncertainty)[1]
    shares = np.bincount(level, weight) / weight.sum()
    np.testing.assert_allclose(shares, 0.5, atol=0.01)
