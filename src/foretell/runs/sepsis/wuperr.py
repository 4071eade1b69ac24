"""WUPERR from site to site: what leaves each site is one audited bundle."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foretell.errors import DataError
from foretell.estimators import FeedForwardRisk
from foretell.estimators.continual import WUPERR, GaussianRelease, ReleaseWitness
from foretell.learners.risk.ranking import auroc
from foretell.runs.building import make
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.sequence import (
    BUNDLE,
    Job,
    Tables,
    at_sensitivity,
    calibrate,
    prepare,
    told_of,
)
from foretell.runs.sepsis.sources import Parts
from foretell.training.continual import ContinualMatrix


def estimator(recipe: Recipe, name: str, seed: int) -> WUPERR:
    """The untrained WUPERR of a method's section.

    Raises:
        RecipeError: a key is unknown or a value refused.
    """
    section = recipe.methods[name]
    noise = GaussianRelease(section.release) if section.release else None
    secret = None if section.noise_seed is None else section.noise_seed + seed
    own = {"random_state": seed, "release_seed": secret, "threads": recipe.threads,
           "validation_size": 0.0}  # fmt: skip
    made: WUPERR = make(
        f"methods.{name}.options", WUPERR, {**recipe.model, **section.options},
        release=noise, **own,
    )  # fmt: skip
    return made


def train_wuperr(model: FeedForwardRisk, job: Job, parts: Parts, tables: Tables) -> dict[str, Any]:
    """Trains through all sites; ``model`` becomes what the last one runs.

    After every site its bundle is written and audited as it would be before it leaves; the last
    one is kept in the job's folder. A bundle that fails its audit does not end the run: the report
    says that it must not leave.
    """
    recipe = job.recipe
    prepare(model, tables, job.seed)
    learner = estimator(recipe, job.method, job.seed)
    size = len(parts.sites)
    scores, untrained = np.empty((size, size)), np.empty(size)
    for j, site in enumerate(parts.sites):
        rows = tables.test[site]
        untrained[j] = auroc(model._logits(model.learner_, rows.features), rows.label)
    audit = _audit(recipe, tables.builder.names)
    steps: list[dict[str, Any]] = []
    audits: dict[str, Any] = {}
    notes: list[str] = []
    for i, site in enumerate(parts.sites):
        rows, held = tables.train[site], tables.validation[site]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learner.fit_site(
                rows.features, rows.label, site=site, patients=rows.patients, rate=rows.rate,
                validation=(held.features, held.label),
            )  # fmt: skip
        notes += [f"{site}: {w.message}" for w in caught if issubclass(w.category, UserWarning)]
        try:
            bundle = learner.export_bundle(job.home / BUNDLE, audit=audit, override=True)
            audits[site] = bundle.audits[site]
        except DataError as error:  # too few patients to hide among
            (job.home / BUNDLE).unlink(missing_ok=True)
            audits[site] = {"performed": False, "passed": False, "reason": str(error)}
        for j, other in enumerate(parts.sites):
            test = tables.test[other]
            logits = learner._logits(learner.learner_, test.features)
            scores[i, j] = auroc(logits, test.label)
            steps.append({"trained_on": site, "site": other, **at_sensitivity(logits, test)})
    model.encoder_ = learner.encoder_
    model.learner_ = copy.deepcopy(learner.learner_).requires_grad_(True)
    model.learner_.eval()
    matrix = ContinualMatrix(parts.sites, scores, untrained)
    return {
        "method": job.method,
        "seed": job.seed,
        "keeps": "noisy representations" if learner.release is not None else "representations",
        **told_of(matrix),
        "steps": steps,
        "offsets": calibrate(model, tables),
        "audits": audits,
        "notes": notes,
    }


@dataclass(frozen=True)
class _Named:
    """An audit that is told what the columns are: the rows come as matrices."""

    audit: Any
    names: tuple[str, ...]

    def report(self, witness: ReleaseWitness) -> dict[str, Any]:
        return dict(self.audit.report(replace(witness, names=self.names)))


def _audit(recipe: Recipe, names: tuple[str, ...]) -> _Named | None:
    """What judges a bundle before it leaves; None where the recipe asks for none."""
    if not recipe.evaluation.audit:
        return None
    from foretell.audits.inversion import PrivacyAudit

    asked = recipe.evaluation
    return _Named(PrivacyAudit(max_r2=asked.max_r2, max_linkage=asked.max_linkage), names)
