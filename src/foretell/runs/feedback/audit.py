"""The audit of a run about late labels: which entities does a classifier give away?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.audits.membership import content_hashes, probability_confidence
from foretell.data.events import EventLog
from foretell.errors import ArtefactError, DataError
from foretell.runs.auditing import AuditSubject, named_model, require_same_data
from foretell.runs.feedback.jobs import train
from foretell.runs.feedback.recipe import Recipe, SnapshotSection
from foretell.runs.feedback.sources import load_log
from foretell.runs.folder import RunFolder
from foretell.runs.threads import limited_threads


def audit(
    folder: RunFolder, record: Mapping[str, Any], recipe: Recipe, model: str | None
) -> AuditSubject:
    """What to repeat: the training at the last snapshot, on halves of the entities it could see.

    The attacker sees the probability of an entity's final label.

    Raises:
        ArtefactError: the run has no snapshot, or the data have changed.
        ParameterError: the run has no such model.
        DataError: hardly an entity has a final label.
    """
    if not recipe.snapshots:
        raise ArtefactError(
            f"the run in {folder.path} has no snapshot: what a stream learned at each moment "
            "is no training on halves"
        )
    name = named_model(record, list(recipe.models), model)
    log, _ = load_log(recipe.data, seed=recipe.seeds[0])
    require_same_data(folder, record, log.fingerprint())
    part = log.select(_candidates(log, _last(recipe)))
    about = recipe.model_dump(mode="json", include={"data", "snapshots", "estimator", "threads"})
    features = np.nan_to_num(part.matrix())
    return AuditSubject(
        model=name,
        train=EntityTraining(recipe, name),
        examples=len(part),
        unit="entity",
        about={
            **about, "model": recipe.models[name].model_dump(mode="json"),
            "fingerprint": part.fingerprint(),
        },
        labels=part.label().astype(np.int64),
        features=features,
        hashes=content_hashes(list(features)),
        notes=(
            "One example is an entity; those count that the last snapshot could see and whose "
            "labels are final by now.",
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class EntityTraining:
    """One model of a recipe trained on some of the entities.

    Args:
        recipe: the run's recipe.
        model: name of the model's section.
    """

    recipe: Recipe
    model: str

    def __call__(self, members: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """Phi ``(N,)`` of the final labels."""
        recipe = self.recipe
        log, candidates = _parts(recipe.model_dump_json())
        part = log.select(candidates)
        with limited_threads(recipe.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            # Entities that only delays are learned from are in every half.
            kept = np.ones(len(log), bool)
            kept[candidates[~members]] = False
            chosen = log.select(np.flatnonzero(kept))
            model = train(recipe, self.model, _last(recipe), chosen, seed % 2**31)
            return probability_confidence(model.predict_proba(part), part.label())


def _last(recipe: Recipe) -> SnapshotSection:
    return recipe.snapshots[next(reversed(recipe.snapshots))]


def _candidates(log: EventLog, section: SnapshotSection) -> NDArray[np.int64]:
    """Entities that a snapshot's training learns from and whose labels are final."""
    begin = -np.inf if section.since is None else log.moment(section.since)
    seen = (log.times >= begin) & (log.times < log.moment(section.now)) & log.matured
    if int(seen.sum()) < 20:
        raise DataError(
            f"{int(seen.sum())} entities were there at {section.now} and have a final label: too "
            "few for an audit"
        )
    return np.flatnonzero(seen)


@lru_cache(maxsize=1)
def _parts(document: str) -> tuple[EventLog, NDArray[np.int64]]:
    recipe = Recipe.model_validate_json(document)
    log, _ = load_log(recipe.data, seed=recipe.seeds[0])
    return log, _candidates(log, _last(recipe))
