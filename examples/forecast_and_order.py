"""From a table of sales to orders: read, compare, choose, forecast, decide.

    python examples/forecast_and_order.py

writes ``orders.csv`` into the current folder. The sales are those of a simulated shop; with your
own, start at ``read_panel``.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from foretell.data import problems, read_panel, to_csv
from foretell.data.simulators import shop
from foretell.decisions import Replenishment
from foretell.evaluation import backtest, evaluate, leaderboard
from foretell.learners.demand import LegacyForecaster, QRFForecaster

HORIZON = 8


def main(folder: Path = Path()) -> pl.DataFrame:
    """Returns one row an order."""
    simulated, _ = shop(items=8, stores=2, weeks=130, horizon=HORIZON, seed=7)
    files = to_csv(simulated, folder / "sales.csv")

    panel = read_panel(
        files["history"],
        past=["page_views"],
        known=["price", "promotion", "easter", "black_friday", "christmas"],
        events=["easter", "black_friday", "christmas"],
        censored="censored",
        future=files["future"],
        static=files["static"],
    )
    print(panel)
    print(problems(panel))

    models = [LegacyForecaster(HORIZON), QRFForecaster(HORIZON, n_rows=10_000, n_estimators=30)]
    tests = [backtest(model, panel, n_windows=2) for model in models]
    board = leaderboard(evaluate(tests, panel, by=()), resamples=200)
    print(board.select("rank", "model", "wql", "mase", "calibration_error"))

    best = next(model for model in models if model.name == board["model"][0])
    forecast = best.fit(panel).predict(panel)

    rule = Replenishment(price=4.0, unit_cost=2.5, salvage=1.0, lead_time=1, review=1, batch_size=6)
    stock = pl.DataFrame({"unique_id": panel.ids.astype(str), "on_hand": [10.0] * len(panel)})
    orders = rule.decide(forecast, stock).to_polars()
    orders.write_csv(folder / "orders.csv")
    print(orders.select("unique_id", "fractile", "target", "on_hand", "order", "reason"))
    return orders


if __name__ == "__main__":
    main()
