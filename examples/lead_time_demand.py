"""Quantiles do not add: demand over a lead time needs quantiles of its own.

    python examples/lead_time_demand.py

An order must last for four weeks. MQ-CNN learns quantiles of the sum of these weeks
(``span_targets``); the alternatives sum the quantiles of single weeks as if all were high or low
together (``rank``), or as if weeks were independent.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from foretell.data.simulators import shop
from foretell.decisions import Replenishment
from foretell.estimators import MQCNN
from foretell.evaluation import backtest, decision_cost

WEEKS = 4


def main(max_steps: int = 150) -> dict[str, float]:
    """Returns the share of orders that sufficed, by the way periods are summed."""
    panel, _ = shop(items=20, stores=3, weeks=130, horizon=WEEKS, new_share=0.0, seed=11)
    model = MQCNN(h=WEEKS, span_targets=[(0, WEEKS)], n_forks=16, max_steps=max_steps, seed=1)
    forecast = backtest(model, panel, n_windows=4).forecast

    rule = Replenishment(service_level=0.8, lead_time=WEEKS - 1, review=1)
    ways = {
        "span": (rule, forecast),
        "rank": (rule, dataclasses.replace(forecast, spans={})),
        "independent": (
            dataclasses.replace(rule, dependence="independent"),
            dataclasses.replace(forecast, spans={}),
        ),
    }
    shares = {}
    print("wanted: the stock lasts in 80 of 100 cases")
    for name, (decision, quantiles) in ways.items():
        orders = decision.decide(quantiles)
        summary = decision_cost(orders, panel).summary(resamples=200)
        found = dict(zip(summary["measure"], summary["value"], strict=True))
        shares[name] = found["in_stock_rate"]
        print(
            f"{name:12} mean order {np.mean(orders.order):7.1f}, lasts in "
            f"{100 * found['in_stock_rate']:.0f} of 100, {100 * found['left_over_share']:.0f} % "
            "of demand left over"
        )
    return shares


if __name__ == "__main__":
    main()
