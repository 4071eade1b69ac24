"""One model from site to site, by one method: what every step is worth at every site."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.data.clinical import CausalFeatureBuilder, PiecewiseLinearEncoder, Stays, target
from foretell.data.clinical.feature_spec import Statistics
from foretell.estimators import FeedForwardRisk
from foretell.learners.contract import Learner
from foretell.learners.risk import FeedForwardRiskLearner, FeedForwardShape, HourExamples
from foretell.learners.risk.ranking import auroc
from foretell.runs.building import make
from foretell.runs.sepsis.recipe import MethodSection, Recipe
from foretell.runs.sepsis.sources import Parts, load_parts
from foretell.runs.threads import limited_threads
from foretell.training.continual import (
    AGEM,
    GEM,
    SI,
    ContinualMatrix,
    ContinualMethod,
    ContinualTask,
    DERpp,
    ElasticWeightConsolidation,
    ExperienceReplay,
    Joint,
    LwF,
    Naive,
    binary_outcomes,
    train_sequence,
)

_KINDS: dict[str, Callable[..., ContinualMethod]] = {
    "naive": Naive,
    "joint": Joint,
    "ewc": ElasticWeightConsolidation,
    "online_ewc": ElasticWeightConsolidation,
    "si": SI,
    "replay": ExperienceReplay,
    "agem": AGEM,
    "gem": GEM,
    "derpp": DERpp,
    "lwf": LwF,
}
BUNDLE = "bundle.safetensors"
"""The bundle of the last site of a WUPERR training."""

SENSITIVITY = 0.8
"""Of the hours, at which precision and specificity are told."""


@dataclass(frozen=True)
class Job:
    """A method to take from site to site with one seed; everything in it can be pickled.

    Args:
        recipe: the run's recipe.
        method: name of its section.
        seed: of weights, batches and noise.
        folder: where results are kept, so that an interrupted run goes on behind them.
    """

    recipe: Recipe
    method: str
    seed: int
    folder: Path

    @property
    def home(self) -> Path:
        """The job's own folder."""
        return self.folder / self.method / f"seed{self.seed}"


@dataclass(frozen=True, eq=False)
class Rows:
    """Hours at risk of a site and part.

    Args:
        features: (R, F) scaled.
        label: (R,) 0 or 1.
        patients: (R,) numbers.
        share: of the hours without onset that are here.
    """

    features: NDArray[np.float32]
    label: NDArray[np.int8]
    patients: NDArray[np.int64]
    share: float

    @property
    def rate(self) -> float:
        """Share of hours that lead to an onset, at the site."""
        positive = float(self.label.sum())
        return positive / max(positive + (len(self.label) - positive) / self.share, 1.0)


@dataclass(frozen=True, eq=False)
class Tables:
    """Features of all sites, made once for all jobs of a process."""

    builder: CausalFeatureBuilder
    encoder: PiecewiseLinearEncoder | None
    train: Mapping[str, Rows]
    validation: Mapping[str, Rows]
    test: Mapping[str, Rows]


def template(recipe: Recipe, seed: int = 0) -> FeedForwardRisk:
    """The untrained model of a recipe.

    Raises:
        RecipeError: a key is unknown or a value refused.
    """
    own = {"random_state": seed, "threads": recipe.threads, "validation_size": 0.0, "unit": "row"}
    model: FeedForwardRisk = make("model", FeedForwardRisk, recipe.model, **own)
    return model


def method_of(name: str, section: MethodSection, seed: int) -> ContinualMethod:
    """The method of a section, untouched.

    Raises:
        RecipeError: an option is unknown or refused.
    """
    kind = _KINDS[section.kind]
    own: dict[str, Any] = {"random_state": seed}
    if section.kind in ("ewc", "online_ewc"):
        own["outcomes"] = binary_outcomes
    if section.kind == "online_ewc":
        own["online"] = True
    if section.kind in ("replay", "agem", "gem", "derpp"):
        own["labels"] = labels_of
    made: ContinualMethod = make(f"methods.{name}.options", kind, section.options, **own)
    return made


def labels_of(examples: Any) -> NDArray[np.int8]:
    """Labels of hours, of one site or of several put together."""
    if isinstance(examples, HourExamples):
        return examples.label
    return np.concatenate([labels_of(part) for part in examples.parts])


@lru_cache(maxsize=1)
def load_tables(data: str, features: str, horizon: float, n_knots: int) -> Tables:
    """Features of all parts and sites; scaled, and cut into bins, as the first site's are."""
    section = json.loads(data)
    parts = load_parts(data)
    first = parts.split.train.of("site", parts.sites[0])
    rng = np.random.default_rng(section["split_seed"])
    builder = CausalFeatureBuilder(features, schema=first.schema)
    builder.fit(first, target(first, horizon).at_risk)
    builder.statistics = without_unseen(builder.statistics)

    def table(stays: Stays, limit: int) -> dict[str, Rows]:
        return {
            site: _rows(builder, stays.of("site", site), horizon, limit, rng)
            for site in parts.sites
        }

    train = table(parts.split.train, int(section["well_hours"]))
    judged = int(section["judged_hours"])
    encoder = None
    if n_knots:
        first_site = train[parts.sites[0]].features
        encoder = PiecewiseLinearEncoder(n_knots).fit(first_site).standardise(first_site)
    return Tables(
        builder, encoder, train, table(parts.split.validation, judged),
        table(parts.split.test, judged),
    )  # fmt: skip


def without_unseen(told: Statistics | None) -> Statistics:
    """Statistics by which what the first site never measured counts for nothing.

    Its weights are never trained, so raw values must not reach them at a later site.
    """
    assert told is not None
    return Statistics(told.mean, np.where(told.seen, told.std, 1e9), told.seen)


def _rows(
    builder: CausalFeatureBuilder,
    stays: Stays,
    horizon: float,
    limit: int,
    rng: np.random.Generator,
) -> Rows:
    """All hours that lead to an onset, and some of the others."""
    wanted = target(stays, horizon)
    well = np.flatnonzero(wanted.at_risk & (wanted.label == 0))
    kept = wanted.at_risk & (wanted.label == 1)
    share = min(1.0, limit / max(len(well), 1))
    kept[well if share == 1.0 else rng.choice(well, limit, replace=False)] = True
    patients = np.unique(stays.patients.astype(str), return_inverse=True)[1]
    who = patients[stays.stay_of_row()[kept]].astype(np.int64)
    return Rows(builder.transform(stays, kept), wanted.label[kept], who, share)


def run_job(job: Job) -> dict[str, Any]:
    """Trains through all sites and judges after each, or reads what was found before."""
    done = job.home / "found.json"
    if done.is_file():
        return dict(json.loads(done.read_text()))
    recipe = job.recipe
    model = template(recipe, job.seed)
    data = recipe.data.model_dump_json()
    parts = load_parts(data)
    with limited_threads(recipe.threads):
        tables = load_tables(data, model.features, float(model.horizon), int(model.n_knots))
        cpu = time.process_time()
        shutil.rmtree(job.home, ignore_errors=True)
        job.home.mkdir(parents=True)
        if recipe.methods[job.method].kind == "wuperr":
            from foretell.runs.sepsis.wuperr import train_wuperr

            found = train_wuperr(model, job, parts, tables)
        else:
            found = _train(model, job, parts, tables)
        found["cpu_seconds"] = time.process_time() - cpu
    model.save(job.home / "model")
    partial = done.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(done)  # last: it says that the job is done
    return found


def prepare(model: FeedForwardRisk, tables: Tables, seed: int) -> None:
    """Gives a model the features, and weights that nothing trained yet."""
    model.features_, model.encoder_ = tables.builder, tables.encoder
    model.n_features_in_, model.privacy_, model.offset_ = tables.builder.n_features, None, 0.0
    encoder = tables.encoder
    width = tables.builder.n_features if encoder is None else encoder.n_outputs
    shape = FeedForwardShape(width, tuple(model.hidden), model.dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.learner_ = FeedForwardRiskLearner(shape)
    model.is_fitted_ = True


def _train(model: FeedForwardRisk, job: Job, parts: Parts, tables: Tables) -> dict[str, Any]:
    """Trains ``model`` in place; what every step is worth."""
    prepare(model, tables, job.seed)
    encoder = tables.encoder
    method = method_of(job.method, job.recipe.methods[job.method], job.seed)
    share = model.positives / (model.positives + model.negatives)

    def area(learner: Learner, rows: Rows) -> float:
        return auroc(model._logits(learner, rows.features), rows.label)  # type: ignore[arg-type]

    def validation(site: str) -> Callable[[Learner], float]:
        """Minus the mean AUROC of the sites whose data are at hand."""

        def score(learner: Learner) -> float:
            seen = parts.sites[: parts.sites.index(site) + 1] if joint else (site,)
            return -float(np.mean([area(learner, tables.validation[name]) for name in seen]))

        return score

    tasks, joint = [], job.recipe.methods[job.method].kind == "joint"
    steps = 0
    for site in parts.sites:
        rows = tables.train[site]
        examples = HourExamples(rows.features, rows.label, encoder, positives=share)
        one = max(1, round(float((rows.label == 0).sum()) / model.negatives))
        steps = steps + one if joint else one
        tasks.append(
            ContinualTask(
                site, examples, lambda learner, s=site: area(learner, tables.test[s]),  # type: ignore[misc]
                validation(site),
                {"max_steps": model.max_steps or max(1, round(model.epochs * steps)),
                 "validate_every": model.validate_every or max(1, steps // 2)},
            )
        )  # fmt: skip
    steps_told: list[dict[str, Any]] = []

    def after(site: str, learner: Learner) -> None:
        for other in parts.sites:
            rows = tables.test[other]
            told = at_sensitivity(model._logits(learner, rows.features), rows)  # type: ignore[arg-type]
            steps_told.append({"trained_on": site, "site": other, **told})

    matrix = train_sequence(
        model.learner_, tasks, method, seed=job.seed, on_task=after,
        batch_size=model.negatives + model.positives, learning_rate=model.learning_rate,
        weight_decay=model.weight_decay, schedule=model.schedule, patience=model.patience,
        best_weights=True, threads=model.threads, device=model.device,
    )  # fmt: skip
    model.learner_.eval()
    return {
        "method": job.method,
        "seed": job.seed,
        "keeps": method.keeps,
        **told_of(matrix),
        "steps": steps_told,
        "offsets": calibrate(model, tables),
        "audits": {},
        "notes": [],
    }


def told_of(matrix: ContinualMatrix) -> dict[str, Any]:
    """A matrix as JSON values."""
    return {
        "sites": list(matrix.tasks),
        "auroc": matrix.scores.tolist(),
        "final_mean": matrix.final_mean(),
        "forgetting": matrix.forgetting(),
        "backward_transfer": matrix.backward_transfer(),
        "forward_transfer": matrix.forward_transfer(),
    }


def calibrate(model: FeedForwardRisk, tables: Tables) -> dict[str, float]:
    """Sets the intercept to the mean of what the validation parts of the sites ask for."""
    offsets = {
        site: intercept(model._logits(model.learner_, rows.features), rows)
        for site, rows in tables.validation.items()
    }
    model.offset_ = float(np.mean(list(offsets.values())))
    return offsets


def at_sensitivity(scores: NDArray[np.float64], rows: Rows) -> dict[str, float]:
    """Precision and specificity of hours at 80 % sensitivity, for the site's own prevalence."""
    positive = rows.label == 1
    level = float(np.quantile(scores[positive], 1 - SENSITIVITY, method="lower"))
    found = float((scores[positive] >= level).sum())
    false = float((scores[~positive] >= level).mean()) if (~positive).any() else 0.0
    wrong = false * float((~positive).sum()) / rows.share
    return {"ppv": found / max(found + wrong, 1e-12), "specificity": 1 - false}


def intercept(logits: NDArray[np.float64], rows: Rows) -> float:
    """What is added to log-odds so that risks add up to the onsets of a site."""
    positive = rows.label == 1
    weight = np.where(positive, 1.0, 1.0 / rows.share)
    goal, low, high = float(positive.sum()), -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = float((weight / (1 + np.exp(-np.clip(logits + middle, -60, 60)))).sum())
        low, high = (middle, high) if mean < goal else (low, middle)
    return (low + high) / 2


def check(recipe: Recipe) -> None:
    """Makes model and methods once, so that a wrong key shows before any data are read.

    Raises:
        RecipeError: a key is unknown or a value refused.
    """
    template(recipe)
    for name, section in recipe.methods.items():
        if section.kind == "wuperr":
            from foretell.runs.sepsis.wuperr import estimator

            estimator(recipe, name, recipe.seeds[0])
        else:
            method_of(name, section, recipe.seeds[0])
