from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.simulators import shop
from foretell.evaluation.report.demand import ReportInput, decisions, fans, legacy_effects
from foretell.evaluation.report.toml import to_toml
from foretell.evaluation.report.words import count, fixed, number, percent, period_noun, seconds
from foretell.learners.demand.legacy import LegacyForecaster

Make = Callable[..., ReportInput]

values = st.recursive(
    st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
tables = st.recursive(
    st.dictionaries(st.text(), values, max_size=3),
    lambda inner: st.dictionaries(st.text(), inner | values, max_size=3),
    max_leaves=5,
)


@given(tables)
def test_toml_reads_back(document: dict) -> None:
    assert tomllib.loads(to_toml(document)) == document


def test_toml_leaves_out_what_has_no_value() -> None:
    assert tomllib.loads(to_toml({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (number(1234.5), "1,234"),
        (number(0.0712345), "0.0712"),
        (number(-3.14159), "−3.14"),
        (number(float("nan")), "–"),
        (number(0.0), "0"),
        (fixed(0.01234, 3, sign=True), "+0.012"),
        (percent(-0.123, 1), "−12.3%"),
        (count(1, "order"), "1 order"),
        (count(2000, "series", "series"), "2,000 series"),
        (seconds(3.21), "3.2 s"),
        (seconds(75), "1 min 15 s"),
        (seconds(3725), "1 h 2 min"),
        (period_noun("W-SUN"), "week"),
        (period_noun("MS"), "month"),
        (period_noun("h"), "hour"),
        (period_noun("D"), "day"),
        (period_noun("integer"), "period"),
    ],
)
def test_words(text: str, wanted: str) -> None:
    assert text == wanted


def test_rounding_keeps_four_digits_and_turns_gaps_into_null() -> None:
    assert fans.rounded([1234.567, 0.000123456, np.nan, np.inf, 3.0]) == [
        1235, 0.0001235, None, None, 3,
    ]  # fmt: skip


def test_bands_are_central_and_hold_the_median() -> None:
    levels = fans.band_levels(np.arange(1, 10) / 10)
    assert levels.tolist() == [0.1, 0.3, 0.5, 0.7, 0.9] or levels.tolist() == [
        0.1, 0.2, 0.5, 0.8, 0.9,
    ]  # fmt: skip
    assert fans.band_levels(np.array([0.5])).tolist() == [0.5]
    assert fans.band_levels(np.array([0.1, 0.4])).tolist() == [0.5]


def test_highlights_are_best_median_and_worst_by_loss(make_input: Make) -> None:
    data = make_input()
    highlights, ids = fans.choose(data)
    kinds = {h.kind: h.unique_id for h in highlights}
    assert {"best", "median", "worst", "promoted"} <= set(kinds)
    drawn = fans.fan_data(data, ids)
    loss = {name: row[9] for name, row in zip(drawn["ids"], drawn["series"], strict=True)}
    assert loss[kinds["best"]] < loss[kinds["median"]] < loss[kinds["worst"]]
    assert len(set(kinds.values())) == len(kinds)


def test_fan_data_are_the_panel_and_the_forecast(make_input: Make) -> None:
    data = make_input(orders=True)
    _, ids = fans.choose(data)
    drawn = fans.fan_data(data, ids)
    test = data.backtests["holdout"]["sharp"]
    for name, row in zip(drawn["ids"], drawn["series"], strict=True):
        i = data.panel.positions[name]
        series = data.panel.series(i)
        past, ahead = row[1], row[4]
        assert [*past, *ahead] == series[-len(past) - 6 :].tolist()
        assert row[3][2] == fans.rounded(test.forecast.median[i])
        assert row[2] == row[0] + len(past)
        assert row[6] == row[2] + 6 and len(row[7][0]) == 6
        assert drawn["dates"][row[6] - 1] == str(data.panel.frequency.time(data.panel.ends)[i])[:10]
        marked = data.panel.known_windows(
            "promotion", np.array([i]), np.array([len(series) + 6]), len(past) + 12
        )[0]
        assert row[8] == (row[0] + np.flatnonzero(marked > 0)).tolist()


def test_expected_demand_may_be_whole_for_one_series_and_not_for_the_next(
    make_input: Make,
) -> None:
    data = make_input(orders=True)
    assert data.future is not None
    values = np.full_like(data.future.values, 2.5)
    values[0] = 2.0
    section, rows = decisions.orders_section(
        replace(data, future=replace(data.future, values=values))
    )
    assert section is not None
    assert rows


def test_a_new_series_is_found() -> None:
    panel, _ = shop(items=6, stores=2, weeks=90, horizon=8, new_share=0.5, seed=3)
    from foretell.evaluation import backtest, evaluate

    test = backtest(LegacyForecaster(h=8, origins=2), panel)
    data = ReportInput(
        run={},
        panel=panel,
        backtests={"holdout": {"legacy": test}},
        tables={"holdout": evaluate({"legacy": test}, panel)},
        best="legacy",
    )
    highlights, _ = fans.choose(data)
    assert "new" in {h.kind for h in highlights}
    assert test.model is not None
    effects = legacy_effects(test.model, panel)
    elasticity = effects["elasticity"]
    assert elasticity["unique_id"].to_list() == [str(i) for i in panel.ids]
    assert (elasticity["lower"] <= elasticity["elasticity"]).all()
    assert (elasticity["elasticity"] <= elasticity["upper"] + 1e-12).all()
    assert set(effects["events"]["event"]) == set(panel.events)
    assert (effects["events"]["multiplier"] > 0).all()
