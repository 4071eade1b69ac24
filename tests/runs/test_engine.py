from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from tiny_runs import call, record

from foretell.data import registry
from foretell.errors import DataError, ParameterError
from foretell.learners.demand.legacy import StatsForecastModel
from foretell.runs.demand.spread import spread_series
from foretell.runs.engine import LocalEngine, make_engine


def test_the_local_engine_keeps_the_order():
    with LocalEngine() as engine:
        assert list(engine.map(pow, [2, 3], [3, 2])) == [8, 9]


def test_unknown_engines_are_refused():
    with pytest.raises(ParameterError, match="'local' or 'ray', not 'dask'"):
        make_engine("dask")


def test_ray_gives_the_numbers_of_one_process(finished, recipe_file, tmp_path):
    """Windows and seeds as tasks of a cluster that the command starts and stops."""
    ray = pytest.importorskip("ray")
    assert not ray.is_initialized()
    folder = tmp_path / "ray"
    result = call("run", recipe_file, "--out", folder, "--engine", "ray")
    assert result.exit_code == 0, result.stderr
    assert not ray.is_initialized()
    here, there = record(finished), record(folder)
    assert there["engine"] == "ray"
    assert there["metrics"] == here["metrics"]
    assert there["orders"] == here["orders"]
    assert there["data"]["fingerprint"] == here["data"]["fingerprint"]
    for name in ("backtest", "backtest_spans", "predictions", "orders"):
        file = f"{name}.parquet"
        assert pl.read_parquet(folder / file).equals(pl.read_parquet(finished / file))


def test_a_cluster_that_is_there_is_used_and_stays(monkeypatch):
    """Errors arrive as they were raised; slow classical models spread their series."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    history = np.random.default_rng(0).poisson(5.0, (130, 20)).astype(float)
    model = StatsForecastModel("HistoricAverage")
    try:
        with make_engine("ray") as engine:
            with pytest.raises(DataError, match="Did you mean m4") as caught:
                list(engine.map(registry.find, ["m4", "m44", "m4"]))
            calls = []
            original = engine.map
            monkeypatch.setattr(engine, "map", lambda *a: calls.append(a) or original(*a))
            with spread_series(engine):
                there = model.forecast(history, 3, 1)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert caught.value.hint
    assert len(calls) == 1
    np.testing.assert_array_equal(there, model.forecast(history, 3, 1))


def test_a_cluster_that_another_program_started_for_itself_is_left_alone(monkeypatch):
    """Two runs on a machine: the second must not stand on what ends with the first."""
    ray = pytest.importorskip("ray")
    asked = []

    def init(address, **options):
        asked.append(address)
        if address is None and len(asked) > 1:
            raise ConnectionError("the cluster that was started last is gone")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    for _ in range(2):
        with make_engine("ray"):
            pass
    assert asked == [None, None, "local"]  # "auto" would take any that runs
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with make_engine("ray"):
        assert asked[-1] == "10.0.0.1:6379"
