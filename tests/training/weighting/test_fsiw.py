from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import ParameterError
from foretell.training.weighting.fsiw import (
    FeedbackShiftWeighting,
    shift_targets,
    shift_weights,
)


@given(st.floats(0.01, 0.99), st.floats(0.06, 0.999))
def test_weights_give_back_the_final_labels(p: float, seen: float) -> None:
    # A share p * seen of rows is positive and weighs 1 / seen, the rest P(negative | unseen).
    stays = (1 - p) / (1 - p * seen)
    weights = shift_weights(
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        torch.tensor(seen, dtype=torch.float64),
        torch.tensor(stays, dtype=torch.float64),
    )
    positive, negative = weights.tolist()
    assert p * seen * positive == pytest.approx(p, abs=1e-12)
    assert (1 - p * seen) * negative == pytest.approx(1 - p, abs=1e-12)
    own = FeedbackShiftWeighting().row_masses(
        torch.tensor([[1 - p, p]] * 2, dtype=torch.float64),
        {
            "label": torch.tensor([1, 0]),
            "seen_by_age": torch.tensor([seen, seen], dtype=torch.float64),
        },
    )
    assert own[0, 1].item() == pytest.approx(positive, rel=1e-9)
    assert own[1, 0].item() == pytest.approx(max(negative, 1e-3), rel=1e-6)


def test_the_first_probability_is_clipped() -> None:
    weight = shift_weights(torch.ones(1), torch.full((1,), 1e-4), torch.ones(1))
    assert float(weight) == pytest.approx(20)


@given(st.integers(0, 500), st.floats(5, 60), st.booleans())
def test_targets_use_final_labels_only(seed: int, now: float, published: bool) -> None:
    rng = np.random.default_rng(seed)
    window = 10.0
    times = np.sort(rng.uniform(0, 50, 40))
    delay = np.where(rng.random(40) < 0.5, rng.uniform(0, window, 40), np.inf)
    found = shift_targets(
        times, delay, window, now, deadline=window if published else None, ages=(1.0,), seed=seed
    )
    assert (times[found.rows] + window <= now).all()
    assert ((found.elapsed >= 0) & (found.elapsed <= 1)).all()
    np.testing.assert_array_equal(found.positive, np.isfinite(delay[found.rows]))
    # The comparison is made in the unit of time; rounding of the quotient may move ties.
    apart = np.abs(delay[found.rows] - found.elapsed * window) > 1e-9
    seen = delay[found.rows] <= found.elapsed * window
    np.testing.assert_array_equal(found.seen[apart], seen[apart])
    # Nothing that is known after now may matter.
    late = np.where(times + window > now, window / 2, delay)
    again = shift_targets(
        times, late, window, now, deadline=window if published else None, ages=(1.0,), seed=seed
    )
    for mine, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_short_deadline_is_refused() -> None:
    with pytest.raises(ParameterError, match="not final"):
        shift_targets(np.zeros(3), np.ones(3), 10.0, 50.0, deadline=5.0)
