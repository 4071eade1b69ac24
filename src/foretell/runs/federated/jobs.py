"""One unit of a federated run's work: a method with a server rate and a seed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.learners.artefact import load_artefact, save_artefact
from foretell.learners.contract import Learner
from foretell.runs.federated.groups import activity_groups
from foretell.runs.federated.private import make_server, stated
from foretell.runs.federated.recipe import Recipe
from foretell.runs.federated.sources import Federation, load_federation
from foretell.runs.threads import limited_threads

STATIC = "static"
_KIND = "FederatedJob"
_CURVE = ("round", "samples_cumulative", "bytes_down", "bytes_up", "accuracy")


@dataclass(frozen=True)
class Job:
    """A federated training; everything in it can be pickled.

    Args:
        recipe: the run's recipe.
        method: name of the method.
        rate: server learning rate; None for the strategy's own.
        seed: of all randomness.
        mode: ``"static"``, or the buffer of a continual run.
        folder: where results are kept, so that an interrupted run goes on behind them.
    """

    recipe: Recipe
    method: str
    rate: float | None
    seed: int
    mode: str
    folder: Path

    @property
    def home(self) -> Path:
        """The job's own folder."""
        rate = "own" if self.rate is None else f"{self.rate:g}"
        name = self.mode.replace(":", "-")
        return self.folder / name / self.method / f"rate{rate}" / f"seed{self.seed}"


@dataclass(frozen=True, eq=False)
class Done:
    """What a job found.

    Args:
        curve: column -> value of each round: ``round, samples_cumulative, bytes_down, bytes_up,
            accuracy`` (and slices of the tests).
        groups: accuracy by activity of the tests' clients at the end.
        periods: rows of a continual run.
        chosen: how often each client trained ``(clients,)``.
        statement: guarantee of the client whose privacy costs most, of a private method.
        seconds: of one processor.
        warnings: what was warned of.
    """

    curve: dict[str, list[float]]
    groups: list[dict[str, Any]]
    periods: list[dict[str, Any]]
    chosen: NDArray[np.int64]
    statement: dict[str, Any] | None
    seconds: float
    warnings: tuple[str, ...]

    def at(self, server_round: int, name: str = "accuracy") -> float:
        """A figure after a round."""
        return float(self.curve[name][self.curve["round"].index(server_round)])


def run_job(job: Job) -> Done:
    """Does a job, or reads its result where it was done before."""
    if (job.home / "model.json").is_file():
        config, arrays = load_artefact(job.home, _KIND)
        return Done(chosen=arrays["chosen"], warnings=tuple(config.pop("warnings")), **config)
    begun = time.process_time()
    with limited_threads(job.recipe.threads), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        federation = load_federation(job.recipe, job.seed)
        done = train(job, federation)
    told = dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning)
    seconds = time.process_time() - begun
    config = {
        "curve": done.curve,
        "groups": done.groups,
        "periods": done.periods,
        "statement": done.statement,
        "seconds": seconds,
        "warnings": list(told),
    }
    save_artefact(job.home, _KIND, config, {"chosen": done.chosen})
    return Done(chosen=done.chosen, **{**config, "warnings": tuple(told)})


def train(job: Job, federation: Federation) -> Done:
    """A static or continual training."""
    from foretell.training.federated.clients import SplitClients
    from foretell.training.federated.continual import (
        ContinualClients,
        ContinualSchedule,
        run_continual,
    )
    from foretell.training.federated.local import LocalTraining
    from foretell.training.federated.run import run_federated

    recipe = job.recipe
    shared: dict[str, Any] = {
        **server_settings(job),
        "local": LocalTraining(**recipe.local_of(job.method)),
        "evaluate": lambda learner: _figures(federation, learner),
        "evaluate_every": recipe.rounds.evaluate_every,
        "seed": job.seed,
        # Nobody hangs in this process; without a limit no thread is needed to watch for it.
        "timeout": float("inf"),
    }
    periods: list[dict[str, Any]] = []
    section = recipe.continual
    if job.mode == STATIC or section is None:
        clients = SplitClients(federation.examples, federation.parts)
        if recipe.methods[job.method].private:
            settings = {name: shared.pop(name) for name in server_settings(job)}
            shared["strategy"] = make_server(settings, job.seed)
        result = run_federated(federation.build, clients, rounds=recipe.rounds.count, **shared)
        rounds = result.rounds
    else:
        moving = ContinualClients(
            federation.examples, federation.parts,
            (federation.order * section.periods).astype(np.int64), job.mode, job.seed,
        )  # fmt: skip
        tested = (federation.test_order * section.periods).astype(np.int64)

        def at_end(learner: Learner, period: int) -> Mapping[str, float]:
            right = federation.right(learner)
            past = tested <= period
            return {
                "accuracy": float(right.mean()),
                "accuracy_period": float(right[tested == period].mean()),
                "accuracy_past": float(right[past].mean()),
            }

        whole = run_continual(
            federation.build, moving,
            ContinualSchedule(section.periods, section.rounds, job.mode),
            evaluate_period=at_end, **shared,
        )  # fmt: skip
        result, rounds, periods = whole.final, whole.rounds, whole.periods.to_dicts()
    counts = np.zeros(len(federation.parts), dtype=np.int64)
    log = result.selection_log
    if not log.is_empty():
        clients_seen, times = np.unique(log["client"].to_numpy(), return_counts=True)
        counts[clients_seen] = times
    right = federation.right(result.learner)
    statements = [s.to_dict() for s in result.statements]
    if job.mode == STATIC and statements:
        statements = [stated(shared["strategy"])]
    return Done(
        curve=_curve(rounds),
        groups=activity_groups(federation.activity, federation.test_activity, right),
        periods=periods,
        chosen=counts,
        statement=statements[0] if statements else None,
        seconds=0.0,
        warnings=(),
    )


def server_settings(job: Job) -> dict[str, Any]:
    """Arguments of the server's half: strategy, selection, privacy."""
    from foretell.training.federated.selection import ActivitySelection

    recipe, method = job.recipe, job.recipe.methods[job.method]
    settings: dict[str, Any] = {
        "strategy": method.strategy,
        "clients_per_round": recipe.rounds.clients,
        "selection": ActivitySelection(method.selection, method.draw, method.floor, method.q_max),
        "aggregation": method.aggregation,
        **method.options,
    }
    if job.rate is not None:
        settings["eta"] = job.rate
    if method.private and recipe.privacy is not None:
        settings["privacy"] = recipe.privacy.mechanism(job.seed)
    return settings


def _figures(federation: Federation, learner: Learner) -> dict[str, float]:
    right = federation.right(learner)
    figures = {"accuracy": float(right.mean())}
    for name, mask in federation.slices.items():
        figures[name] = float(right[mask].mean())
    return figures


def _curve(rounds: pl.DataFrame) -> dict[str, list[float]]:
    """Columns of a curve; bytes are summed up to each round."""
    table = rounds.with_columns(pl.col("bytes_down", "bytes_up").cum_sum())
    extra = [
        name
        for name in table.columns
        if name.endswith("topics") and table.schema[name].is_numeric()
    ]
    kept = table.filter(pl.col("accuracy").is_not_null())
    return {name: kept[name].to_list() for name in (*_CURVE, *extra)}
