from __future__ import annotations

import numpy as np
import pytest

from foretell.data.simulators import evidence_cells
from foretell.errors import ParameterError


def test_parts_have_the_size_and_the_base_rate():
    held, test = evidence_cells(seed=0)
    assert len(held) == len(test) == 120_000
    for part in (held, test):
        assert part.y.mean() == pytest.approx(0.1, abs=0.006)
        assert part.theta.mean() == pytest.approx(part.y.mean(), abs=0.004)
        total = part.alpha.sum(1)
        np.testing.assert_allclose(part.score, part.alpha[:, 0] / total)
        variance = part.score * (1 - part.score) / (total + 1)
        np.testing.assert_allclose(part.uncertainty, np.sqrt(variance))
    # Beta(.2, 1.8): mean .1, variance .1 * .9 / 3.
    _, first = np.unique(held.cell, return_index=True)
    assert held.theta[first].var() == pytest.approx(0.03, rel=0.05)


@pytest.mark.parametrize("prior", [1.0, 0.2])
def test_uncertain_scores_promise_more_than_they_keep(prior):
    rates = []
    for seed in range(5):
        held, _ = evidence_cells(prior=prior, seed=seed)
        near = held.select((held.score >= 0.7) & (held.score < 0.8))
        level = np.digitize(near.uncertainty, np.quantile(near.uncertainty, [1 / 3, 2 / 3]))
        rates.append([near.theta[level == k].mean() for k in range(3)])
    low, middle, high = np.mean(rates, axis=0)
    assert low > middle + 0.03 and middle > high + 0.03
    assert low == pytest.approx(0.72, abs=0.03) and middle == pytest.approx(0.63, abs=0.03)
    assert high == pytest.approx(0.58, abs=0.05)


def test_splits():
    held, test = evidence_cells(cells=1000, draws=4, split="cell", seed=2)
    assert not set(held.cell) & set(test.cell) and len(held) == len(test) == 2000
    held, test = evidence_cells(cells=1000, draws=4, split="draw", seed=2)
    assert np.array_equal(np.sort(held.cell), np.sort(test.cell))
    assert np.array_equal(held.y, evidence_cells(cells=1000, draws=4, split="draw", seed=2)[0].y)


def test_sampling_of_negatives_moves_scores_up():
    plain, _ = evidence_cells(cells=5000, seed=1)
    thinned, _ = evidence_cells(cells=5000, seed=1, negative_sampling=4)
    assert thinned.score.mean() > plain.score.mean() + 0.05


@pytest.mark.parametrize(
    "wrong",
    [{"cells": 1}, {"draws": 3}, {"split": "row"}, {"base_rate": 1.0}, {"negative_sampling": 0.5}],
)
def test_impossible_settings(wrong):
    with pytest.raises(ParameterError):
        evidence_cells(**{"cells": 10, **wrong})
