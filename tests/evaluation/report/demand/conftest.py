from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from foretell.data.frequency import Frequency
from foretell.data.panel import DataNote, Panel
from foretell.decisions import Replenishment
from foretell.evaluation import Backtest, decision_cost, evaluate
from foretell.evaluation.report import ReportInput
from foretell.learners.demand.forecast import Forecast

LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def make_panel(
    ids: Sequence[str], length: int = 60, horizon: int = 6, seed: int = 0
) -> tuple[Panel, np.ndarray]:
    rng = np.random.default_rng(seed)
    mean = rng.uniform(2, 40, len(ids))
    values = rng.poisson(np.repeat(mean[:, None], length, axis=1)).astype(np.float32)
    total = length + horizon
    promotion = (rng.random((len(ids), total)) < 0.1).astype(np.float32)
    event = np.zeros((len(ids), total), np.float32)
    event[:, [20, length - 3]] = 1
    panel = Panel.from_arrays(
        values,
        ids=ids,
        frequency=Frequency.parse("W-SUN", np.datetime64("2024-01-07")),
        start=200,
        known={"promotion": promotion.ravel(), "feast": event.ravel()},
        known_begins=np.arange(len(ids), dtype=np.int64) * total,
        known_lengths=np.full(len(ids), total, np.int64),
        events=("feast",),
        notes=(DataNote("negative_sales", "kept as returns", 3, str(ids[0])),),
    )
    return panel, mean


def make_backtest(
    panel: Panel, mean: np.ndarray, model: str, wide: float, horizon: int
) -> Backtest:
    from scipy import stats

    cutoffs = panel.ends - horizon
    quantiles = stats.norm.ppf(LEVELS)[None] * wide * np.sqrt(mean)[:, None] + mean[:, None]
    values = np.repeat(np.maximum(quantiles, 0)[:, None], horizon, axis=1).astype(np.float32)
    forecast = Forecast(panel.ids, cutoffs, panel.frequency, LEVELS, values, model=model)
    truth = panel.outcomes(list(panel.ids), cutoffs, horizon)
    return Backtest(forecast, truth, np.full(len(panel), horizon), ())


@pytest.fixture
def make_input() -> Callable[..., ReportInput]:
    """Reports on Poisson sales forecast by their true mean, by models of different width."""

    def make(
        ids: Sequence[str] = tuple(f"item {i:02d}" for i in range(12)),
        models: Sequence[str] = ("sharp", "wide"),
        orders: bool = False,
        **more: Any,
    ) -> ReportInput:
        horizon = 6
        panel, mean = make_panel(ids, horizon=horizon)
        widths = dict(zip(models, (1.0, 3.0, 0.4), strict=False))
        tests = {m: make_backtest(panel, mean, m, w, horizon) for m, w in widths.items()}
        table = evaluate(tests, panel).with_columns(pl.lit(0).alias("seed"))
        if orders:
            rule = Replenishment(service_level=0.9, on_hand=5.0)
            last = make_backtest(panel, mean, models[0], 1.0, horizon).forecast
            future = Forecast(
                last.ids, panel.ends, last.frequency, LEVELS, last.values, model=models[0]
            )
            more = {
                "future": future,
                "orders": rule.decide(future),
                "decision_costs": {
                    m: decision_cost(rule.decide(t.forecast), panel) for m, t in tests.items()
                },
                **more,
            }
        run = {
            "title": "A test",
            "command": "foretell run demo",
            "recipe": {"seeds": [0], "models": {"sharp": {"kind": "MQCNN"}}},
            "versions": {"python": "3.11"},
            "data": {"source": "memory", "fingerprint": panel.fingerprint(), "notes": []},
            "timings": {"backtest": {"sharp": 1.5}},
            "seeds": [0],
        }
        return ReportInput(
            **{
                "run": run,
                "panel": panel,
                "backtests": {"holdout": tests},
                "tables": {"holdout": table},
                "best": models[0],
                "baseline": models[-1],
                **more,
            }
        )

    return make
