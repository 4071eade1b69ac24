"""100,000 series of 104 weeks on disk: read, fit MQ-CNN for three minutes, predict all.

    python benchmarks/bench_scale.py                                   # 10,000 series, 30 s
    python benchmarks/bench_scale.py --series 100000 --seconds 180 --legacy

Each stage runs in a process of its own and hands on files (the converted panel, the saved model),
so that its peak memory is its own; a last stage does everything in one process, as a user's script
would. "anonymous" is what a process really holds; "resident" adds pages of mapped files, which the
system takes back at will.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, peak_mib, report, run_alone, save, table

HORIZON = 13
LIMIT_MIB = 4096
PACKAGES = ("foretell", "torch", "numpy", "polars", "pyarrow", "statsforecast")


def generate(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Sales with levels, trends, a season, promotions known ahead and zeros, as one Parquet file.

    The horizon after the last week is simulated too, for the score, and kept apart.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    steps, total = options.weeks, options.weeks + HORIZON
    days = np.datetime64("2022-01-07") + 7 * np.arange(total)
    schema = pa.schema(
        [("unique_id", pa.string()), ("ds", pa.date32()), ("y", pa.float32()),
         ("promotion", pa.float32())]
    )  # fmt: skip
    truth = np.lib.format.open_memmap(
        folder / "outcomes.npy", "w+", np.float32, (options.series, HORIZON)
    )
    block = 5000
    with (
        pq.ParquetWriter(folder / "sales.parquet", schema, compression="zstd") as writer,
        pq.ParquetWriter(folder / "future.parquet", schema, compression="zstd") as ahead,
    ):
        for first in range(0, options.series, block):
            count = min(block, options.series - first)
            t = np.arange(total)
            level = rng.lognormal(2, 1.2, (count, 1))
            season = 1 + 0.4 * np.sin(2 * np.pi * (t / 52 + rng.random((count, 1))))
            trend = np.exp(np.cumsum(rng.normal(0, 0.02, (count, total)), axis=1))
            promotion = (rng.random((count, total)) < 0.05).astype(np.float32)
            lift = np.exp(promotion * rng.normal(0.8, 0.2, (count, 1)))
            mean = level * season * trend * lift
            y = rng.poisson(rng.gamma(4, mean / 4)).astype(np.float32)
            truth[first : first + count] = y[:, steps:]
            names = pa.array([f"s{i:08d}" for i in range(first, first + count)])
            for out, part in ((writer, slice(0, steps)), (ahead, slice(steps, total))):
                width = len(t[part])
                out.write_table(
                    pa.table(
                        [
                            names.take(pa.array(np.repeat(np.arange(count), width))),
                            pa.array(np.tile(days[part], count), pa.date32()),
                            pa.array(y[:, part].ravel()),
                            pa.array(promotion[:, part].ravel()),
                        ],
                        schema=schema,
                    )
                )
    truth.flush()
    size = sum((folder / f).stat().st_size for f in ("sales.parquet", "future.parquet"))
    return {"detail": f"{options.series * steps:,} rows, {size / 2**20:,.0f} MiB"}


def convert(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Parquet to a stored panel, piece by piece."""
    import polars as pl

    from foretell.data.convert import convert_parquet

    future = pl.read_parquet(folder / "future.parquet").drop("y")
    convert_parquet(
        folder / "sales.parquet", folder / "panel", known=["promotion"], future=future,
        frequency="W-FRI", overwrite=True,
    )  # fmt: skip
    size = sum(f.stat().st_size for f in (folder / "panel").iterdir())
    return {"detail": f"{size / 2**20:,.0f} MiB stored"}


def open_it(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The stored panel, memory-mapped."""
    panel = _open(folder)
    return {"detail": f"{len(panel):,} series of {panel.lengths.max()} weeks"}


def fit(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """MQ-CNN for a fixed time."""
    panel = _open(folder)
    return _fit(panel, folder, options)


def predict(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All series from the saved model."""
    from foretell.estimators import MQCNN

    return _predict(MQCNN.load(folder / "model"), _open(folder), folder)


def together(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Convert, open, fit and predict in one process."""
    from foretell.estimators import MQCNN

    convert(folder, options)
    panel = _open(folder)
    trained = _fit(panel, folder, options)
    result = _predict(MQCNN.load(folder / "model"), panel, folder)
    return {**result, "detail": f"{trained['detail']}; {result['detail']}"}


def legacy(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The patchwork of point models with its distribution engine, on the same panel."""
    from foretell.learners.demand.legacy import LegacyForecaster

    panel = _open(folder)
    begun = time.perf_counter()
    model = LegacyForecaster(h=HORIZON).fit(panel)
    fitted = time.perf_counter()
    result = _predict(model, panel, folder)
    result["detail"] = f"fit {fitted - begun:.0f} s; {result['detail']}"
    return {**result, "fit_s": fitted - begun}


def _open(folder: Path) -> Any:
    from foretell.data.storage import open_panel

    return open_panel(folder / "panel")


def _fit(panel: Any, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from foretell.estimators import MQCNN

    # The schedule must end within the time: the number of steps follows from that of a step.
    arguments = {"h": HORIZON, "threads": options.threads}
    rows = np.arange(0, len(panel), max(1, len(panel) // 5000))
    trial = panel.select(rows)
    MQCNN(**arguments, max_steps=3).fit(trial)
    step = MQCNN(**arguments, max_steps=30).fit(trial).history_[0].seconds / 30
    model = MQCNN(
        **arguments, max_steps=int(0.9 * options.seconds / step), time_limit=options.seconds
    ).fit(panel)
    model.save(folder / "model")
    result = model.history_[0]
    share = result.steps * model.batch_size / len(panel)
    return {
        "steps": result.steps,
        "planned_steps": model.max_steps,
        "train_s": result.seconds,
        "detail": f"{result.steps} of {model.max_steps} steps in {result.seconds:.0f} s, "
        f"{share:.2f} passes over the series",
    }


def _predict(model: Any, panel: Any, folder: Path) -> dict[str, Any]:
    from foretell.evaluation.metrics import calibration_error, weighted_quantile_loss

    begun = time.perf_counter()
    forecast = model.predict(panel)
    seconds = time.perf_counter() - begun
    y = np.load(folder / "outcomes.npy")
    parts = np.array_split(np.arange(len(y)), max(1, len(y) // 20_000))
    weight = np.array([np.abs(y[p]).sum() for p in parts], float)
    losses = [weighted_quantile_loss(y[p], forecast.values[p], forecast.levels) for p in parts]
    wql = float(np.average(losses, weights=weight))
    off = float(
        np.mean([calibration_error(y[p], forecast.values[p], forecast.levels) for p in parts])
    )
    return {
        "predict_s": seconds,
        "wql": wql,
        "calibration_error": off,
        "detail": f"predict {len(panel) / seconds:,.0f} series/s ({seconds:.1f} s), "
        f"WQL {wql:.4f}, calibration error {off:.3f}",
    }


STAGES = {s.__name__: s for s in (generate, convert, open_it, fit, predict, together, legacy)}


def run_stage(name: str, options: argparse.Namespace) -> None:
    """One stage, in this process, its memory watched."""
    import torch

    torch.set_num_threads(options.threads)
    peak, done = {"RssAnon": 0, "VmRSS": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for line in Path("/proc/self/status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in peak:
                    peak[key] = max(peak[key], int(value.split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = STAGES[name](options.folder, options)
    finally:
        done.set()
        watcher.join()
    report(
        {
            "stage": name,
            "seconds": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "anonymous_mib": peak["RssAnon"] / 2**10,
            "resident_mib": max(peak["VmRSS"] / 2**10, peak_mib()),
            **result,
        }
    )


COLUMNS = ("stage", "seconds", "cpu_s", "anonymous_mib", "resident_mib", "load_before", "detail")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--weeks", type=int, default=104)
    parser.add_argument("--seconds", type=float, default=30, help="of training")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--folder", type=Path, help="kept; a temporary one where not given")
    parser.add_argument("--legacy", action="store_true", help="also the legacy patchwork")
    parser.add_argument("--together", action="store_true", help="also all stages in one process")
    parser.add_argument("--stages", help="only these, comma-separated")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stage")
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options)
        return
    stages = ["generate", "convert", "open_it", "fit", "predict"]
    stages += ["together"] * options.together + ["legacy"] * options.legacy
    if options.stages:
        stages = options.stages.split(",")
    kept = options.folder is not None
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench_scale"))
    folder.mkdir(parents=True, exist_ok=True)
    about = machine(*PACKAGES) | {
        "series": options.series, "weeks": options.weeks, "seconds": options.seconds,
        "threads": options.threads,
    }  # fmt: skip
    print(about, flush=True)
    rows = []
    try:
        for name in stages:
            passed = [f"--{k}={v}" for k, v in
                      (("stage", name), ("series", options.series), ("weeks", options.weeks),
                       ("seconds", options.seconds), ("threads", options.threads),
                       ("folder", folder))]  # fmt: skip
            row = run_alone(os.path.abspath(__file__), passed, options.threads)
            if not row:
                raise SystemExit(f"the stage {name} failed")
            rows.append(row)
            print(table([row], COLUMNS).splitlines()[-1], flush=True)
            save(options.out, {"about": about, "rows": rows})
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(rows, COLUMNS))
    highest = max(row["resident_mib"] for row in rows if row["stage"] != "generate")
    print(f"highest peak {highest:,.0f} MiB, {highest / LIMIT_MIB:.2f} of the {LIMIT_MIB} allowed")


if __name__ == "__main__":
    main()
