"""A panel larger than one would load: convert a Parquet file, open it, draw random batches.

    python benchmarks/bench_panel.py --series 1000000 --steps 150

Each stage runs in a process of its own, so that its peak memory is its own. "anonymous" is what the
process really holds; "resident" adds pages of mapped files, which the system takes back at will.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def generate(folder: Path, series: int, steps: int) -> str:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    days = np.datetime64("2020-01-03") + 7 * np.arange(steps)
    schema = pa.schema([("unique_id", pa.string()), ("ds", pa.date32()), ("y", pa.float32())])
    block = max(1, 1_000_000 // steps)
    with pq.ParquetWriter(folder / "sales.parquet", schema, compression="zstd") as writer:
        for first in range(0, series, block):
            count = min(block, series - first)
            names = pa.array([f"s{i:08d}" for i in range(first, first + count)])
            ids = names.take(pa.array(np.repeat(np.arange(count), steps)))
            dates = pa.array(np.tile(days, count), pa.date32())
            values = rng.poisson(rng.gamma(2, 5, (count, 1)), (count, steps)).astype(np.float32)
            writer.write_table(pa.table([ids, dates, pa.array(values.ravel())], schema=schema))
    size = (folder / "sales.parquet").stat().st_size
    return f"{series * steps:,} rows, {size / 2**20:,.0f} MiB"


def convert(folder: Path, series: int, steps: int) -> str:
    from foretell.data.convert import convert_parquet

    started = time.perf_counter()
    convert_parquet(folder / "sales.parquet", folder / "panel", frequency="W-FRI", overwrite=True)
    rate = series * steps / (time.perf_counter() - started)
    size = sum(f.stat().st_size for f in (folder / "panel").iterdir())
    return f"{rate:,.0f} rows a second, {size / 2**20:,.0f} MiB"


def open_it(folder: Path, series: int, steps: int) -> str:
    from foretell.data.storage import open_panel

    started = time.perf_counter()
    panel = open_panel(folder / "panel")
    seconds = time.perf_counter() - started
    assert len(panel) == series and panel.lengths.max() == steps
    return f"open_panel alone {seconds:.2f} s"


def draw(folder: Path, series: int, steps: int) -> str:
    import numpy as np

    from foretell.data.storage import open_panel

    panel = open_panel(folder / "panel")
    rng = np.random.default_rng(0)
    batches, size = 200, 512
    started = time.perf_counter()
    total = 0.0
    for _ in range(batches):
        rows = rng.integers(series, size=size)
        total += float(np.nansum(panel.windows(rows, rng.integers(1, steps, size), 104)))
    seconds = time.perf_counter() - started
    return f"{batches * size / seconds:,.0f} windows of 104 steps a second, at random places"


def read_all(folder: Path, series: int, steps: int) -> str:
    import polars as pl

    from foretell.data.frames import from_polars

    panel = from_polars(pl.read_parquet(folder / "sales.parquet"), frequency="W-FRI")
    return f"{len(panel):,} series, the whole table in memory"


def _stage(pipe: Any, work: Callable[..., str], arguments: tuple[Any, ...]) -> None:
    import numpy
    import polars  # noqa: F401  imported before the clock starts
    import pyarrow.parquet  # noqa: F401

    assert numpy
    peak = {"RssAnon": 0, "VmRSS": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]))

    thread = threading.Thread(target=watch)
    thread.start()
    started = time.perf_counter()
    text = work(*arguments)
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    pipe.send((text, seconds, peak["RssAnon"] / 2**10, peak["VmRSS"] / 2**10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--folder", type=Path, help="kept; a temporary one where not given")
    parser.add_argument("--in-memory", action="store_true", help="also read all with from_polars")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench_panel"))
    folder.mkdir(parents=True, exist_ok=True)
    stages = [generate, convert, open_it, draw]
    if options.in_memory:
        stages.append(read_all)
    context = multiprocessing.get_context("spawn")
    try:
        for work in stages:
            here, there = context.Pipe()
            arguments = (folder, options.series, options.steps)
            process = context.Process(target=_stage, args=(there, work, arguments))
            process.start()
            there.close()
            try:
                text, seconds, anonymous, resident = here.recv()
            except EOFError:
                raise SystemExit(f"{work.__name__} failed") from None
            process.join()
            print(
                f"{work.__name__:9s} {seconds:8.1f} s   peak {anonymous:7,.0f} MiB anonymous, "
                f"{resident:7,.0f} MiB resident   {text}",
                flush=True,
            )
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
