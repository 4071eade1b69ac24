"""Privacy of a federated run: one statement over all clients, and the audit that tests it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.learners.artefact import load_artefact, save_artefact
from foretell.learners.contract import Learner
from foretell.runs.federated.recipe import PrivacySection, Recipe
from foretell.runs.federated.sources import Federation, linear, load_federation
from foretell.runs.threads import limited_threads
from foretell.training.examples import TensorExamples

_KIND = "FederatedAudit"
_METHODS: tuple[Literal["fdp", "steinke"], ...] = ("fdp", "steinke")
PUBLIC_IDF = "in how many posts each hashed word occurs (idf), and the list of groups, are public"


@dataclass(frozen=True)
class AuditJob:
    """One training with canary clients; everything in it can be pickled.

    Args:
        recipe: the run's recipe, with a section ``audit``.
        noisy: whether the noise that is claimed is added.
        seed: of training, canaries and coins.
        folder: where results are kept.
    """

    recipe: Recipe
    noisy: bool
    seed: int
    folder: Path

    @property
    def home(self) -> Path:
        """The job's own folder."""
        return self.folder / "audit" / ("noisy" if self.noisy else "bare") / f"seed{self.seed}"


def run_audit(job: AuditJob) -> dict[str, Any]:
    """Trains with canary clients and bounds epsilon; or reads what was found before."""
    if (job.home / "model.json").is_file():
        return dict(load_artefact(job.home, _KIND)[0])
    begun = time.process_time()
    with limited_threads(job.recipe.threads):
        found = _audit(job, load_federation(job.recipe, job.seed))
    scores, included = found.pop("scores"), found.pop("included")
    found["seconds"] = time.process_time() - begun
    save_artefact(job.home, _KIND, found, {"scores": scores, "included": included})
    return found


def _audit(job: AuditJob, federation: Federation) -> dict[str, Any]:
    from foretell.audits.dp import PlantedClients, audit_clients, dirac_features, weight_scores
    from foretell.audits.membership import attack_result
    from foretell.runs.federated.jobs import STATIC, Job, server_settings
    from foretell.training.federated.local import LocalTraining
    from foretell.training.federated.run import run_federated

    recipe, section = job.recipe, job.recipe.audit
    assert section is not None and recipe.privacy is not None
    rate = recipe.rates_of(section.method)[0]
    training = Job(recipe, section.method, rate, job.seed, STATIC, job.folder)
    width = recipe.learner.features if recipe.data.source == "newsgroups20" else _width(federation)
    classes = int(federation.labels.max()) + 1
    tensors, coins = dirac_features(width, section.canaries, classes, seed=job.seed)
    activity = section.activity or int(federation.activity.max())
    clients = PlantedClients(federation.examples, federation.parts, tensors, coins, activity)

    def build() -> Learner:
        return linear(width + section.canaries, classes, recipe.learner.bias)

    settings = server_settings(training)
    privacy: PrivacySection = recipe.privacy
    settings["privacy"] = privacy.mechanism(
        job.seed, privacy.noise_multiplier if job.noisy else 0.0
    )
    strategy = make_server(settings, job.seed)
    before = {name: value.clone() for name, value in build().state_dict().items()}
    result = run_federated(
        build, clients, strategy=strategy, rounds=recipe.rounds.count, seed=job.seed,
        local=LocalTraining(**recipe.local_of(section.method)), timeout=float("inf"),
    )  # fmt: skip
    # All canaries' gradients are as long as each other: nothing is to be brought to one norm.
    scores = weight_scores(result.learner, before, TensorExamples(tensors), normalise=False)
    bounds = {
        method: audit_clients(scores, coins, privacy.delta, method=method, seed=job.seed)
        for method in _METHODS
    }
    attack = attack_result(scores, coins)
    log = result.selection_log
    drawn = set(log["client"].to_list()) if not log.is_empty() else set()
    return {
        "noisy": job.noisy,
        "canaries": section.canaries,
        "included": coins,
        "scores": scores,
        "in": int(coins.sum()),
        "ever_drawn": sum(int(c) in drawn for c in clients.canaries),
        "activity": activity,
        "clients": clients.real,
        "bounds": {name: bound.to_dict() for name, bound in bounds.items()},
        "auc": float(attack.auc),
        "statement": stated(strategy) if job.noisy else None,
        "accuracy": float(federation.right(_without(result.learner, width, classes)).mean()),
    }


def verdict(noisy: dict[str, Any], bare: dict[str, Any] | None) -> dict[str, Any]:
    """What the audit proves: the claim, the bounds on it, and the bounds where noise is missing.

    A claim is refuted where a bound exceeds it. Without noise it must be, or the audit is blind.
    """
    claim = noisy["statement"]
    keep = ("canaries", "in", "ever_drawn", "activity", "clients", "auc", "accuracy", "seconds")
    rows = [found for found in (noisy, bare) if found is not None]
    return {
        "claim": claim,
        "runs": [
            {
                "noisy": found["noisy"],
                **{name: found[name] for name in keep},
                "bounds": {name: bound["epsilon"] for name, bound in found["bounds"].items()},
                "refuted": [
                    name
                    for name, bound in found["bounds"].items()
                    if bound["epsilon"] > claim["epsilon"]
                ],
            }
            for found in rows
        ],
        "threat_model": noisy["bounds"]["fdp"]["threat_model"],
        "confidence": noisy["bounds"]["fdp"]["confidence"],
        "assumptions": {
            name: list(bound["assumptions"]) for name, bound in noisy["bounds"].items()
        },
    }


def make_server(settings: dict[str, Any], seed: int) -> Any:
    """The strategy of a method as an object, so that its ledger can be read afterwards."""
    from foretell.training.federated.strategies import make_strategy

    given = dict(settings)
    name, k = given.pop("strategy"), given.pop("clients_per_round")
    return make_strategy(name, k, seed=seed, **given)


def stated(strategy: Any, more: Sequence[str] = (PUBLIC_IDF,)) -> dict[str, Any] | None:
    """The guarantee of the client that it costs most, and the whole statement as ``federation``."""
    from foretell.training.federated.statement import federated_statement

    if getattr(strategy, "ledger", None) is None:
        return None
    statement = federated_statement(strategy.ledger)
    worst, whole = statement.worst.to_dict(), statement.to_dict()
    worst["assumptions"] = [*worst["assumptions"], *more]
    return {**worst, "federation": {key: whole[key] for key in whole if key != "worst"}}


def _width(federation: Federation) -> int:
    batch = federation.examples.batch(np.arange(1), np.random.default_rng(0))
    return int(batch["features"].shape[1])


def _without(learner: Learner, width: int, classes: int) -> Learner:
    """The learner without the canaries' features, which no test has."""
    whole: dict[str, torch.Tensor] = learner.state_dict()
    kept = linear(width, classes, True)
    weight: NDArray[np.float32] = whole["intent.weight"][:, :width].numpy()
    kept.load_state_dict(
        {"intent.weight": torch.from_numpy(weight.copy()), "intent.bias": whole["intent.bias"]}
    )
    return kept
