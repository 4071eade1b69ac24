"""Stays with several onsets."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import split_episodes, stays_from_frame, target
from foretell.errors import DataError, ParameterError


@pytest.fixture
def stays():
    frame = pl.DataFrame(
        {
            "id": ["a"] * 150 + ["b"] * 20,
            "hour": [*range(3, 153), *range(1, 21)],
            "HR": np.arange(170.0),
            "unit": ["MICU"] * 170,
        }
    )
    return stays_from_frame(frame, hospital="A")


def test_episodes_begin_after_the_washout(stays):
    parts = split_episodes(stays, {"A/a": [100.0, 20.0, 30.0]})
    assert parts.ids.tolist() == ["A/a", "A/a#2", "A/a#3", "A/b"]
    assert parts.onset.tolist()[:2] == [20, 100] and np.isnan(parts.onset[2:]).all()
    assert parts.starts.tolist() == [3, 68, 148, 1]
    assert parts.lengths.tolist() == [65, 80, 5, 20]
    # Nothing is lost, doubled or moved.
    np.testing.assert_array_equal(parts.column("HR"), stays.column("HR"))
    assert parts.hours()[:150].tolist() == list(range(3, 153))
    assert len(set(parts.patients.tolist())) == 2
    wanted = target(parts, 4)
    assert parts.hours()[wanted.label == 1].tolist() == [16, 17, 18, 19, 96, 97, 98, 99]


def test_an_onset_long_before_the_record_leaves_no_episode(stays):
    parts = split_episodes(stays, {"A/a": [-60.0, -10.0, 100.0], "A/b": [-60.0]})
    assert parts.ids.tolist() == ["A/a", "A/a#2", "A/a#3", "A/b"]
    assert parts.starts.tolist() == [3, 38, 148, 1] and parts.lengths.tolist() == [35, 110, 5, 20]
    assert parts.onset.tolist()[:2] == [-10, 100] and np.isnan(parts.onset[2:]).all()
    assert parts.n_rows == stays.n_rows


def test_stays_that_are_not_named_stay_as_they_are(stays):
    assert split_episodes(stays, {}).fingerprint() == stays.fingerprint()
    late = split_episodes(stays, {"A/b": [19.0]})
    assert late.ids.tolist() == ["A/a", "A/b"] and late.onset[1] == 19


def test_refusals(stays):
    with pytest.raises(DataError, match="not there"):
        split_episodes(stays, {"A/c": [1.0]})
    with pytest.raises(DataError, match="not finite"):
        split_episodes(stays, {"A/a": [np.nan]})
    with pytest.raises(ParameterError, match="washout"):
        split_episodes(stays, {}, washout=0)
