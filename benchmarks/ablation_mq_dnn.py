"""Does training on the quantile loss pay? The same net and features, three ways.

P-walmart: fitted on all but the last 39 weeks of each series, scored on these. Compared are MQ-DNN
trained on the quantile loss, the same network trained on the squared error with quantiles from the
Distribution Engine (errors of rolling origins of a fit without the last 26 training weeks), and
optionally the quantile forest on the same rows of features.

    python benchmarks/ablation_mq_dnn.py ../shared/data --seeds 3 --forest
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from foretell.data.panel import Panel
from foretell.data.public import walmart
from foretell.estimators import MQDNN
from foretell.evaluation.metrics import coverage, weighted_quantile_loss
from foretell.learners.demand import QRFForecaster
from foretell.learners.demand.legacy.distribution_engine import DistributionEngine

HORIZON = 39
HELD_OUT = 26
ORIGINS = (26, 19, 13)


def squared_with_engine(train: Panel, seed: int, options: dict) -> np.ndarray:
    """Quantiles (N, K, Q) from point forecasts and their past errors."""
    levels = np.arange(1, 10) / 10

    def fitted(panel: Panel) -> MQDNN:
        return MQDNN(HORIZON, loss="squared", seed=seed, **options).fit(panel)

    past = fitted(train.cut(HELD_OUT)).predict_origins(train, ORIGINS)
    actual = train.outcomes(list(past.ids), past.cutoffs, HORIZON)
    codes = train.static_categorical["Dept"].codes
    engine = DistributionEngine().fit(
        past.median, actual, groups=[np.tile(codes, len(ORIGINS))], cutoffs=past.cutoffs
    )
    point = fitted(train).predict(train).median
    return engine.apply(point, levels, groups=[codes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the public data sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--forest", action="store_true", help="the quantile forest too")
    arguments = parser.parse_args()
    panel = walmart(arguments.data / "walmart_store_sales")
    train = panel.cut(HORIZON)
    y = panel.windows(np.arange(len(panel)), panel.lengths, HORIZON)
    levels = np.arange(1, 10) / 10
    options = {"max_steps": arguments.steps, "threads": arguments.threads}
    scores: dict[str, list[float]] = {}

    def note(name: str, values: np.ndarray) -> None:
        loss = weighted_quantile_loss(y, values, levels)
        scores.setdefault(name, []).append(loss)
        shares = np.round(coverage(y, values)[[0, 4, 8]], 3)
        print(f"{name:28s} WQL {loss:.4f}  coverage .1/.5/.9 {shares}", flush=True)

    for seed in range(arguments.seeds):
        note("MQ-DNN", MQDNN(HORIZON, seed=seed, **options).fit(train).predict(train).values)
        note("squared error + engine", squared_with_engine(train, seed, options))
        if arguments.forest:
            forest = QRFForecaster(HORIZON, seed=seed, n_jobs=arguments.threads).fit(train)
            note("quantile forest", forest.predict(train).values)
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    for name, mean in means.items():
        print(f"{name:28s} mean WQL {mean:.4f}  MQ-DNN / it {means['MQ-DNN'] / mean:.3f}")


if __name__ == "__main__":
    main()
