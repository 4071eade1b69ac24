"""Known covariates that some series lack ahead: carried on and counted, never silently."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretell.data import Panel, carry_known, from_polars, to_polars
from foretell.data.simulators import shop
from foretell.errors import DataError, ParameterError
from foretell.learners.demand import LegacyForecaster, QRFForecaster

H = 4


@pytest.fixture(scope="module")
def panel() -> Panel:
    return shop(items=4, stores=2, weeks=80, horizon=H, seed=1)[0]


def without_plan(panel: Panel, rows: list[int], kept: int = 0) -> Panel:
    """The panel whose series ``rows`` are known ``kept`` periods ahead only."""
    lengths = panel.known_lengths.copy()
    lengths[rows] = panel.lengths[rows] + kept
    return replace(panel, known_lengths=lengths)


@pytest.mark.parametrize("kept", [0, 3])
def test_the_last_price_goes_on_and_events_are_those_of_the_others(panel: Panel, kept: int) -> None:
    given = without_plan(panel, [2, 5], kept)
    done = carry_known(given, H)
    done.require_known(H)
    rows = np.array([2, 5])
    stops = panel.lengths[rows] + H
    price = done.known_windows("price", rows, stops, H + 1)
    last = panel.known_windows("price", rows, panel.lengths[rows] + kept, 1)
    np.testing.assert_array_equal(price[:, kept + 1 :], np.repeat(last, H - kept, axis=1))
    for name in panel.events:  # the shop's holidays are the same for all
        true = panel.known_windows(name, rows, stops, H)
        np.testing.assert_array_equal(done.known_windows(name, rows, stops, H), true)
    note = next(n for n in done.notes if n.kind == "carried_known" and "price" in n.message)
    assert (note.count, note.series) == (2 * (H - kept), panel.ids[2])
    assert f"{note.count} future values of price in 2 series" in note.message
    # Nothing else changes, and the given panel stays as it was.
    others = np.setdiff1d(np.arange(len(panel)), rows)
    for name in panel.known:
        whole = int(panel.known_lengths.max())
        before, after = (
            p.known_windows(name, others, p.known_lengths[others], whole) for p in (panel, done)
        )
        np.testing.assert_array_equal(before, after)
    with pytest.raises(DataError, match="end too early"):
        given.require_known(H)


def test_what_is_complete_or_was_forgotten_stays_as_it_is(panel: Panel) -> None:
    assert carry_known(panel, H) is panel
    assert carry_known(panel, 0) is panel
    forgotten = without_plan(panel, list(range(len(panel))))
    assert carry_known(forgotten, H) is forgotten
    bare = replace(panel, known={}, events=(), known_lengths=panel.lengths)
    assert carry_known(bare, H) is bare


def test_a_gap_in_the_history_is_not_filled(panel: Panel) -> None:
    price = panel.known["price"].copy()
    price[panel.known_begins[3] + 7] = np.nan
    price[panel.known_begins[3] + panel.lengths[3] + 1] = np.nan
    done = carry_known(replace(panel, known={**panel.known, "price": price}), H)
    with pytest.raises(DataError, match="step 7"):
        done.require_known(H)
    ahead = done.known_windows("price", np.array([3]), panel.lengths[3:4] + H, H)
    assert np.isfinite(ahead).all() and ahead[0, 1] == ahead[0, 0]


def test_an_event_that_others_do_not_share_does_not_happen(panel: Panel) -> None:
    name = panel.events[0]
    flags = np.zeros_like(panel.known[name])
    ahead = panel.known_begins + panel.lengths
    flags[ahead] = 1.0  # everywhere in the first week ahead, in the second only in one series
    flags[ahead[4] + 1] = 1.0
    given = without_plan(replace(panel, known={**panel.known, name: flags}), [2])
    filled = carry_known(given, H).known_windows(name, np.array([2]), panel.lengths[2:3] + H, H)
    expected = [float(panel.ends[2] == panel.ends.max()), 0.0, 0.0, 0.0]
    assert filled[0].tolist() == expected


def test_an_empty_series_without_any_value_stays_missing(panel: Panel) -> None:
    table = to_polars(panel.select(np.array([0, 1]))).select("unique_id", "ds", "y", "price")
    small = from_polars(table, known=["price"])
    late = carry_known(small.cut(int(small.lengths[0])), 2)
    assert late.lengths[0] == 0


@pytest.mark.parametrize(
    "model", [LegacyForecaster(H), QRFForecaster(H, n_rows=800, n_estimators=4)]
)
def test_one_series_without_prices_stops_no_forecast_unless_asked(panel: Panel, model) -> None:
    model.fit(panel)
    given = without_plan(panel, [2])
    with pytest.warns(UserWarning, match=r"4 future values of price in 1 series.*easter") as said:
        forecast = model.predict(given)
    assert len(said) == 1 and len(forecast.notes) == len(panel.known)
    assert {n.kind for n in forecast.notes} == {"carried_known"}
    rows = np.delete(np.arange(len(panel)), 2)
    whole = model.predict(panel)
    assert whole.notes == ()
    np.testing.assert_array_equal(forecast.values[rows], whole.values[rows])
    assert np.isfinite(forecast.values).all()
    with pytest.raises(DataError, match="end too early: 0 of 4") as caught:
        model.predict(given, missing_known="error")
    assert caught.value.series == panel.ids[2]
    with pytest.raises(DataError, match="end too early"):
        model.predict(without_plan(panel, list(range(len(panel)))))
    with pytest.raises(ParameterError, match="'carry' or 'error', not 'skip'"):
        model.predict(given, missing_known="skip")
