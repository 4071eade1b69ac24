from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import ParameterError
from foretell.training.weighting.gdfm import conditional_entropy, signal_weights


def test_entropy() -> None:
    y = np.array([0, 0, 1, 1])
    assert conditional_entropy(y, y) == 0
    assert conditional_entropy(np.zeros(4), y) == pytest.approx(np.log(2))
    # Half of the mass is settled, the other half is a coin.
    assert conditional_entropy([0, 0, 1, 1], [0, 0, 0, 1]) == pytest.approx(np.log(2) / 2)


def test_weights_follow_the_formula() -> None:
    ages, entropy = np.array([1.0, 4.0]), np.array([[0.6, 0.3], [0.0, 0.6]])
    raw = np.exp(-np.array([[0.25], [1.0]])) * np.exp(-2 * entropy / 0.6)
    expected = raw / raw.mean() / np.array([[2], [1]])
    np.testing.assert_allclose(signal_weights(ages, entropy), expected, rtol=1e-12)
    flat = signal_weights(ages, np.zeros((2, 1)), beta=0)
    np.testing.assert_allclose(flat, [[0.5], [1.0]])


@pytest.mark.parametrize("ages", [[2.0, 1.0], [-1.0, 1.0], [1.0, 1.0]])
def test_ages_must_ascend(ages: list[float]) -> None:
    with pytest.raises(ParameterError, match="ascend"):
        signal_weights(ages, np.zeros((2, 1)))


def test_one_row_of_entropies_an_age() -> None:
    with pytest.raises(ParameterError, match="shape"):
        signal_weights([1.0, 2.0], np.zeros((3, 1)))
