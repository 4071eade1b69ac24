"""MQ-CNN against NeuralForecast and GluonTS: same data, same time, same cells scored.

    python benchmarks/bench_peers_neural.py                           # 20 s each
    python benchmarks/bench_peers_neural.py --seconds 120 --threads 2

Every contestant trains for the same time on the same machine, one after the other, each in a
process of its own (so that peak memory is its own); ``--clock cpu`` counts CPU time, which is fair
where other work takes turns. All read the target, the week of the year and the known event;
``mqcnn-recipe`` also reads product and store, as the shipped recipe does.

A forecast point is one (series, forecast date, horizon) that the loss is charged for, counted step
by step from the very masks that enter each loss. Peers run with their own default sizes; those of
``nf-mlp-64`` are cut down to be as small as ours.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, peak_mib, report, resident_mib, run_alone, save, simulate, table

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
CONTEXT = 52
OURS = ("mqcnn", "mqcnn-all-forks", "mqcnn-recipe")
PEERS = ("nf-mlp", "nf-mlp-64", "nf-nhits", "nf-tft", "gluonts-deepar", "gluonts-tft")
PACKAGES = ("foretell", "torch", "numpy", "neuralforecast", "gluonts", "pytorch-lightning")


class Protocol:
    """Training part, origins that are scored, origins of the speed test, and the scored series."""

    def __init__(self, name: str, series: int, scored: int, origins: int) -> None:
        if name == "favorita":
            from foretell.data.registry import load

            self.panel, self.horizon = load("favorita"), 13
            self.back = [53, 45, 37, 29, 21, 13]
        elif name == "walmart":
            from foretell.data.registry import load

            self.panel, self.horizon, self.back = load("walmart"), 39, [39]
        else:
            self.panel, self.horizon = simulate(series or 1000, 171), 13
            self.back = [53, 45, 37, 29, 21, 13]
        rng = np.random.default_rng(0)
        if series and series < len(self.panel):
            chosen = rng.choice(len(self.panel), series, replace=False)
            self.panel = self.panel.select(np.sort(chosen))
        self.train = self.panel.cut(max(self.back))
        count = min(scored, len(self.panel))
        rows = np.sort(rng.choice(len(self.panel), count, replace=False))
        self.scored = self.panel.select(rows)
        self.sweep = list(range(self.horizon + origins - 1, self.horizon - 1, -1))

    def score(self, quantiles: np.ndarray) -> dict[str, float]:
        """Scores of ``(origins * N, K, Q)``, origin by origin."""
        from foretell.evaluation import metrics

        panel = self.scored
        cutoffs = np.concatenate([panel.cut(b).ends for b in self.back])
        y = panel.outcomes(np.tile(panel.ids, len(self.back)), cutoffs, self.horizon)
        levels = np.asarray(LEVELS)
        return {
            "wql": metrics.weighted_quantile_loss(y, quantiles, levels),
            "calibration_error": metrics.calibration_error(y, quantiles, levels),
            "crossing_rate": metrics.crossing_rate(quantiles),
        }


# ------------------------------------------------------------------------------------------- ours


@contextmanager
def counted_points() -> Iterator[list[float]]:
    """Counts observed targets of every batch that is drawn for training."""
    from foretell.learners.demand.neural.forking import ForkingExamples

    total, original = [0.0], ForkingExamples.batch

    def batch(self: Any, indices: Any, rng: Any) -> Any:
        result = original(self, indices, rng)
        total[0] += float(result["weight"].sum())
        return result

    ForkingExamples.batch = batch
    try:
        yield total
    finally:
        ForkingExamples.batch = original


def run_ours(name: str, protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
    from foretell.estimators import MQCNN
    from foretell.learners.demand.neural.mq_learner import count_parameters

    arguments: dict[str, Any] = {"h": protocol.horizon, "quantiles": LEVELS,
                                 "threads": options.threads}  # fmt: skip
    if name == "mqcnn-recipe":
        arguments["profile_groups"] = [n for n in ("product", "Dept")
                                       if n in protocol.panel.static_categorical]  # fmt: skip
    else:
        arguments |= {"static": [], "past": []}
    if name == "mqcnn-all-forks":
        arguments |= {"n_forks": "all", "batch_size": 64}
    base = resident_mib()
    # A one-cycle schedule must end with the time: the number of steps follows from a step's time.
    used = []
    for steps in (3, 23):
        cpu = time.process_time()
        trial = MQCNN(**arguments, max_steps=steps).fit(protocol.train)
        used.append(time.process_time() - cpu)
    by_cpu = options.clock == "cpu"
    step = (used[1] - used[0]) / 20 if by_cpu else trial.history_[0].seconds / 23
    model = MQCNN(
        **arguments, max_steps=max(10, int(0.95 * options.seconds / step)),
        time_limit=None if by_cpu else options.seconds,
    )  # fmt: skip
    with counted_points() as points:
        wall, cpu = time.perf_counter(), time.process_time()
        model.fit(protocol.train)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {
        "parameters": count_parameters(model.learners_[0]), "steps": model.history_[0].steps,
        "planned_steps": model.max_steps, "points": points[0],
        "train_s": model.history_[0].seconds, "fit_s": wall, "fit_cpu_s": cpu,
    }  # fmt: skip
    scored = protocol.scored
    result |= protocol.score(model.predict_origins(scored, protocol.back).values)
    now = scored.cut(max(protocol.back))
    result["predict_s"] = timed(lambda: model.predict(now))
    result["sweep_s"] = timed(lambda: model.predict_origins(scored, protocol.sweep), 1)
    result["sweep_how"] = "one pass"
    few = protocol.sweep[:3]
    loop = timed(lambda: [model.predict(scored.cut(b)) for b in few], 1)
    result["sweep_loop_s"] = loop * len(protocol.sweep) / len(few)
    return {**result, "base_mib": base}


# ------------------------------------------------------------------------------------------ peers


def known_features(panel: Any, rows: Any, stops: Any, length: int) -> np.ndarray:
    """Event and week of the year ``(B, length, C)``, what ours reads ahead."""
    periods = panel.period_windows(rows, stops, length)
    days = panel.frequency.time(periods.ravel()).astype("datetime64[D]")
    into = (days - days.astype("datetime64[Y]")).astype(float).reshape(periods.shape)
    angle = 2 * np.pi * into / 365.25
    events = [np.nan_to_num(panel.known_windows(n, rows, stops, length)) for n in panel.events]
    return np.stack([np.sin(angle), np.cos(angle), *events], -1).astype(np.float32)


def long_frame(panel: Any, ahead: int = 0) -> Any:
    """pandas table of all steps, or of the ``ahead`` periods after them."""
    import pandas as pd

    rows = np.arange(len(panel))
    length = ahead or int(panel.lengths.max())
    stops = panel.lengths + ahead
    steps = stops[:, None] - length + np.arange(length)
    inside = steps >= 0
    number = np.broadcast_to(rows[:, None], steps.shape)[inside]
    frame = {"unique_id": number, "ds": panel.period_windows(rows, stops, length)[inside]}
    if not ahead:
        y = panel.windows(rows, stops, length)[inside]
        frame["y"] = np.nan_to_num(y)
        frame["available_mask"] = (~np.isnan(y)).astype(np.float32)
    known = known_features(panel, rows, stops, length)[inside]
    frame |= {f"known{j}": known[:, j] for j in range(known.shape[1])}
    return pd.DataFrame(frame)


class Clock:
    """Times of a Lightning training, and how often the loss was charged for how much."""

    def __init__(self, cpu_seconds: float | None = None) -> None:
        from pytorch_lightning.callbacks import Callback

        clock = self

        class Watch(Callback):
            def on_train_start(self, trainer: Any, module: Any) -> None:
                clock.begun, clock.cpu = time.perf_counter(), time.process_time()

            def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
                clock.steps += 1
                if cpu_seconds is not None and time.process_time() - clock.cpu > cpu_seconds:
                    trainer.should_stop = True

            def on_train_end(self, trainer: Any, module: Any) -> None:
                clock.seconds = time.perf_counter() - clock.begun

        self.begun = self.cpu = self.seconds = self.points = 0.0
        self.steps = 0
        self.callback = Watch()

    def fit(self, call: Callable[[], Any]) -> dict[str, Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"steps": self.steps, "points": self.points, "train_s": self.seconds,
                "fit_s": wall, "fit_cpu_s": cpu}  # fmt: skip


def trainer_arguments(clock: Clock, options: argparse.Namespace) -> dict[str, Any]:
    arguments = {"callbacks": [clock.callback], "enable_progress_bar": False,
                 "enable_model_summary": False, "logger": False, "accelerator": "cpu",
                 "devices": 1}  # fmt: skip
    if options.clock == "wall":
        arguments["max_time"] = timedelta(seconds=options.seconds)
    return arguments


def make_clock(options: argparse.Namespace) -> Clock:
    return Clock(options.seconds if options.clock == "cpu" else None)


def run_neuralforecast(name: str, protocol: Protocol, options: argparse.Namespace) -> dict:
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import MLP, NHITS, TFT

    clock, h = make_clock(options), protocol.horizon

    class CountedLoss(MQLoss):
        def __call__(self, y: Any, y_hat: Any, y_insample: Any = None, mask: Any = None) -> Any:
            clock.points += float(y.numel() if mask is None else mask.sum())
            return super().__call__(y=y, y_hat=y_hat, y_insample=y_insample, mask=mask)

    base = resident_mib()
    frame = long_frame(protocol.train)
    known = [c for c in frame.columns if c.startswith("known")]
    kinds = {"nf-mlp": (MLP, {}), "nf-mlp-64": (MLP, {"hidden_size": 64}),
             "nf-nhits": (NHITS, {}), "nf-tft": (TFT, {})}  # fmt: skip
    kind, extra = kinds[name]
    model = kind(
        h=h, input_size=CONTEXT, loss=CountedLoss(quantiles=LEVELS),
        valid_loss=MQLoss(quantiles=LEVELS), futr_exog_list=known, max_steps=10_000_000,
        scaler_type=options.scaler, start_padding_enabled=True, val_check_steps=10_000_000,
        random_seed=0, enable_checkpointing=False, **extra,
        **trainer_arguments(clock, options),
    )  # fmt: skip
    forecaster = NeuralForecast(models=[model], freq=1)
    result = clock.fit(lambda: forecaster.fit(frame, val_size=0))
    result["parameters"] = sum(p.numel() for p in forecaster.models[0].parameters())
    model = forecaster.models[0]
    model.trainer_kwargs = {k: v for k, v in model.trainer_kwargs.items()
                            if k not in ("max_time", "callbacks")}  # fmt: skip
    scored = protocol.scored

    def predict(panel: Any) -> np.ndarray:
        table = forecaster.predict(df=long_frame(panel), futr_df=long_frame(panel, h))
        return table.iloc[:, 2:].to_numpy().reshape(len(panel), h, len(LEVELS))

    at = [predict(scored.cut(b)) for b in protocol.back]
    result |= protocol.score(np.concatenate(at))
    now = scored.cut(max(protocol.back))
    result["predict_s"] = timed(lambda: predict(now))
    few = protocol.sweep[:3]
    loop = timed(lambda: [predict(scored.cut(b)) for b in few], 1)
    result["sweep_loop_s"] = loop * len(protocol.sweep) / len(few)

    whole = long_frame(scored.cut(protocol.sweep[-1] - h))

    def sweep() -> np.ndarray:
        crossed = forecaster.cross_validation(
            whole, n_windows=len(protocol.sweep), step_size=1, refit=False, use_fitted=True
        )
        columns = crossed.drop(columns=["unique_id", "ds", "cutoff", "y"]).to_numpy()
        return columns.reshape(len(scored), len(protocol.sweep), h, len(LEVELS))

    clock_ = time.perf_counter()
    crossed = sweep()
    result["sweep_s"] = time.perf_counter() - clock_
    result["sweep_how"] = "cross_validation(refit=False, use_fitted=True)"
    if protocol.back[0] in protocol.sweep:
        j = protocol.sweep.index(protocol.back[0])
        result["sweep_difference"] = float(np.abs(crossed[:, j] - at[0]).max())
    return {**result, "base_mib": base}


def run_gluonts(name: str, protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
    import pandas as pd
    from gluonts.dataset.common import ListDataset
    from gluonts.torch.model.deepar import DeepAREstimator
    from gluonts.torch.model.deepar.lightning_module import DeepARLightningModule
    from gluonts.torch.model.tft import TemporalFusionTransformerEstimator
    from gluonts.torch.model.tft.lightning_module import TemporalFusionTransformerLightningModule

    clock, h = make_clock(options), protocol.horizon
    day = protocol.panel.frequency.time(np.zeros(1, np.int64))[0].astype("datetime64[D]")
    weekday = pd.Timestamp(day).strftime("%a").upper()
    freq = f"W-{weekday}"

    def data(panel: Any, ahead: int) -> ListDataset:
        entries = []
        for i in range(len(panel)):
            row, length = np.array([i]), int(panel.lengths[i])
            known = known_features(panel, row, np.array([length + ahead]), length + ahead)[0]
            first = panel.frequency.time(panel.starts[i : i + 1])[0].astype("datetime64[D]")
            entries.append({"start": pd.Period(first, freq=freq), "target": panel.series(i),
                            "feat_dynamic_real": known.T[2:]})  # fmt: skip
        return ListDataset(entries, freq=freq)

    def counted(original: Callable, context: int) -> Callable:
        def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
            clock.points += float(batch["future_observed_values"].sum())
            if context:  # charged one step ahead over the context too
                clock.points += float(batch["past_observed_values"][:, -(context - 1) :].sum())
            return original(self, batch, batch_idx)

        return training_step

    base = resident_mib()
    events = len(protocol.panel.events)
    trainer = trainer_arguments(clock, options) | {"max_epochs": 1_000_000}
    shared = {"freq": freq, "prediction_length": h, "context_length": CONTEXT,
              "batch_size": options.gluonts_batch, "trainer_kwargs": trainer}  # fmt: skip
    if name == "gluonts-deepar":
        module: Any = DeepARLightningModule
        module.training_step = counted(module.training_step, CONTEXT)
        estimator: Any = DeepAREstimator(num_feat_dynamic_real=events, **shared)
    else:
        module = TemporalFusionTransformerLightningModule
        module.training_step = counted(module.training_step, 0)
        dims = {"dynamic_dims": [events]} if events else {}
        estimator = TemporalFusionTransformerEstimator(quantiles=LEVELS, **dims, **shared)
    train = data(protocol.train, 0)
    predictor: list[Any] = []
    result = clock.fit(lambda: predictor.append(estimator.train(train)))
    network = predictor[0].prediction_net
    result["parameters"] = sum(p.numel() for p in network.parameters())

    def predict(panel: Any) -> np.ndarray:
        forecasts = predictor[0].predict(data(panel, h))
        return np.stack([np.stack([f.quantile(q) for q in LEVELS], -1) for f in forecasts])

    scored = protocol.scored
    at = [predict(scored.cut(b)) for b in protocol.back]
    result |= protocol.score(np.concatenate(at))
    now = scored.cut(max(protocol.back))
    result["predict_s"] = timed(lambda: predict(now), 1)
    result["sweep_s"] = result["sweep_loop_s"] = result["predict_s"] * len(protocol.sweep)
    result["sweep_how"] = f"one origin timed x {len(protocol.sweep)} (no pass over origins)"
    return {**result, "base_mib": base}


# ---------------------------------------------------------------------------------------- the run


def timed(call: Callable[[], Any], repeats: int = 2) -> float:
    """Seconds of the fastest of a few calls."""
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begun)
    return best


def contest(name: str, options: argparse.Namespace) -> None:
    """One contestant, in this process."""
    import torch

    warnings.filterwarnings("ignore")
    for noisy in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    protocol = Protocol(options.data, options.series, options.scored, options.origins)
    runs = {"mqcnn": run_ours, "nf": run_neuralforecast, "gluonts": run_gluonts}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # peers write logs and checkpoints where they stand
        result = runs[name.split("-")[0]](name, protocol, options)
        os.chdir("/")
    count = len(protocol.scored)
    result |= {
        "model": name,
        "points_per_s": result["points"] / result["train_s"],
        "points_per_cpu_s": result["points"] / result["fit_cpu_s"],
        "predict_series_per_s": count / result["predict_s"],
        "peak_mib": peak_mib(),
        "added_mib": peak_mib() - result["base_mib"],
    }
    report(result)


COLUMNS = ("model", "parameters", "steps", "points_per_s", "points_per_cpu_s", "train_s", "fit_s",
           "wql", "calibration_error", "crossing_rate", "predict_series_per_s", "sweep_s",
           "sweep_loop_s", "peak_mib", "added_mib", "load_before")  # fmt: skip


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    return (
        f"{ours['model']} / {theirs['model']}: training points/s "
        f"{ours['points_per_s'] / theirs['points_per_s']:.2f}x (by CPU time "
        f"{ours['points_per_cpu_s'] / theirs['points_per_cpu_s']:.2f}x), WQL "
        f"{ours['wql'] / theirs['wql']:.3f}x, inference series/s "
        f"{ours['predict_series_per_s'] / theirs['predict_series_per_s']:.2f}x, all origins "
        f"{theirs['sweep_s'] / ours['sweep_s']:.1f}x (their loop / our pass "
        f"{theirs['sweep_loop_s'] / ours['sweep_s']:.1f}x), peak memory "
        f"{ours['peak_mib'] / theirs['peak_mib']:.2f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="auto", choices=("auto", "favorita", "walmart", "shop"),
                        help="auto: favorita where it is, else simulated sales")  # fmt: skip
    parser.add_argument("--series", type=int, default=0, help="0 for all (1,000 simulated)")
    parser.add_argument("--scored", type=int, default=1000, help="series that are scored and timed")
    parser.add_argument("--origins", type=int, default=26, help="of the all-origins backtest")
    parser.add_argument("--seconds", type=float, default=20, help="time of each training")
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="of --seconds")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--scaler", default="standard", help="NeuralForecast's scaler_type")
    parser.add_argument("--gluonts-batch", type=int, default=128)
    parser.add_argument("--models", default=",".join((*OURS, *PEERS)))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contestant")
    options = parser.parse_args()
    if options.data == "auto":
        from foretell.data.registry import root

        found = (root() / "favorita_weekly_21_stores").is_dir()
        options.data = "favorita" if found else "shop"
    if options.contestant:
        contest(options.contestant, options)
        return
    about = machine(*PACKAGES) | {k: v for k, v in vars(options).items()
                                  if k not in ("out", "contestant", "models")}  # fmt: skip
    print(about, flush=True)
    passed = [f"--{k.replace('_', '-')}={getattr(options, k)}" for k in
              ("data", "series", "scored", "origins", "seconds", "clock", "threads", "scaler",
               "gluonts_batch")]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name in options.models.split(","):
        arguments = ["--contestant", name, *passed]
        row = run_alone(os.path.abspath(__file__), arguments, options.threads)
        if row:
            rows.append(row)
            print({c: row.get(c) for c in COLUMNS}, flush=True)
            save(options.out, {"about": about, "rows": rows})
    print(table(rows, COLUMNS))
    for ours in (r for r in rows if r["model"] in OURS):
        for theirs in (r for r in rows if r["model"] in PEERS):
            print(ratios(ours, theirs))


if __name__ == "__main__":
    main()
