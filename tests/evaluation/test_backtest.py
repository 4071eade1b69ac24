from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from foretell.errors import DataError, ParameterError
from foretell.evaluation import backtest, join_tables, run_window


def test_one_window_scores_the_last_periods_of_each_series(kit):
    panel = kit.random_panel()
    result = backtest(kit.EmpiricalQuantiles(h=4), panel)
    np.testing.assert_array_equal(result.forecast.cutoffs, panel.ends - 4)
    np.testing.assert_array_equal(result.truth, np.stack([s[-4:] for s in panel]))
    expected = np.quantile(panel.series(2)[:-4], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(result.forecast.values[2, 0], expected, rtol=1e-6)
    assert result.model.mean_ == pytest.approx(
        np.concatenate([s[:-4] for s in panel]).mean(), rel=1e-5
    )
    assert result.skipped == 0 and len(result.fits) == 1
    assert result.fits[0].fitted_series == 3


@pytest.mark.parametrize(
    ("refit", "fits"), [(False, [10]), (True, [10, 8, 6, 4]), (2, [10, 6]), (3, [10, 4])]
)
def test_refit_says_how_often_the_model_is_fitted(kit, refit, fits):
    panel = kit.random_panel()
    model = kit.EmpiricalQuantiles(h=4, shrink=0.5)
    result = backtest(model, panel, n_windows=4, step_size=2, refit=refit)
    assert [f.fit_back for f in result.fits] == fits
    assert sorted(set(result.back.tolist()), reverse=True) == [10, 8, 6, 4]
    for row in range(len(result.forecast)):
        back = result.back[row]
        fit = (
            max(f for f in fits if f >= back)
            if refit is False
            else min(f for f in fits if f >= back)
        )
        series = panel.series(panel.positions[result.forecast.ids[row]])
        mean = np.concatenate([s[: len(s) - fit] for s in panel]).mean()
        own = np.quantile(series[: len(series) - back], 0.5)
        value = result.forecast.values[row, 0, 1]
        assert value == pytest.approx(0.5 * own + 0.5 * mean, rel=1e-5)
    assert not hasattr(model, "mean_"), "the given model must stay as it is"


def test_a_shorter_horizon_and_named_origins(kit):
    panel = kit.random_panel()
    result = backtest(kit.EmpiricalQuantiles(h=6), panel, h=2, back=[3, 9, 5])
    assert result.forecast.values.shape == (9, 2, 3)
    np.testing.assert_array_equal(result.back, np.repeat([9, 5, 3], 3))
    with pytest.raises(ParameterError, match=r"h=7 is outside 1\.\.6"):
        backtest(kit.EmpiricalQuantiles(h=6), panel, h=7)


def test_series_that_begin_later_enter_later(kit):
    panel = kit.random_panel(sizes=(40, 7, 40, 3))
    result = backtest(kit.EmpiricalQuantiles(h=2), panel, n_windows=3, step_size=3)  # 8, 5, 2
    pairs = list(zip(result.forecast.ids, result.back, strict=True))
    assert pairs == [
        ("0", 8), ("2", 8), ("0", 5), ("1", 5), ("2", 5), ("0", 2), ("1", 2), ("2", 2), ("3", 2),
    ]  # fmt: skip
    assert result.skipped == 3
    for row, (name, back) in enumerate(pairs):
        series = panel.series(panel.positions[name])
        known = series[: len(series) - back]
        np.testing.assert_allclose(
            result.forecast.values[row, 0], np.quantile(known, [0.1, 0.5, 0.9]), rtol=1e-5
        )
        np.testing.assert_array_equal(result.truth[row], series[len(known) : len(known) + 2])


def test_windows_map_over_an_executor_and_pickle(kit):
    panel = kit.random_panel()
    model = kit.EmpiricalQuantiles(h=3, shrink=0.3)

    class ByPickle:
        def map(self, function, windows, panels):
            return [
                pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(pair)))))
                for pair in zip(windows, panels, strict=True)
            ]

    here = backtest(model, panel, n_windows=4, refit=True)
    with ThreadPoolExecutor(2) as threads:
        there = backtest(model, panel, n_windows=4, refit=True, executor=threads)
    piped = backtest(model, panel, n_windows=4, refit=True, executor=ByPickle())
    for other in (there, piped):
        np.testing.assert_array_equal(here.forecast.values, other.forecast.values)
        np.testing.assert_array_equal(here.truth, other.truth)
        assert other.model.mean_ == here.model.mean_
    assert callable(run_window)


def test_a_fitted_model_is_used_as_it_is(kit):
    panel = kit.random_panel()
    model = kit.EmpiricalQuantiles(h=3, shrink=1.0).fit(panel.cut(20))
    result = backtest(model, panel, n_windows=2, fitted=True)
    assert result.fits[0].fit_back is None and result.model is model
    np.testing.assert_allclose(result.forecast.values, model.mean_, rtol=1e-6)
    with pytest.raises(ParameterError, match="contradict"):
        backtest(model, panel, fitted=True, refit=True)


def test_tables_in_the_shape_of_nixtla(kit):
    panel = kit.random_panel()
    first = backtest(kit.EmpiricalQuantiles(h=3), panel, n_windows=2)
    second = backtest(kit.EmpiricalQuantiles(h=3, shrink=1.0), panel, n_windows=2)
    table = first.to_polars()
    name = "EmpiricalQuantiles"
    assert table.columns == [
        "unique_id", "ds", "cutoff", "y", name, f"{name}-q0.1", f"{name}-q0.5", f"{name}-q0.9",
    ]  # fmt: skip
    assert table.height == 3 * 2 * 3
    assert table.filter(table["cutoff"] + 1 == table["ds"]).height == 6
    np.testing.assert_allclose(table[name], table[f"{name}-q0.5"])
    with pytest.raises(ParameterError, match="same model name"):
        join_tables([first, second])
    object.__setattr__(second.forecast, "model", "Mean")
    joined = join_tables([first, second])
    assert joined.height == table.height and "Mean-q0.9" in joined.columns
    np.testing.assert_array_equal(joined["Mean"], second.to_polars()["Mean"])


def test_gaps_in_the_outcomes_stay_gaps(kit):
    panel = kit.random_panel()
    panel.target[panel.begins[1] + 38] = np.nan
    result = backtest(kit.EmpiricalQuantiles(h=4), panel)
    assert np.isnan(result.truth).sum() == 1
    assert result.to_polars()["y"].null_count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_windows": 0}, "n_windows"),
        ({"step_size": 0}, "step_size"),
        ({"n_windows": 11}, "longest series"),
        ({"back": []}, "back must be"),
        ({"back": [4, 4]}, "back must be"),
        ({"back": [-1]}, "back must be"),
        ({"refit": -1}, "refit"),
        ({"min_history": 0}, "min_history"),
        ({"h": 0}, "outside"),
    ],
)
def test_arguments_out_of_range(kit, arguments, message):
    with pytest.raises(ParameterError, match=message):
        backtest(kit.EmpiricalQuantiles(h=4), kit.random_panel(), **arguments)


def test_no_series_with_enough_history(kit):
    with pytest.raises(DataError, match="no series has 99 observed values"):
        backtest(kit.EmpiricalQuantiles(h=4), kit.random_panel(), min_history=99)
    with pytest.raises(DataError, match="no series"):
        backtest(kit.EmpiricalQuantiles(h=4), kit.random_panel(sizes=()))
