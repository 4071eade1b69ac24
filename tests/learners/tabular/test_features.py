"""Columns as a network takes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foretell.errors import DataError
from foretell.learners.tabular import FeatureTransform


def test_numbers_are_standardised_and_gaps_marked():
    matrix = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, 2.0], [5.0, 5.0, 4.0]])
    transform = FeatureTransform.fit(matrix)
    batch = transform(matrix)
    assert batch["numbers"].shape == (3, 4) == (3, transform.width)
    expected = [[-np.sqrt(1.5), 0, 0, 1], [0, 0, -1, 0], [np.sqrt(1.5), 0, 1, 0]]
    assert batch["numbers"].numpy() == pytest.approx(np.array(expected), abs=1e-6)
    late = transform([[np.nan, 5.0, 3.0]])["numbers"]  # no gap was seen in this column
    assert late.numpy() == pytest.approx(np.array([[0, 0, 0, 0]]), abs=1e-6)


def test_codes_not_seen_are_unknown():
    transform = FeatureTransform.fit([[1.0, 2.0], [2.0, 0.0]], categorical=(1,))
    codes = transform([[0.0, 2.0], [0.0, 3.0], [0.0, np.nan], [0.0, -1.0]])["codes"]
    assert codes[:, 0].tolist() == [2, 0, 0, 0]
    with pytest.raises(DataError, match="whole numbers"):
        FeatureTransform.fit([[0.5]], categorical=(0,))


def test_large_offsets_keep_their_digits():
    times = 1.7e9 + np.arange(5.0)[:, None]
    spread = FeatureTransform.fit(times)(times)["numbers"][:, 0].numpy()
    assert spread == pytest.approx((np.arange(5) - 2) / np.sqrt(2), abs=1e-6)


@given(arrays(np.float64, (6, 3), elements=st.floats(-1e300, 1e300) | st.just(np.nan)))
def test_inputs_are_always_finite_and_survive_json(matrix):
    transform = FeatureTransform.fit(matrix)
    batch = transform(matrix)
    assert torch.isfinite(batch["numbers"]).all()
    again = FeatureTransform.from_dict(json.loads(json.dumps(transform.to_dict())))
    assert again == transform


def test_wrong_tables_are_refused():
    with pytest.raises(DataError, match="infinite"):
        FeatureTransform.fit([[np.inf]])
    with pytest.raises(DataError, match="shape"):
        FeatureTransform.fit([[1.0]])([[1.0, 2.0]])
