"""The sparse quantile forest against quantile-forest and LightGBM, and its own scale test.

Every contestant fits and predicts the same data in a process of its own, so that peak memory is its
own too; the last lines print ratios to the sparse forest. ``added_mb`` is the peak above what the
process held with libraries and sparse data in memory; dense copies that a peer needs count.

    python benchmarks/bench_forest.py                 # comparison on sparse data
    python benchmarks/bench_forest.py --rows 100000 --columns 500
    python benchmarks/bench_forest.py --scale         # 10^6 rows x 20 present of 10^5 columns
    python benchmarks/bench_forest.py --columns-growth  # 10^3 against 10^5 columns, equal entries
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import sparse

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def sparse_sales(n: int, p: int, per_row: int, seed: int, power: float = 0.7):
    """Rows with ``per_row`` present features out of ``p``; popularity falls as a power of the rank.

    Presence, value and spread matter: the response is Gamma with a log-mean that adds up effects of
    the columns that are present. ``power=0`` makes all columns equally popular.
    """
    rng = np.random.default_rng(seed)
    popularity = np.cumsum((1.0 + np.arange(p)) ** -power)
    columns = np.searchsorted(popularity, rng.uniform(size=n * per_row) * popularity[-1])
    rows = np.repeat(np.arange(n), per_row)
    key = np.unique(rows.astype(np.int64) * p + np.minimum(columns, p - 1))
    rows, columns = key // p, key % p
    values = rng.normal(size=len(key)).astype(np.float32)
    values[rng.uniform(size=len(key)) < 0.2] = 0.0
    effect = np.random.default_rng(1).normal(size=p) * 0.4
    slope = np.random.default_rng(2).normal(size=p) * 0.3
    log_mean = np.bincount(rows, effect[columns] + slope[columns] * values, minlength=n)
    y = np.exp(np.clip(log_mean, -3, 3)) * rng.gamma(3.0, 1 / 3, size=n)
    indptr = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=n))))
    X = sparse.csr_array((values, columns.astype(np.int32), indptr), shape=(n, p))
    return X, y


def pinball(y, quantiles):
    """Weighted quantile loss, mean over the levels."""
    gap = y[:, None] - quantiles
    q = np.asarray(LEVELS)
    return float(2 * np.maximum(q * gap, (q - 1) * gap).mean(1).sum() / np.abs(y).sum())


def to_dense(X, absent):
    """Dense float32 copy in which absent entries hold ``absent`` and stored zeros are zero."""
    dense = np.full(X.shape, absent, dtype=np.float32)
    dense[np.repeat(np.arange(X.shape[0]), np.diff(X.indptr)), X.indices] = X.data
    return dense


def write(folder: Path, n: int, p: int, per_row: int, power: float) -> None:
    """Makes the training and the test data once for all contestants."""
    for part, (rows, seed) in {"train": (n, 0), "test": (min(n, 20_000), 9)}.items():
        X, y = sparse_sales(rows, p, per_row, seed, power)
        np.savez(folder / f"{part}.npz", data=X.data, indices=X.indices, indptr=X.indptr, y=y, p=p)


def load(folder: Path):
    """Reads what `write` wrote."""
    result = []
    for part in ("train", "test"):
        with np.load(folder / f"{part}.npz") as a:
            shape = (len(a["y"]), int(a["p"]))
            result += [
                sparse.csr_array((a["data"], a["indices"], a["indptr"]), shape=shape),
                a["y"],
            ]
    return result


def _resident_kb() -> float:
    """Memory of this process now, in KiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def contest(name: str, data: Path, trees: int, depth: int, jobs: int):
    """Fits and predicts one contestant; prints one line of JSON."""
    X, y, X_test, y_test = load(data)
    before = _resident_kb()
    n = X.shape[0]
    result: dict[str, float | str] = {"name": name, "start_mb": before / 1024}
    with tempfile.TemporaryDirectory() as folder:
        if name == "sparse":
            from foretell.learners.trees import SparseQuantileForestRegressor

            def make(count):
                return SparseQuantileForestRegressor(
                    count, max_depth=depth, n_jobs=jobs, random_state=0
                )

            # compilation happens once in a machine's life (it is cached on disk): not timed
            small = make(2).fit(X[:500], y[:500])
            small.predict(X[:10], LEVELS)
            ready = _resident_kb()
            cpu = time.process_time()
            start = time.perf_counter()
            model = make(trees).fit(X, y)
            fitted, cpu = time.perf_counter(), time.process_time() - cpu
            quantiles = model.predict(X_test, LEVELS)
            done = time.perf_counter()
            model.save(folder)
            result["memory_model_mb"] = model.forest_.nbytes / 2**20
        elif name == "quantile-forest":
            from quantile_forest import RandomForestQuantileRegressor

            ready = _resident_kb()
            dense, dense_test = to_dense(X, -1e6), to_dense(X_test, -1e6)
            model = RandomForestQuantileRegressor(
                n_estimators=trees,
                max_depth=depth,
                min_samples_leaf=8,
                max_samples_leaf=64,
                max_features=0.3,
                n_jobs=jobs,
                random_state=0,
            )
            cpu = time.process_time()
            start = time.perf_counter()
            model.fit(dense, y)
            fitted, cpu = time.perf_counter(), time.process_time() - cpu
            quantiles = np.asarray(model.predict(dense_test, quantiles=LEVELS))
            done = time.perf_counter()
            Path(folder, "model.pkl").write_bytes(pickle.dumps(model, protocol=5))
        else:
            import lightgbm

            ready = _resident_kb()
            # a dense table with NaN keeps absence and zero apart; LightGBM's own sparse input is
            # far smaller, but what is not stored and what is stored as zero are one there
            as_csr = name == "lightgbm-csr"
            dense = sparse.csr_matrix(X) if as_csr else to_dense(X, np.nan)
            dense_test = sparse.csr_matrix(X_test) if as_csr else to_dense(X_test, np.nan)
            cpu = time.process_time()
            start = time.perf_counter()
            models = [
                lightgbm.LGBMRegressor(
                    objective="quantile",
                    alpha=q,
                    n_estimators=trees,
                    max_depth=depth,
                    num_leaves=64,
                    min_child_samples=8,
                    colsample_bytree=0.3,
                    n_jobs=jobs,
                    random_state=0,
                    zero_as_missing=as_csr,
                    verbose=-1,
                ).fit(dense, y)
                for q in LEVELS
            ]
            fitted, cpu = time.perf_counter(), time.process_time() - cpu
            quantiles = np.stack([model.predict(dense_test) for model in models], axis=1)
            done = time.perf_counter()
            for index, model in enumerate(models):
                model.booster_.save_model(Path(folder, f"{index}.txt"))
        result["model_mb"] = sum(f.stat().st_size for f in Path(folder).iterdir()) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result |= {
        "fit_s": fitted - start,
        "fit_cpu_s": cpu,
        "fit_rows_s": n / (fitted - start),
        "predict_rows_s": X_test.shape[0] / (done - fitted),
        "peak_mb": peak,
        "added_mb": peak - ready / 1024,
        "wql": pinball(y_test, quantiles),
        "crossings": float((np.diff(quantiles, axis=1) < 0).mean()),
        "nnz": int(X.nnz),
    }
    print("RESULT " + json.dumps(result), flush=True)


def measure(name: str, args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Runs one contestant in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--contestant",
        name,
        "--data",
        folder,
        "--trees",
        str(args.trees),
        "--depth",
        str(args.depth),
        "--jobs",
        str(args.jobs),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(f"{name}: failed\n{done.stderr[-1500:]}")
        return {}
    return json.loads(lines[-1][7:])


def prepared(args: argparse.Namespace, p: int, folder: str) -> str:
    """Writes data with ``p`` columns and returns its folder."""
    target = Path(folder, str(p))
    target.mkdir()
    write(target, args.rows, p, args.per_row, args.power)
    return str(target)


COLUMNS = (
    "fit_s",
    "fit_cpu_s",
    "fit_rows_s",
    "predict_rows_s",
    "start_mb",
    "peak_mb",
    "added_mb",
    "model_mb",
    "memory_model_mb",
    "wql",
    "crossings",
)


def show(result: dict[str, float], name: str) -> None:
    """Prints one row of the table."""
    cells = [f"{result[c]:>15.4g}" if c in result else f"{'-':>15}" for c in COLUMNS]
    print(f"{name:<22}" + "".join(cells), flush=True)


def main() -> None:
    """Parses the command line and runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--columns", type=int, default=2_000)
    parser.add_argument("--per-row", type=int, default=20)
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--power", type=float, default=0.7)
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--columns-growth", action="store_true")
    parser.add_argument("--peers", default="quantile-forest,lightgbm,lightgbm-csr")
    parser.add_argument("--contestant")
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    if args.contestant:
        contest(args.contestant, args.data, args.trees, args.depth, args.jobs)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(args, folder)


def compare(args: argparse.Namespace, folder: str) -> None:
    """Runs the contestants and prints the table."""
    if args.scale:
        args.rows, args.columns = 1_000_000, 100_000
    print(f"{args.rows} rows, {args.per_row} present, {args.columns} columns, {args.trees} trees")
    print(f"{'':<22}" + "".join(f"{c:>15}" for c in COLUMNS))
    if args.columns_growth:
        few = measure("sparse", args, prepared(args, 1_000, folder))
        many = measure("sparse", args, prepared(args, 100_000, folder))
        show(few, "sparse p=1e3")
        show(many, "sparse p=1e5")
        for key in ("fit_s", "peak_mb", "added_mb"):
            print(f"{key}: p=1e5 / p=1e3 = {many[key] / few[key]:.3f}")
        return
    data = prepared(args, args.columns, folder)
    ours = measure("sparse", args, data)
    show(ours, "sparse")
    if args.scale:
        return
    for peer in args.peers.split(","):
        theirs = measure(peer, args, data)
        if theirs:
            show(theirs, peer)
            print(
                f"  ours / {peer}: fit rows/s {ours['fit_rows_s'] / theirs['fit_rows_s']:.2f}x, "
                f"(by CPU time {theirs['fit_cpu_s'] / ours['fit_cpu_s']:.2f}x), "
                f"predict rows/s {ours['predict_rows_s'] / theirs['predict_rows_s']:.2f}x, "
                f"added memory {ours['added_mb'] / theirs['added_mb']:.3f}x, "
                f"peak memory {ours['peak_mb'] / theirs['peak_mb']:.3f}x, "
                f"model file {ours['model_mb'] / theirs['model_mb']:.3f}x, "
                f"WQL {ours['wql'] / theirs['wql']:.4f}x"
            )


if __name__ == "__main__":
    main()
