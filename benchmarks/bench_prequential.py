"""Events a second of a prequential evaluation with late labels: ours against river, event by event.

Both play the same stream back: every event is predicted when it arrives and learned from when its
label is known. river's ``progressive_val_score(delay=...)`` does that one event at a time and
corrects nothing; our harness predicts and learns an hour at a time. One thread each, one process;
CPU time of predicting and learning, without the history that ours is pre-trained on. Peers see a
part of the stream and no history, so that their AUC says little.

    python benchmarks/bench_prequential.py
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from _common import load, machine  # noqa: E402

from foretell.data.simulators.funnel_stream import funnel_stream  # noqa: E402
from foretell.estimators.feedback import DelayedFeedbackClassifier  # noqa: E402
from foretell.evaluation.feedback import prequential  # noqa: E402
from foretell.evaluation.feedback.binary_metrics import area_under_roc  # noqa: E402

RESULTS = Path(__file__).parent / "results"


def ours(log: Any, method: str, hours: float, start: float, **settings: Any) -> dict[str, Any]:
    """The harness: an hour at a time."""
    model = DelayedFeedbackClassifier(
        method=method,
        waiting_time=6.0,
        batch_norm=False,
        learning_rate=1e-2,
        **settings,
    )
    result = prequential(
        {method: model}, log, start, hours, "1h", references=(), keep_predictions=True
    )
    assert result.predictions is not None
    spent = result.seconds.row(0, named=True)
    events = len(result.predictions)
    rows = int(result.table["rows"].sum())
    y, p = result.predictions["y"].to_numpy(), result.predictions["p"].to_numpy()
    seconds = spent["update"] + spent["predict"]
    return {"events": events, "rows": rows, "seconds": seconds, "auc": area_under_roc(y, p)}


def river(log: Any, which: str, hours: float, start: float) -> dict[str, Any]:
    """A plain pipeline, an event at a time; labels come at conversion, or when the window ends."""
    import datetime

    from river import compose, evaluate, linear_model, metrics, optim, preprocessing, tree

    kept = np.flatnonzero((log.times > start) & (log.times <= hours))
    names = list(log.feature_names)
    epoch = datetime.datetime(2026, 1, 1)
    X, labels = log.matrix(kept), log.label()[kept] > 0
    delay = np.minimum(log.delay()[kept], log.window)
    lags = [datetime.timedelta(hours=float(d)) for d in delay]
    moments = [epoch + datetime.timedelta(hours=float(t)) for t in log.times[kept]]
    model = {
        "logistic": lambda: linear_model.LogisticRegression(optim.SGD(0.05)),
        "tree": tree.HoeffdingTreeClassifier,
        "network": lambda: network(names),
    }[which]()
    pipeline = compose.Select(*names) | preprocessing.StandardScaler() | model
    metric = metrics.ROCAUC()

    def events() -> Iterator[tuple[dict[str, Any], bool]]:
        for row, label, moment, lag in zip(X.tolist(), labels, moments, lags, strict=True):
            event = dict(zip(names, row, strict=True))
            yield {**event, "moment": moment, "lag": lag}, bool(label)

    begin = time.process_time()
    evaluate.progressive_val_score(
        events(), pipeline, metric, moment="moment", delay=lambda x, y: x["lag"]
    )
    seconds = time.process_time() - begin
    return {"events": len(kept), "rows": len(kept), "seconds": seconds, "auc": metric.get()}


def network(names: list[str]) -> Any:
    """river has no network of its own any more: the usual wrapper around one of torch."""
    from river import base

    class Network(base.Classifier):
        """Of 32 hidden units, an Adam step an event."""

        def __init__(self) -> None:
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(
                torch.nn.Linear(len(names), 32), torch.nn.LeakyReLU(), torch.nn.Linear(32, 1)
            )
            self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)

        def predict_proba_one(self, x: dict[str, float]) -> dict[bool, float]:
            """Both classes."""
            with torch.inference_mode():
                p = self.net(torch.tensor([x[name] for name in names]))[0].sigmoid().item()
            return {True: p, False: 1 - p}

        def learn_one(self, x: dict[str, float], y: bool) -> None:
            """One step."""
            logit = self.net(torch.tensor([x[name] for name in names]))[0]
            loss = torch.nn.functional.softplus(-logit if y else logit)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    return Network()


def contest(events_an_hour: float, hours: dict[str, float]) -> list[dict[str, Any]]:
    """All contestants on one stream; each is scored from hour 240 for so many hours."""
    start, small = 240.0, {"hidden_sizes": (32,)}
    days = (start + max(hours.values())) / 24
    log, _ = funnel_stream("default", seed=0, rate=events_an_hour, days=days)
    contestants: dict[str, Callable[[float], dict[str, Any]]] = {
        f"river {which}": (lambda end, which=which: river(log, which, end, start))
        for which in ("logistic", "tree", "network")
    }
    for method, settings in (
        ("vanilla", small),
        ("esdfm", small),
        ("funnel", {**small, "engagement": ("view",)}),
        ("esdfm", {}),
    ):
        name = f"{method} {'32' if settings else '256-256-128'}"
        contestants[name] = lambda end, m=method, s=settings: ours(log, m, end, start, **s)
    rows = []
    for name, run in contestants.items():
        cpu = time.process_time()
        span = hours.get(name, hours["ours"])
        row = {"name": name, "events_an_hour": events_an_hour, "hours": span, **run(start + span)}
        row["cpu_with_history"] = time.process_time() - cpu
        row["events_per_second"] = row["events"] / row["seconds"]
        rows.append(row)
    speeds = {row["name"]: row["events_per_second"] for row in rows}
    print(f"\n{events_an_hour:g} events an hour; load {load()}")
    print(f"{'':22}{'events':>9}{'rows':>9}{'CPU s':>8}{'events/s':>10}{'AUC':>7}"
          f"{'/ logistic':>12}{'/ network':>11}")  # fmt: skip
    for row in rows:
        for peer in ("logistic", "network"):
            row[f"over_river_{peer}"] = row["events_per_second"] / speeds[f"river {peer}"]
        print(f"{row['name']:22}{row['events']:9,}{row['rows']:9,}{row['seconds']:8.2f}"
              f"{row['events_per_second']:10,.0f}{row['auc']:7.3f}"
              f"{row['over_river_logistic']:12.1f}{row['over_river_network']:11.1f}")  # fmt: skip
    return rows


def main() -> None:
    """Runs both and prints the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", nargs="+", type=float, default=[100.0, 1000.0])
    parser.add_argument("--hours", type=float, default=60.0, help="scored by ours")
    parser.add_argument("--output", type=Path, default=RESULTS / "prequential.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for rate in arguments.rates:
        hours = {"ours": arguments.hours}
        # Peers do the same for every event: fewer of them say how fast they are.
        for peer, events in (("logistic", 10_000), ("tree", 10_000), ("network", 2_000)):
            hours[f"river {peer}"] = min(arguments.hours, events / rate)
        rows += contest(rate, hours)
    report = {"machine": machine("torch", "river", "numpy"), "load_at_end": load(), "rows": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
