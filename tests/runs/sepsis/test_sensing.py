"""What a run's deployment carries to say which measurement would tell most."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foretell.data.clinical import CausalFeatureBuilder
from foretell.data.simulators.hospitals import hospitals
from foretell.runs.sepsis.sensing import FRESH, hourly


@pytest.fixture(scope="module")
def stays():
    return hospitals(stays=12, sites=1, hours=(4, 30), seed=5)[0]


def test_hours_are_told_as_a_stream_knows_them(stays):
    """Against a loop over hours, with the streamed features of the same stay."""
    builder = CausalFeatureBuilder("p19-v1", schema=stays.schema).fit(stays)
    channels = [c for c in stays.schema.names if f"{c}:last" in builder.names]
    number = [stays.schema.names.index(c) for c in channels]
    columns = [builder.names.index(f"{c}:last") for c in channels]
    rows = np.sort(np.random.default_rng(0).choice(stays.n_rows, stays.n_rows // 2, replace=False))
    features, since, known, before = hourly(builder, stays, rows, channels)
    table, values = builder.transform(stays), stays.matrix()
    begins = np.repeat(stays.offsets[:-1], stays.lengths)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(features[i], table[row])
        for j, c in enumerate(number):
            there = [r for r in range(begins[row], row + 1) if not math.isnan(values[r, c])]
            assert known[i, j] == bool(there)
            old = [r for r in there if row - r >= FRESH]
            if there:
                assert since[i, j] == row - there[-1]
            if old:
                assert before[i, j] == table[row - FRESH, columns[j]]
            else:
                assert math.isnan(before[i, j])
