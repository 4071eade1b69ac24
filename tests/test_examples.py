"""The worked examples run, and show what they say they show."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for file in EXAMPLES.glob("*.py"):
        assert f'load("{file.stem}")' in here


def test_forecast_and_order(tmp_path: Path) -> None:
    orders = load("forecast_and_order").main(tmp_path)
    assert pl.read_csv(tmp_path / "orders.csv").height == orders.height == 16
    assert (orders["order"] % 6 == 0).all()
    assert orders["fractile"].to_list() == pytest.approx([0.5] * 16)  # (4 - 2.5) / (4 - 1)


def test_distribution_engine_covers_as_often_as_it_says() -> None:
    shares = load("distribution_engine").main()
    assert shares == pytest.approx(np.array([0.1, 0.5, 0.9]), abs=0.12)


def test_lead_time_demand() -> None:
    shares = load("lead_time_demand").main(max_steps=60)
    assert set(shares) == {"span", "rank", "independent"}
    assert shares["rank"] > shares["independent"]


def test_late_redemptions() -> None:
    ratios = load("late_redemptions").main(rate=60)
    assert ratios["naive"] < ratios["funnel"] < 1
    assert ratios["soft"] == pytest.approx(1, abs=0.2)


def test_recall_at_precision() -> None:
    found = load("recall_at_precision").main(cells=12_000)
    assert set(found) == {"one threshold", "surface", "guaranteed"}
    assert found["surface"][1] > found["one threshold"][1]
