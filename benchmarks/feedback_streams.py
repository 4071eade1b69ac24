"""Methods for late labels on two streams whose truth is known: no method leads on both.

Both streams of :func:`foretell.data.simulators.funnel_stream`, every method of
``DelayedFeedbackClassifier``, hourly updates, judged by ``KL(truth || prediction)`` of the next
hour. Beside each figure stands the mean that a prototype gave when the acceptance ratios were set;
the ratios are checked and printed.

    python benchmarks/feedback_streams.py                      # all: about half an hour on one core
    python benchmarks/feedback_streams.py --streams default --seeds 0 --methods vanilla esdfm
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import polars as pl  # noqa: E402
from _common import load, machine  # noqa: E402

from foretell.evaluation.feedback import PrequentialResult  # noqa: E402

RESULTS = Path(__file__).parent / "results"
NETWORK = {
    "hidden_sizes": (32,),
    "batch_norm": False,
    "learning_rate": 1e-2,
    "batch_size": 1024,
    "epochs": 5,
}
VIEW = {"engagement": ("view",)}
METHODS: dict[str, dict[str, Any]] = {
    "pretrain": {"method": "vanilla"},
    "wait": {"method": "wait"},
    "vanilla": {"method": "vanilla"},
    "fnc": {"method": "fnc"},
    "fnw": {"method": "fnw"},
    "esdfm frozen": {"method": "esdfm", "auxiliary": "frozen"},
    "esdfm frozen published": {"method": "esdfm", "auxiliary": "frozen", "weights": "published"},
    "esdfm refresh": {"method": "esdfm", "auxiliary": "refresh"},
    "esdfm self": {"method": "esdfm", "auxiliary": "self"},
    "defer frozen": {"method": "defer", "auxiliary": "frozen"},
    "defuse frozen": {"method": "defuse", "auxiliary": "frozen"},
    "defer self": {"method": "defer", "auxiliary": "self"},
    "defuse self": {"method": "defuse", "auxiliary": "self"},
    "bidefuse self": {"method": "bidefuse", "auxiliary": "self"},
    "ulc frozen": {"method": "ulc", "auxiliary": "frozen"},
    "ddfm frozen": {"method": "ddfm", "auxiliary": "frozen"},
    "dfm": {"method": "dfm"},
    "dfm published": {"method": "dfm", "weights": "published"},
    "fsiw frozen": {"method": "fsiw", "auxiliary": "frozen"},
    "fsiw self": {"method": "fsiw", "auxiliary": "self"},
    "gdfm": {"method": "gdfm"},
    "gdfm published": {"method": "gdfm", "weights": "published"},
    "gdfm engagement": {"method": "gdfm", **VIEW},
    "funnel finality": {"method": "funnel", "auxiliary": "frozen", **VIEW},
    "funnel self": {"method": "funnel", "auxiliary": "self", **VIEW},
    "oracle": {"method": "oracle"},
}
# Means over seeds of the prototype: KL, NLL, AUC, mean prediction over mean label.
PROTOTYPE: dict[str, dict[str, tuple[float, ...]]] = {
    "default": {
        "pretrain": (0.0932, 0.3999, 0.738, 1.363),
        "wait": (0.0914, 0.3994, 0.729, 0.884),
        "vanilla": (0.0234, 0.3306, 0.822, 0.805),
        "fnc": (0.0318, 0.3377, 0.821, 0.998),
        "fnw": (0.0186, 0.3251, 0.823, 0.973),
        "esdfm frozen": (0.0176, 0.3242, 0.823, 1.001),
        "esdfm self": (0.0180, 0.3245, 0.823, 0.977),
        "defer frozen": (0.0340, 0.3402, 0.801, 1.10),
        "defuse frozen": (0.0261, 0.3324, 0.813, 1.09),
        "defer self": (0.0271, 0.3337, 0.811, 0.94),
        "defuse self": (0.0178, 0.3243, 0.824, 0.98),
        "funnel finality": (0.0160, 0.3219, 0.827, 1.012),
        "funnel self": (0.0155, 0.3218, 0.827, 0.963),
        "oracle": (0.0104, 0.3164, 0.835, 1.006),
    },
    "short_window": {
        "vanilla": (0.0147,),
        "defer frozen": (0.0114,),
        "defuse frozen": (0.0088,),
        "esdfm frozen": (0.0069,),
        "funnel finality": (0.0067,),
        "defuse self": (0.0060,),
        "fnw": (0.0058,),
        "defer self": (0.0057,),
        "funnel self": (0.0057,),
        "oracle": (0.0055,),
    },
}
SEEDS = {"default": (0, 1, 2, 3, 4), "short_window": (0, 1, 2)}
START, END = 240.0, 600.0


def play(stream: str, seed: int, name: str, catch_up: bool) -> tuple[PrequentialResult, float]:
    """One method on one stream."""
    import torch

    from foretell.data.simulators.funnel_stream import FUNNEL_STREAMS, funnel_stream
    from foretell.estimators.feedback import DelayedFeedbackClassifier
    from foretell.evaluation.feedback import prequential

    torch.set_num_threads(1)
    begin = time.process_time()
    log, truth = funnel_stream(stream, seed=seed)
    classifier = DelayedFeedbackClassifier(
        **NETWORK, **METHODS[name], waiting_time=FUNNEL_STREAMS[stream].waiting_time
    )
    result = prequential(
        {name: classifier},
        log,
        START,
        END,
        "1h",
        truth=truth.conversion(),
        references=(),
        seeds=(seed,),
        stream=f"{stream}-{seed}",
        catch_up=catch_up,
    )
    return result, time.process_time() - begin


def cached(
    store: Path | None, catch_up: bool, stream: str, seed: int, name: str
) -> tuple[PrequentialResult, float]:
    """The same, kept in a folder, so that a run that was stopped goes on."""
    if store is None:
        return play(stream, seed, name, catch_up)
    folder = (
        store / ("catch_up" if catch_up else "plain") / stream / str(seed) / name.replace(" ", "_")
    )
    if not (folder / "seconds.parquet").exists():
        result, spent = play(stream, seed, name, catch_up)
        folder.mkdir(parents=True, exist_ok=True)
        result.table.write_parquet(folder / "table.parquet")
        result.bins.write_parquet(folder / "bins.parquet")
        seconds = result.seconds.with_columns(pl.lit(spent).alias("cpu"))
        seconds.write_parquet(folder / "seconds.parquet")
    seconds = pl.read_parquet(folder / "seconds.parquet")
    parts = [pl.read_parquet(folder / f"{part}.parquet") for part in ("table", "bins")]
    return PrequentialResult(*parts, seconds.drop("cpu")), float(seconds["cpu"][0])


def ratios(
    stream: str, kl: dict[str, float], calibration: dict[str, float]
) -> list[dict[str, Any]]:
    """The acceptance ratios of a stream whose methods were run."""
    found: list[dict[str, Any]] = []

    def require(what: str, names: tuple[str, ...], value: Any, low: float, high: float) -> None:
        if all(name in kl for name in names):
            figure = float(value())
            found.append(
                {
                    "what": what,
                    "value": figure,
                    "low": low,
                    "high": high,
                    "pass": low <= figure <= high,
                }
            )

    best = ("funnel self", "funnel finality")
    if stream == "default":
        esdfm, vanilla = "esdfm frozen", "vanilla"
        require(
            "KL(ES-DFM) / KL(vanilla)", (esdfm, vanilla), lambda: kl[esdfm] / kl[vanilla], 0, 0.85
        )
        require("KL(FNW) / KL(vanilla)", ("fnw", vanilla), lambda: kl["fnw"] / kl[vanilla], 0, 0.9)
        funnel = lambda: min(kl[name] for name in best)  # noqa: E731
        require(
            "KL(best funnel) / KL(ES-DFM)", (*best, esdfm), lambda: funnel() / kl[esdfm], 0, 0.95
        )
        require(
            "KL(best funnel) / KL(vanilla)",
            (*best, vanilla),
            lambda: funnel() / kl[vanilla],
            0,
            0.75,
        )
        for name in (esdfm, "fnw", *best):
            require(
                f"calibration of {name}", (name,), lambda name=name: calibration[name], 0.93, 1.07
            )
        require("calibration of vanilla", (vanilla,), lambda: calibration[vanilla], 0, 0.88)
        require(
            "KL(wait) / KL(vanilla)", ("wait", vanilla), lambda: kl["wait"] / kl[vanilla], 2, 1e9
        )
        require(
            "KL(DEFUSE self) / KL(ES-DFM)", ("defuse self", esdfm),
            lambda: kl["defuse self"] / kl[esdfm], 0, 1.05,
        )  # fmt: skip
    else:
        for name in ("esdfm self", "defer self", "defuse self", "funnel self"):
            require(
                f"KL({name}) / KL(oracle)",
                (name, "oracle"),
                lambda name=name: kl[name] / kl["oracle"],
                0,
                1.15,
            )
        require(
            "KL(vanilla) / KL(oracle)",
            ("vanilla", "oracle"),
            lambda: kl["vanilla"] / kl["oracle"],
            2,
            1e9,
        )
    return found


def show(stream: str, result: PrequentialResult, cpu: dict[str, list[float]]) -> dict[str, Any]:
    """Prints the table of a stream and returns it."""
    summary = result.summary()
    per_run = result.per_run().group_by("method").agg(pl.col("kl", "nll", "auc", "ratio").mean())
    means = {row["method"]: row for row in per_run.iter_rows(named=True)}
    rows = []
    print(f"\n{stream}: means over streams; [95 % block bootstrap]; (prototype)")
    print(f"{'method':24}{'KL':>8} {'interval':>16} {'(proto)':>9} {'NLL':>7} {'AUC':>6}"
          f" {'p/y':>6} {'(proto)':>8} {'ECE':>6} {'CPU s':>6}")  # fmt: skip
    for row in summary.sort("kl").iter_rows(named=True):
        name = row["method"]
        proto = PROTOTYPE[stream].get(name, ())
        mean = means[name]
        spent = sum(cpu[name]) / len(cpu[name])
        print(
            f"{name:24}{mean['kl']:8.4f} [{row['kl_lower']:.4f}, {row['kl_upper']:.4f}] "
            f"{f'({proto[0]:.4f})' if proto else '':>9} {mean['nll']:7.4f} {mean['auc']:6.3f} "
            f"{mean['ratio']:6.3f} {f'({proto[3]:.3f})' if len(proto) > 3 else '':>8} "
            f"{row['ece']:6.4f} {spent:6.1f}"
        )
        rows.append(
            {
                "method": name,
                "runs": row["runs"],
                "n": row["n"],
                **{k: mean[k] for k in ("kl", "nll", "auc", "ratio")},
                **{k: row[k] for k in ("pr_auc", "ece", "kl_lower", "kl_upper", "kl_sd")},
                **{k: row[k] for k in ("nll_lower", "nll_upper", "ratio_lower", "ratio_upper")},
                "prototype_kl": proto[0] if proto else None,
                "cpu_seconds": round(spent, 2),
            }
        )
    checks = ratios(
        stream, {k: v["kl"] for k, v in means.items()}, {k: v["ratio"] for k, v in means.items()}
    )
    for check in checks:
        low, high = check["low"], check["high"]
        bound = f"in [{low:g}, {high:g}]" if low else f"<= {high:g}"
        bound = f">= {low:g}" if high > 1e6 else bound
        verdict = "PASS" if check["pass"] else "FAIL"
        print(f"{verdict}  {check['what']} = {check['value']:.3f} ({bound})")
    relative = []
    if {"pretrain", "vanilla", "oracle"} <= set(result.methods):
        for worst in ("pretrain", "vanilla"):
            frame = result.relative("nll", worst=worst)
            relative.append({"worst": worst, "rows": frame.to_dicts()})
    return {"methods": rows, "checks": checks, "relative_nll": relative}


def main() -> int:
    """Runs the methods and streams asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=None, help="of the streams and models"
    )
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="M"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument(
        "--catch-up", action="store_true", help="feed the rows of the window before the start too"
    )
    parser.add_argument("--store", type=Path, default=None, help="folder for runs already made")
    parser.add_argument("--output", type=Path, default=RESULTS / "feedback_streams.json")
    arguments = parser.parse_args()
    jobs = [
        (stream, seed, name)
        for stream in arguments.streams
        for seed in (arguments.seeds or SEEDS[stream])
        for name in arguments.methods
    ]
    report: dict[str, Any] = {
        "machine": machine("torch", "numpy", "polars"),
        "network": {k: list(v) if isinstance(v, tuple) else v for k, v in NETWORK.items()},
        "hours": [START, END],
        "catch_up": arguments.catch_up,
        "streams": {},
    }
    done: dict[tuple[str, int, str], tuple[PrequentialResult, float]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=context) as pool:
        futures = {
            pool.submit(cached, arguments.store, arguments.catch_up, *job): job for job in jobs
        }
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            print(
                f"\r{len(done)} of {len(jobs)}  load {load()} ", end="", file=sys.stderr, flush=True
            )
    passed = True
    for stream in arguments.streams:
        mine = [job for job in jobs if job[0] == stream]
        cpu: dict[str, list[float]] = {}
        for job in mine:
            cpu.setdefault(job[2], []).append(done[job][1])
        result = PrequentialResult.join([done[job][0] for job in mine])
        report["streams"][stream] = {
            "seeds": sorted({seed for _, seed, _ in mine}), **show(stream, result, cpu)
        }  # fmt: skip
        passed &= all(check["pass"] for check in report["streams"][stream]["checks"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
