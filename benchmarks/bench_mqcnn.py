"""Speed of MQ-CNN: training against its own floor, all origins in one pass against one at a time.

    python benchmarks/bench_mqcnn.py [--series 1000] [--steps 60] [--threads 1]

A fork-window is one forecast of K periods and Q levels that the loss is charged for; a forecast
point is one period of it that was observed. The floor is arithmetic: floating-point operations of
one training step (forward and backward, counted from the shapes of all products and convolutions)
over the rate that this machine reaches on large products, measured beside it. The panel is
simulated; every figure is from this process, one after the other.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import load, machine, peak_mib, save, simulate

HORIZON = 13


def product_rate(threads: int) -> tuple[float, float]:
    """Operations a second, and a second of CPU time, on 1024 x 1024 float32 products."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = best_cpu = float("inf")
    for _ in range(20):
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(5):
            a @ b
        best = min(best, (time.perf_counter() - begun) / 5)
        best_cpu = min(best_cpu, (time.process_time() - cpu) / 5)
    return 2 * 1024**3 / best, 2 * 1024**3 / best_cpu


def one_step(model: Any, panel: Any) -> dict[str, float]:
    """Operations, observed points, windows and bytes of one training step of a fitted model."""
    from torch.utils.flop_counter import FlopCounterMode

    learner = model.learners_[0]
    examples = model._make_examples(panel, None)
    rng = np.random.default_rng(0)
    count = min(model.batch_size, len(examples))
    batch = examples.batch(rng.choice(len(examples), count, replace=False), rng)
    learner.train()
    counter = FlopCounterMode(display=False)
    with counter:
        output = learner.decode(learner.encode(batch), batch)
        learner.score(output, batch).mean().backward()
    learner.zero_grad()
    learner.eval()
    windows = int((batch["forks"] >= 0).sum())
    size = sum(t.numel() * t.element_size() for t in batch.values())
    return {
        "operations": float(counter.get_total_flops()),
        "points": float(batch["weight"].sum()),
        "windows": windows,
        "bytes_per_window": size / windows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--length", type=int, default=118)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from foretell.estimators import MQCNN, MQRNN

    panel = simulate(options.series, options.length)
    rate, rate_cpu = product_rate(options.threads)
    about = machine("foretell", "torch", "numpy") | {"threads": options.threads}
    about["product_gflops"] = round(rate / 1e9, 1)
    about["product_gflops_cpu"] = round(rate_cpu / 1e9, 1)
    print(json.dumps(about), flush=True)
    rows: list[dict[str, Any]] = []
    for cls, forks in ((MQCNN, 8), (MQCNN, 24), (MQCNN, "all"), (MQRNN, 24)):
        shared = {"h": HORIZON, "n_forks": forks, "threads": options.threads}
        cls(**shared, max_steps=2).fit(panel)
        model = cls(**shared, max_steps=options.steps)
        cpu = time.process_time()
        model.fit(panel)
        cpu = (time.process_time() - cpu) / options.steps
        wall = model.history_[0].seconds / options.steps
        step = one_step(model, panel)
        rows.append(
            {
                "model": cls.__name__,
                "forks": forks,
                "fork_windows_per_s": round(step["windows"] / wall),
                "points_per_s": round(step["points"] / wall),
                "points_per_cpu_s": round(step["points"] / cpu),
                "gflop_per_step": round(step["operations"] / 1e9, 2),
                "kflop_per_window": round(step["operations"] / step["windows"] / 1e3),
                "input_bytes_per_window": round(step["bytes_per_window"]),
                "times_the_floor": round(wall * rate / step["operations"], 1),
                "times_the_floor_cpu": round(cpu * rate_cpu / step["operations"], 1),
                "load": load(),
            }
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
        if cls is MQCNN:
            kept = model
    back = list(range(52))
    kept.predict(panel)
    begun = time.perf_counter()
    together = kept.predict_origins(panel, back)
    fast = time.perf_counter() - begun
    begun = time.perf_counter()
    alone = np.concatenate([kept.predict(panel.cut(b)).values for b in back])
    slow = time.perf_counter() - begun
    origins = {
        "origins": len(back),
        "all_origins_s": round(fast, 2),
        "one_at_a_time_s": round(slow, 2),
        "ratio": round(slow / fast, 1),
        "largest_difference": float(np.abs(together.values - alone).max()),
        "peak_mib": round(peak_mib()),
    }
    print(json.dumps(origins))
    save(options.out, {"about": about, "rows": rows, "origins": origins})


if __name__ == "__main__":
    main()
