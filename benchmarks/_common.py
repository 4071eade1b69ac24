"""What the benchmarks share: the machine's description, memory, simulated sales, result files."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

MARK = "RESULT "


def resident_mib() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_mib() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def load() -> str:
    """Load averages: figures taken beside other work are not the machine's."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def machine(*packages: str) -> dict[str, Any]:
    """Processor, memory, load, date and the versions of packages."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "load_at_start": load(),
        "python": platform.python_version(),
        **versions,
    }


def simulate(series: int, length: int, seed: int = 0):
    """Weekly sales with levels, seasons and noise, as a panel."""
    from foretell.data.frequency import Frequency
    from foretell.data.panel import Panel

    rng = np.random.default_rng(seed)
    t = np.arange(length)
    level = rng.lognormal(3, 1, series)[:, None]
    season = 1 + 0.4 * np.sin(2 * np.pi * (t / 52 + rng.random((series, 1))))
    values = (level * season * rng.lognormal(0, 0.2, (series, length))).astype(np.float32)
    return Panel.from_arrays(list(values), frequency=Frequency.parse("W-FRI"))


def report(result: dict[str, Any]) -> None:
    """Hands a contestant's figures to the process that started it."""
    print(MARK + json.dumps(result), flush=True)


def run_alone(file: str, arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """Runs this file again in a process of its own, so that its peak memory is its own."""
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **{name: str(threads) for name in variables}}
    before = load()
    done = subprocess.run(
        [sys.executable, file, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        message = (done.stderr or done.stdout).strip()[-1500:]
        print(f"failed: {' '.join(arguments)}\n{message}", flush=True)
        return {}
    return {**json.loads(lines[-1][len(MARK) :]), "load_before": before, "load_after": load()}


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a Markdown table."""

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        if not isinstance(value, float):
            return f"{value:,}" if isinstance(value, int) else str(value)
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def save(out: Path | None, content: dict[str, Any]) -> None:
    """Writes figures as JSON where a file is named."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n")
