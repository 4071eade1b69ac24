"""Which hours a gate is calibrated on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical import target
from foretell.data.simulators import hospitals
from foretell.decisions.abstention import calibration_hours
from foretell.decisions.abstention.calibration_hours import (
    CalibrationHours,
    hidden_layer,
    some_of,
)
from foretell.errors import DataError


@pytest.fixture(scope="module")
def stays():
    return hospitals(stays=60, sites=1, hours=(8, 20), seed=3)[0]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 40), st.integers(0, 9),
)  # fmt: skip
def test_positive_hours_come_first_and_others_fill_up(rows, most, seed):
    usable, labels = np.array(rows).T
    found = some_of(usable, most, np.random.default_rng(seed), labels=labels.astype(int))
    assert usable[found].all() and (np.diff(found) > 0).all()
    assert len(found) == min(most, usable.sum())
    assert labels[found].sum() == min(most, (usable & labels).sum())


def test_where_patients_count_each_keeps_some_hours():
    patients = np.repeat(np.arange(20), 10)
    found = some_of(
        np.ones(200, bool), 60, np.random.default_rng(0), patients=patients, guarantee="patients"
    )
    np.testing.assert_array_equal(np.bincount(patients[found]), 3)


def test_only_hours_at_risk_that_break_no_rule_are_taken(stays):
    invalid = np.arange(stays.n_rows) % 5 == 0
    settings = {"horizon": 4, "most": 10_000, "guarantee": "rows", "rng": np.random.default_rng(0)}
    hours = CalibrationHours.of(stays, invalid, **settings)
    wanted = target(stays, 4)
    np.testing.assert_array_equal(hours.usable, wanted.at_risk & ~invalid)
    np.testing.assert_array_equal(hours.rows, np.flatnonzero(hours.usable))
    assert hours.both_classes and len(np.unique(hours.patients)) == len(stays)
    healthy = stays.select(np.isnan(stays.onset))
    none = CalibrationHours.of(healthy, np.zeros(healthy.n_rows, bool), **settings)
    assert not none.both_classes


def test_the_layer_of_chosen_hours_is_the_same_in_chunks(stays, monkeypatch):
    def represent(part):
        return np.nan_to_num(part.matrix())[:, :3]

    rows = np.flatnonzero(np.arange(stays.n_rows) % 7 == 2)
    whole = hidden_layer(represent, stays, rows)
    np.testing.assert_array_equal(whole, represent(stays)[rows])
    monkeypatch.setattr(calibration_hours, "_AT_ONCE", 50)
    np.testing.assert_array_equal(hidden_layer(represent, stays, rows), whole)
    with pytest.raises(DataError, match="no hour"):
        hidden_layer(represent, stays, rows[:0])
