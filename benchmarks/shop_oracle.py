"""A run on the simulated shop beside the forecaster who knows everything but the future.

    foretell run demand --out runs/demo && python benchmarks/shop_oracle.py runs/demo

The oracle's quantiles are those of the true demand given prices, calendar and the interest at the
origin; it does not know of stock-outs to come, nor of returns.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from foretell.data.simulators import shop
from foretell.evaluation import evaluate, summarise
from foretell.runs.demand.results import read_results
from foretell.runs.folder import RunFolder
from foretell.runs.runner import read_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a complete run on the shop")
    folder = RunFolder(parser.parse_args().run)
    record = folder.require_complete()
    recipe = read_recipe(folder, record)
    options = {"horizon": recipe.data.horizon, "seed": recipe.seeds[0], **recipe.data.options}
    panel, truth = shop(**options)
    if recipe.data.source != "shop" or panel.fingerprint() != record["data"]["fingerprint"]:
        raise SystemExit(f"{folder.path} is no run on this shop")
    results = read_results(folder.path, record["backtests"], panel)
    for protocol in results.protocols:
        forecasts = {name: b.forecast for name, b in results.first_seeds(protocol).items()}
        first = next(iter(forecasts.values()))
        known = truth.quantiles(list(first.ids), first.cutoffs, first.horizon, first.levels)
        oracle = replace(first, values=known.astype(np.float32), spans={}, model="oracle")
        table = summarise(
            evaluate({"oracle": oracle, **forecasts}, panel, by=()),
            metrics=["wql", "wape", "calibration_error"],
        ).sort("wql")
        best = table.filter(model="oracle")["wql"].item()
        print(f"{protocol}\n{'model':12}     WQL    WAPE  calibration  WQL / oracle")
        for row in table.to_dicts():
            print(
                f"{row['model']:12} {row['wql']:7.4f} {row['wape']:7.4f} "
                f"{row['calibration_error']:12.4f} {row['wql'] / best:13.3f}"
            )


if __name__ == "__main__":
    main()
