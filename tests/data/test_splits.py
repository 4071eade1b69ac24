from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from panel_strategies import panels

from foretell.data.panel import Panel
from foretell.data.simulators import shop
from foretell.data.splits import (
    rolling_origins,
    split_by_fraction,
    split_by_horizon,
    split_by_time,
    validation_origins,
)
from foretell.errors import ParameterError


@given(panels(), st.integers(1, 10))
def test_a_horizon_is_cut_from_every_series(panel, horizon):
    assume(panel.lengths.max() > horizon)
    split = split_by_horizon(panel, horizon)
    for i in range(len(panel)):
        np.testing.assert_array_equal(split.train.series(i), panel.series(i)[:-horizon])
    assert split.full is panel


@given(panels(), st.integers(0, 60))
def test_a_moment_is_the_same_for_all_series(panel, offset):
    period = int(panel.starts.min()) + offset
    assume(period < panel.ends.max())
    time = panel.frequency.time(np.array([period]))[0]
    split = split_by_time(panel, period if panel.frequency.kind == "integer" else time)
    for i in range(len(panel)):
        own = panel.starts[i] + np.arange(panel.lengths[i])
        np.testing.assert_array_equal(split.train.series(i), panel.series(i)[own <= period])
        assert split.back[i] == max(panel.ends[i] - period, 0)


@given(panels(), st.floats(0.01, 0.99))
def test_a_fraction_is_of_the_whole_span(panel, fraction):
    try:
        split = split_by_fraction(panel, fraction)
    except ParameterError:
        return
    span = panel.ends.max() - panel.starts.min() + 1
    after = panel.ends.max() - (panel.ends - split.back).max()
    assert abs(after - fraction * span) <= 0.5


def test_a_date_within_a_month_does_not_count_it_as_over():
    from foretell.data.frequency import Frequency

    panel = Panel.from_arrays([np.arange(24.0)], frequency=Frequency.parse("ME"), start=600)
    last = str(panel.frequency.time(np.array([611]))[0])[:10]
    assert split_by_time(panel, last).train.lengths[0] == 12
    assert split_by_time(panel, last[:8] + "15").train.lengths[0] == 11


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6))
def test_origins_roll_forward_to_the_last_possible_one(h, n_windows, step):
    panel = Panel.from_arrays([np.ones(80)])
    backs = rolling_origins(panel, h, n_windows, step)
    assert len(backs) == n_windows and backs[-1] == h
    assert np.all(np.diff(backs) == -step)


def test_too_many_windows_are_refused_with_how_many_fit():
    panel = Panel.from_arrays([np.ones(40), np.ones(3)])
    with pytest.raises(ParameterError, match="longest series has 40, enough for 3 windows"):
        rolling_origins(panel, 13, 4)
    assert rolling_origins(panel, 13, 3) == [39, 26, 13]
    for arguments in ((0,), (13, 0), (13, 1, 0)):
        with pytest.raises(ParameterError, match="at least 1"):
            rolling_origins(panel, *arguments)


def test_validation_leaves_half_of_the_history():
    panel, _ = shop(items=4, stores=1)
    assert validation_origins(panel, 13, 3) == [39, 26, 13]
    assert validation_origins(panel, 13, 30) == [78, 65, 52, 39, 26, 13]
    short = Panel.from_arrays([np.ones(15)])
    assert validation_origins(short, 13, 3) == [13]


@pytest.mark.parametrize(
    ("cut", "argument", "match"),
    [
        (split_by_horizon, 0, "at least 1"),
        (split_by_horizon, 500, "leaves no history"),
        (split_by_time, "soon", "not a date"),
        (split_by_time, "2050-01-01", "nothing lies after"),
        (split_by_time, "1999-01-01", "leaves no history"),
        (split_by_fraction, 0.0, "strictly between"),
        (split_by_fraction, 1.0, "strictly between"),
        (split_by_fraction, 0.0001, "is nothing"),
    ],
)
def test_impossible_cuts_are_refused(cut, argument, match):
    panel, _ = shop(items=2, stores=1)
    with pytest.raises(ParameterError, match=match):
        cut(panel, argument)


def test_integer_time_is_cut_at_numbers():
    panel = Panel.from_arrays([np.ones(10)])
    assert split_by_time(panel, 4).train.lengths[0] == 5
    with pytest.raises(ParameterError, match="period number"):
        split_by_time(panel, "2020-01-01")
