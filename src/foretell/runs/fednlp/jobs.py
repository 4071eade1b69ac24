"""One unit of the grid: a federated training, or the central one it is measured against."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.errors import TrainingError
from foretell.learners.artefact import load_artefact, save_artefact
from foretell.learners.contract import Learner
from foretell.runs.fednlp.answer import answering, writing
from foretell.runs.fednlp.classify import classification, tagging
from foretell.runs.fednlp.division import Division, divide
from foretell.runs.fednlp.formulation import FederatedTask, TestClients, TestRows
from foretell.runs.fednlp.recipe import ClientSection, PartitionSection, Recipe
from foretell.runs.threads import limited_threads

if TYPE_CHECKING:
    from foretell.training.federated.local import LocalTraining

_KIND = "FedNLPJob"
FORMULATIONS = {
    "tc": classification, "st": tagging, "qa": answering, "ss": writing,
}  # fmt: skip
Kind = Literal["grid", "central", "optimisers", "freezing"]


@dataclass(frozen=True)
class Job:
    """A training; everything in it can be pickled.

    Args:
        recipe: the run's recipe.
        kind: which table it is for.
        task: name of the task.
        seed: of all randomness.
        folder: where results are kept.
        partition: number of the task's partition.
        alpha: its concentration.
        method: name of the algorithm, of the optimisers (``sgd+adam``), or of the frozen layers.
    """

    recipe: Recipe
    kind: Kind
    task: str
    seed: int
    folder: Path
    partition: int = 0
    alpha: float | None = None
    method: str = "central"

    @property
    def home(self) -> Path:
        """The job's own folder."""
        part = self.section.kind if self.kind != "central" else "pooled"
        alpha = "none" if self.alpha is None else f"{self.alpha:g}"
        name = re.sub(r"[^\w.+-]", "_", self.method)
        place = f"{self.partition}-{part}-{alpha}"
        return self.folder / self.kind / self.task / place / name / f"seed{self.seed}"

    @property
    def section(self) -> PartitionSection:
        """The partition."""
        return self.recipe.tasks[self.task].partitions[self.partition]

    @property
    def setting(self) -> str:
        """Task and partition in words."""
        where = f"{self.task} {self.section.kind.replace('_', ' ')}"
        if self.section.kind == "natural":
            return f"{where} ({self.section.by})"
        return f"{where} {self.alpha:g}"


@dataclass(frozen=True, eq=False)
class Done:
    """What a job found.

    Args:
        scores: on the server's tests at the end; ``score`` is the one that counts.
        trivial: scores of what needs no training.
        curve: column -> value a measured round: ``round``, ``score``, ``bytes_down``, ``bytes_up``
            (summed up).
        clients: scores of the clients' own tests ``(clients with tests,)``.
        classes: mean number of classes a client holds.
        summary: what the partition did.
        facts: bytes of the weights that travel, and what freezing did.
        seconds: of one processor.
        notes: what was warned of, failures and what a reader has to know.
        fingerprint: of the training texts.
    """

    scores: dict[str, float]
    trivial: dict[str, float]
    curve: dict[str, list[float]]
    clients: NDArray[np.float64]
    classes: float | None
    summary: str
    facts: dict[str, Any]
    seconds: float
    notes: tuple[str, ...]
    fingerprint: str


def load_task(recipe: Recipe, name: str) -> FederatedTask:
    """A task's texts, learner and judge.

    Raises:
        RecipeError: an option does not fit.
        DataError: the data cannot be found, read or used.
    """
    section = recipe.tasks[name]
    return FORMULATIONS[section.formulation](section)


_kept: dict[str, tuple[FederatedTask, tuple[str, ...]]] = {}


def _task_of(job: Job) -> tuple[FederatedTask, tuple[str, ...]]:
    """The job's task, kept for the next job, and what was warned of when it was made."""
    key = job.recipe.tasks[job.task].model_dump_json()
    if key not in _kept:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            made = load_task(job.recipe, job.task)
        told = tuple(dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning))
        _kept.clear()
        _kept[key] = (made, (*told, *made.notes))
    return _kept[key]


def run_job(job: Job) -> Done:
    """Does a job, or reads its result where it was done before."""
    if (job.home / "model.json").is_file():
        config, arrays = load_artefact(job.home, _KIND)
        return Done(clients=arrays["clients"], notes=tuple(config.pop("notes")), **config)
    begun = time.process_time()
    with limited_threads(job.recipe.threads):
        task, told = _task_of(job)
        found = _central(job, task) if job.kind == "central" else _federated(job, task)
    config = {
        **found,
        "trivial": task.trivial,
        "seconds": time.process_time() - begun,
        "notes": [*told, *found["notes"]],
        "fingerprint": task.train.fingerprint(),
    }
    clients = np.asarray(config.pop("clients"), dtype=np.float64)
    save_artefact(job.home, _KIND, config, {"clients": clients})
    return Done(clients=clients, **{**config, "notes": tuple(config["notes"])})


def local_training(section: ClientSection) -> LocalTraining:
    """The section as the library's own object."""
    from foretell.training.federated.local import LocalTraining

    given = section.model_dump()
    given["gradient_clip"] = given["gradient_clip"] or None
    return LocalTraining(**given)


def _central(job: Job, task: FederatedTask) -> dict[str, Any]:
    from foretell.training.federated.central import train_centrally

    section = job.recipe.tasks[job.task].central
    learner = train_centrally(
        task.build, task.examples, epochs=section.epochs, local=local_training(section),
        seed=job.seed,
    )  # fmt: skip
    return {
        "scores": task.evaluate(learner), "curve": {}, "clients": [], "classes": None,
        "summary": "", "facts": {}, "notes": [],
    }  # fmt: skip


def _federated(job: Job, task: FederatedTask) -> dict[str, Any]:
    from foretell.training.federated.clients import SplitClients
    from foretell.training.federated.run import run_federated

    section = job.recipe.tasks[job.task]
    division = divide(task, job.section, job.alpha, section.clients)
    settings = _settings(job)
    frozen = settings.get("freeze_layers", ())
    every = section.evaluate_every

    def on_client(learner: Learner, examples: Any) -> Mapping[str, float]:
        assert isinstance(examples, TestRows)
        return task.on(learner, examples.rows)

    result = run_federated(
        task.build,
        SplitClients(task.examples, division.parts),
        rounds=section.rounds,
        evaluate=task.evaluate,
        evaluate_every=every,
        clients_evaluation=_tests(task, division),
        evaluate_client=on_client,
        seed=job.seed,
        # Nobody hangs in this process; without a limit no thread is needed to watch for it.
        timeout=float("inf"),
        **settings,
    )
    failures = result.failures
    if result.rounds["completed"].sum() == 0:
        raise TrainingError(
            f"{job.setting}, {job.method}: no client answered: {failures['failure'][0]}"
        )
    rounds = result.rounds
    scores = {
        name: float(rounds[name][-1])
        for name in rounds.columns
        if f"clients_{name}" in rounds.columns
    }
    table = rounds.with_columns(
        rounds["bytes_down"].cum_sum(), rounds["bytes_up"].cum_sum()
    ).filter(rounds["score"].is_not_null())  # fmt: skip
    names = ("round", "score", "bytes_down", "bytes_up")
    own: list[float] = []
    if "score" in result.clients.columns:
        own = result.clients["score"].drop_nulls().to_list()
    notes = []
    if len(failures):
        notes.append(
            f"{len(failures)} replies of clients did not count, such as: {failures['failure'][0]}"
        )
    return {
        "scores": scores,
        "curve": {name: [float(v) for v in table[name]] for name in names},
        "clients": own,
        "classes": division.classes,
        "summary": division.summary,
        "facts": _facts(task, result.learner, frozen, job.seed, rounds),
        "notes": notes,
    }


def _tests(task: FederatedTask, division: Division) -> TestClients:
    """Test examples of each client; empty ones are left out by ``run_federated``."""
    empty = np.zeros(0, np.int64)
    missing = [empty] * (len(division.parts) - len(division.tests))
    return TestClients(task.tests, [*division.tests, *missing])


def _settings(job: Job) -> dict[str, Any]:
    """Arguments of the algorithm: strategy, its options, local training, frozen layers."""
    recipe, section = job.recipe, job.recipe.tasks[job.task]
    shared: dict[str, Any] = {"clients_per_round": section.per_round}
    if job.kind == "optimisers":
        part = recipe.optimisers
        assert part is not None
        client, server = job.method.split("+")
        local = ClientSection.model_validate(
            {**section.local.model_dump(), "optimizer": client,
             "learning_rate": part.client_rates[client]}  # type: ignore[index]
        )  # fmt: skip
        rate = part.server_rates[server]  # type: ignore[index]
        # FedAvgM without momentum is FedAvg with a server rate: SGD on the mean update.
        sgd = {"strategy": "fedavgm", "server_learning_rate": rate, "server_momentum": 0.0}
        adam = {"strategy": "fedadam", "eta": rate}
        return {**shared, "local": local_training(local), **(sgd if server == "sgd" else adam)}
    if job.kind == "freezing":
        assert recipe.freezing is not None
        name, layers = recipe.freezing.algorithm, recipe.freezing.sets[job.method]
        shared["freeze_layers"] = tuple(layers)
    else:
        name = job.method
    method = recipe.algorithm(job.task, name)
    local = recipe.local_of(job.task, name)
    shared["local"] = local_training(local)
    if method.strategy == "scaffold":
        from foretell.training.federated.scaffold_server import Scaffold

        number = shared.pop("clients_per_round")
        options: dict[str, Any] = dict(method.options)
        shared["strategy"] = Scaffold(
            fraction_train=1e-12, min_train_nodes=number, min_available_nodes=1,
            fraction_evaluate=0.0, **options,
        )  # fmt: skip
        return shared
    return {**shared, "strategy": method.strategy, **method.options}


def _facts(
    task: FederatedTask, learner: Learner, frozen: tuple[str | int, ...], seed: int, rounds: Any
) -> dict[str, Any]:
    """Bytes of the weights, one message's share of them, and whether frozen layers stayed put."""
    from foretell.training.federated.client import Workshop
    from foretell.training.federated.records import serialised_bytes, travelling

    start = Workshop(task.build, frozen, seed).make()
    whole = Workshop(task.build, (), seed).make()
    after = learner.state_dict()
    still = {name: p for name, p in start.named_parameters() if not p.requires_grad}
    sent = sum(t.numel() * t.element_size() for t in travelling(start).values())
    all_bytes = sum(t.numel() * t.element_size() for t in travelling(whole).values())
    messages = int(rounds["participants"].sum())
    return {
        "bytes_weights": all_bytes,
        "bytes_travelling": sent,
        "bytes_record": serialised_bytes([_record(start)]),
        "bytes_down_per_message": float(rounds["bytes_down"].sum() / max(messages, 1)),
        "bytes_per_round": float((rounds["bytes_down"] + rounds["bytes_up"]).sum() / len(rounds)),
        "frozen_tensors": len(still),
        "frozen_identical": all(torch.equal(after[name], p) for name, p in still.items()),
    }


def _record(learner: Learner) -> Any:
    from flwr.app import RecordDict

    from foretell.training.federated.records import to_record, travelling

    return RecordDict({"arrays": to_record(travelling(learner))})
