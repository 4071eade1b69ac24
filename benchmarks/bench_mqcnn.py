"""Speed of MQ-CNN: training throughput, all-origins backtest against one origin at a time.

    python benchmarks/bench_mqcnn.py [--series 1000] [--steps 60] [--threads 1]

A fork-window is one forecast of K periods and Q levels that the loss is charged for. The panel is
simulated; every figure is from this process, one after the other.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from foretell.data.frequency import Frequency
from foretell.data.panel import Panel
from foretell.estimators import MQCNN, MQRNN

HORIZON = 13


def simulate(series: int, length: int) -> Panel:
    rng = np.random.default_rng(0)
    t = np.arange(length)
    level = rng.lognormal(3, 1, series)[:, None]
    season = 1 + 0.4 * np.sin(2 * np.pi * (t / 52 + rng.random((series, 1))))
    values = level * season * rng.lognormal(0, 0.2, (series, length))
    return Panel.from_arrays(list(values), frequency=Frequency.parse("W-FRI"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--length", type=int, default=118)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    panel = simulate(arguments.series, arguments.length)
    rows = []
    for cls, forks in ((MQCNN, 8), (MQCNN, 24), (MQCNN, "all"), (MQRNN, 24)):
        model = cls(h=HORIZON, n_forks=forks, max_steps=arguments.steps, threads=arguments.threads)
        clock, cpu = time.perf_counter(), time.process_time()
        model.fit(panel)
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        count = arguments.length - 1 if forks == "all" else forks
        windows = arguments.steps * model.batch_size * count
        rows.append(
            {
                "model": cls.__name__,
                "forks": forks,
                "fork_windows_per_second": round(windows / clock),
                "fork_windows_per_cpu_second": round(windows / cpu),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    back = list(range(52))
    model.predict(panel)
    clock = time.perf_counter()
    together = model.predict_origins(panel, back)
    fast = time.perf_counter() - clock
    clock = time.perf_counter()
    alone = np.concatenate([model.predict(panel.cut(b)).values for b in back])
    slow = time.perf_counter() - clock
    print(
        json.dumps(
            {
                "all_origins_seconds": round(fast, 2),
                "one_at_a_time_seconds": round(slow, 2),
                "ratio": round(slow / fast, 1),
                "largest_difference": float(np.abs(together.values - alone).max()),
                "peak_memory_gib": round(
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
