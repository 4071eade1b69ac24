"""Recall at precision: decision surfaces over score x uncertainty beside one threshold.

Three public data sets, four uncertainty providers, three seeds. Two questions: what a rule chosen
on a hold-out for a target does on test rows, and which recall rules have at the same precision on
test rows. The gate is "no harm" on Starbucks (bagged trees), where uncertainty carries little.

    python benchmarks/threshold_real.py --data starbucks --out benchmarks/results/X.json
    python benchmarks/threshold_real.py --data all --seeds 0 1 2
    python benchmarks/threshold_real.py --merge A.json B.json --out benchmarks/results/X.json

Choices (networks' sizes, penalties, levels) are the defaults; none was tuned on test rows.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import polars as pl
from _common import machine, save, table

from foretell.evaluation.threshold_data import (
    adult_categories,
    adult_income,
    adult_providers,
    bagged_trees,
    movielens_fives,
    movielens_providers,
    network_providers,
    starbucks_waves,
)
from foretell.evaluation.thresholds import threshold_study

TARGETS = {
    "starbucks": (0.65, 0.7, 0.75, 0.8),
    "movielens_100k": (0.5, 0.6, 0.7),
    "adult_census": (0.8, 0.85, 0.9, 0.95),
}
GATE = ("starbucks", "ensemble", 0.01)


def study(name: str, root: Path, seeds: list[int], wanted: list[str] | None):
    if name == "starbucks":
        data = starbucks_waves(root / "starbucks_offers")
        providers = {"ensemble": bagged_trees, **network_providers(threads=1)}
    elif name == "movielens_100k":
        data = lambda seed: movielens_fives(root / "movielens_100k", seed)  # noqa: E731
        providers = movielens_providers(threads=1)
    else:
        folder = root / "adult_census"
        data = lambda seed: adult_income(folder, seed)  # noqa: E731
        providers = adult_providers(adult_categories(folder), threads=1)
    if wanted:
        providers = {key: value for key, value in providers.items() if key in wanted}
    return threshold_study(
        data, providers, min_precisions=TARGETS[name], seeds=seeds, methods=("mist", "vw_dp"),
        on_result=lambda line: print(line, flush=True),
    )  # fmt: skip


def gate(summary: pl.DataFrame) -> list[dict]:
    """No harm: at matched test precision recall is at least that of one threshold less .01."""
    data, provider, slack = GATE
    rows = summary.filter(
        (pl.col("data") == data) & (pl.col("provider") == provider) & (pl.col("method") == "mist")
    )
    return [
        {
            "precision": row["precision"],
            "single": row["single_recall"],
            "surface": row["recall"],
            "difference": row["difference"],
            "verdict": "PASS" if row["recall"] >= row["single_recall"] - slack else "FAIL",
        }
        for row in rows.to_dicts()
    ]


def merge(files: list[Path]) -> dict:
    """Results of runs of different data or providers as one."""
    merged: dict = {}
    for file in files:
        for key, value in json.loads(file.read_text()).items():
            if key not in TARGETS:
                merged.setdefault(key, value)
            elif key not in merged:
                merged[key] = value
            else:
                for name, rows in value.items():
                    if isinstance(rows, list) and name != "sizes":
                        merged[key].setdefault(name, []).extend(rows)
                merged[key]["seconds"] += value["seconds"]
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--providers", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=os.environ.get("FORETELL_DATA"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+", help="files of earlier runs")
    options = parser.parse_args()
    if options.merge:
        save(options.out, merge(options.merge))
        return
    root = Path(options.root or Path(__file__).resolve().parents[2] / "shared" / "data")
    facts = machine("numpy", "scikit-learn", "torch")
    results = {}
    for name in TARGETS if options.data == "all" else [options.data]:
        start = time.monotonic()
        found = study(name, root, options.seeds, options.providers)
        seconds = time.monotonic() - start
        print(f"\n## {name} ({seconds:.0f} s)\n")
        print(table(found.sizes.to_dicts(), found.sizes.columns), "\n")
        quality = found.quality.group_by("provider", maintain_order=True).agg(
            pl.col("auc", "nll").mean()
        )
        print(table(quality.to_dicts(), ["provider", "auc", "nll"]), "\n")
        summary = found.summary().drop("data")
        print("At matched test precision:\n")
        print(table(summary.to_dicts(), summary.columns), "\n")
        deployed = found.deployed_summary().drop("data", "seeds")
        print("As deployed:\n")
        print(table(deployed.to_dicts(), deployed.columns), "\n")
        results[name] = {"seconds": seconds, **found.tables()}
        verdicts = gate(found.summary())
        if verdicts:
            print(table(verdicts, list(verdicts[0])), "\n")
            results[name]["gate"] = verdicts
    save(options.out, {"machine": facts, "seeds": options.seeds, **results})


if __name__ == "__main__":
    main()
