from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panel_strategies import panels

from foretell.data.panel import Panel
from foretell.data.simulators import shop
from foretell.errors import DataError, ParameterError


def naive(flat, begin, length, stop, width):
    """One window, step by step."""
    out = []
    for step in range(stop - width, stop):
        out.append(flat[begin + step] if 0 <= step < length else np.nan)
    return np.array(out, np.float32)


@given(panels(), st.integers(1, 8), st.data())
def test_windows_are_naive_indexing(panel, width, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(panel) - 1), min_size=1, max_size=6)))
    stops = np.array([data.draw(st.integers(-3, 18)) for _ in rows])
    target = panel.windows(rows, stops, width)
    views = panel.past_windows("views", rows, stops, width)
    price = panel.known_windows("price", rows, stops, width)
    flags = panel.censored_windows(rows, stops, width)
    periods = panel.period_windows(rows, stops, width)
    for j, (i, stop) in enumerate(zip(rows, stops, strict=True)):
        own = (panel.begins[i], panel.lengths[i], stop, width)
        np.testing.assert_array_equal(target[j], naive(panel.target, *own))
        np.testing.assert_array_equal(views[j], naive(panel.past["views"], *own))
        known = (panel.known_begins[i], panel.known_lengths[i], stop, width)
        np.testing.assert_array_equal(price[j], naive(panel.known["price"], *known))
        np.testing.assert_array_equal(flags[j], naive(panel.censored, *own) == 1)
        assert periods[j, -1] == panel.starts[i] + stop - 1 and np.all(np.diff(periods[j]) == 1)


@given(panels(), st.integers(0, 14), st.data())
def test_cuts_take_from_the_end_and_leave_what_was_known_ahead(panel, back, data):
    cut = panel.cut(back)
    for i in range(len(panel)):
        expected = panel.series(i)[: max(panel.lengths[i] - back, 0)]
        np.testing.assert_array_equal(cut.series(i), expected)
    np.testing.assert_array_equal(cut.known_lengths, panel.known_lengths)
    assert np.shares_memory(cut.target, panel.target)
    backs = np.array([data.draw(st.integers(0, 14)) for _ in panel.ids])
    each = panel.cut(backs)
    np.testing.assert_array_equal(each.lengths, np.maximum(panel.lengths - backs, 0))


@given(panels(), st.integers(-2, 60))
def test_until_leaves_nothing_after_a_period(panel, period):
    cut = panel.until(period)
    held = cut.lengths > 0
    assert np.all(cut.ends[held] <= period)
    assert np.all(cut.lengths == np.clip(period - panel.starts + 1, 0, panel.lengths))


@given(panels(), st.data())
def test_selection_is_naive_and_takes_everything_along(panel, data):
    rows = data.draw(st.permutations(range(len(panel))))[: data.draw(st.integers(0, len(panel)))]
    part = panel.select(np.array(rows, np.int64))
    assert list(part.ids) == [panel.ids[i] for i in rows]
    for j, i in enumerate(rows):
        np.testing.assert_array_equal(part.series(j), panel.series(i))
        colour = part.static_categorical["colour"].values[j]
        assert colour == panel.static_categorical["colour"].values[i]
        assert part.static_real["size"][j] == panel.static_real["size"][i]
    mask = np.isin(np.arange(len(panel)), rows)
    assert list(panel.select(mask).ids) == [panel.ids[i] for i in sorted(rows)]


@given(panels(), st.integers(1, 6), st.integers(0, 8))
def test_outcomes_are_the_steps_after_the_cutoff(panel, horizon, back):
    cut = panel.cut(back)
    outcomes = panel.outcomes([*panel.ids, "stranger"], [*cut.ends, 0], horizon)
    assert np.isnan(outcomes[-1]).all()
    for i in range(len(panel)):
        after = panel.series(i)[cut.lengths[i] :][:horizon]
        np.testing.assert_array_equal(outcomes[i, : len(after)], after)
        assert np.isnan(outcomes[i, len(after) :]).all()


@given(panels())
def test_the_fingerprint_is_that_of_the_data_not_of_their_place(panel):
    order = np.arange(len(panel))
    assert panel.select(order).fingerprint() == panel.fingerprint()
    doubled = panel.select(np.r_[order, order][: len(order)])
    assert doubled.fingerprint() == panel.fingerprint()
    assert panel.cut(1).fingerprint() != panel.fingerprint()
    changed = Panel(**{**vars_of(panel), "target": panel.target + 1})
    assert changed.fingerprint() != panel.fingerprint()
    censored = Panel(**{**vars_of(panel), "censored": ~panel.censored})
    assert censored.fingerprint() != panel.fingerprint()
    real = Panel(**{**vars_of(panel), "static_real": {"size": panel.static_real["size"] + 1}})
    assert real.fingerprint() != panel.fingerprint()


def vars_of(panel: Panel) -> dict:
    return {name: getattr(panel, name) for name in Panel.__dataclass_fields__}


def test_known_covariates_must_reach_the_horizon():
    panel, _ = shop(items=3, stores=1, horizon=5)
    panel.require_known(5)
    with pytest.raises(DataError, match=r"end too early: 5 of 6 .*price.*Give price") as caught:
        panel.require_known(6)
    assert caught.value.series == panel.ids[0]
    panel.cut(1).require_known(6)


def test_a_missing_known_value_is_named_with_its_date_and_series():
    panel, _ = shop(items=3, stores=1, horizon=5, new_share=0.0)
    price = panel.known["price"].copy()
    price[panel.known_begins[1] + 7] = np.nan
    broken = Panel(**{**vars_of(panel), "known": {**panel.known, "price": price}})
    with pytest.raises(DataError, match=r"missing value at 2021-02-21.*step 7") as caught:
        broken.require_known(1)
    assert (caught.value.series, caught.value.column) == (panel.ids[1], "price")
    broken.select(np.array([0, 2])).require_known(5)
    # A value beyond the horizon asked for does not matter.
    late = panel.known["price"].copy()
    late[panel.known_begins[1] + panel.known_lengths[1] - 1] = np.nan
    Panel(**{**vars_of(panel), "known": {**panel.known, "price": late}}).require_known(4)


def test_an_empty_panel_and_empty_series_are_harmless():
    panel = Panel.from_arrays([[1.0, 2.0], []])
    assert np.isnan(panel.windows(np.array([1]), np.array([1]), 3)).all()
    assert len(panel.select(np.zeros(0, np.int64))) == 0
    empty = Panel.from_arrays([])
    assert len(empty) == 0 and empty.fingerprint()
    assert empty.windows(np.zeros(0, np.int64), np.zeros(0, np.int64), 3).shape == (0, 3)


def test_wrong_arguments_are_refused():
    panel = Panel.from_arrays([[1.0, 2.0]])
    with pytest.raises(ParameterError):
        panel.cut(-1)
    with pytest.raises(ParameterError):
        Panel.from_arrays([[1.0], [2.0]], ids=["a", "a"])
    with pytest.raises(ParameterError):
        Panel.from_arrays([[1.0]], events=("sale",))
