"""One training with canaries, and the attack on it."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretell.audits.dp.clipping_only import ClippingOnly
from foretell.audits.extraction import (
    CanarySuite,
    ExtractionReport,
    ModelInversionAttack,
    deduplicate,
)
from foretell.data.text import TextSet
from foretell.errors import DataError
from foretell.estimators import NLU
from foretell.evaluation.language import evaluate_understanding
from foretell.learners.artefact import load_artefact, save_artefact
from foretell.runs.building import make
from foretell.runs.canary.recipe import PrivateSection, Recipe
from foretell.runs.memory import peak_memory_mib
from foretell.runs.threads import limited_threads
from foretell.training import Strategy
from foretell.training.private import PrivateTraining

_KIND = "CanaryExtraction"


@dataclass(frozen=True)
class Job:
    """A model to train and attack; everything in it can be pickled.

    Args:
        recipe: the run's recipe.
        model: name of the model's section.
        seed: of canaries, training and attack.
        folder: where results are kept, so that an interrupted run goes on behind them.
    """

    recipe: Recipe
    model: str
    seed: int
    folder: Path

    @property
    def home(self) -> Path:
        """The job's own folder."""
        return self.folder / self.model / f"seed{self.seed}"


@dataclass(frozen=True, eq=False)
class Done:
    """What a job found.

    Args:
        report: of the attack.
        scores: of the model on the part that judges it.
        statement: what its training guarantees, as text; None where it is not private.
        epsilon: of the statement.
        utterances: that it was trained on.
        notes: what was unusual about the canaries and the training.
        fit_seconds: processor time of the training.
        attack_seconds: processor time of the attack.
        peak_memory_mib: the most memory that its process had used by then.
    """

    report: ExtractionReport
    scores: dict[str, float]
    statement: str | None
    epsilon: float | None
    utterances: int
    notes: tuple[str, ...]
    fit_seconds: float
    attack_seconds: float
    peak_memory_mib: float


def suite_of(recipe: Recipe, repetitions: int, seed: int) -> CanarySuite:
    """The canaries of a seed: the same for all models."""
    section = recipe.suite.model_dump()
    suite: CanarySuite = make("suite", CanarySuite, section, repetitions=repetitions, seed=seed)
    return suite


def run_job(job: Job, text: TextSet) -> Done:
    """Does a job, or reads its result where it was done before."""
    if (job.home / "model.json").is_file():
        config, _ = load_artefact(job.home, _KIND)
        report = ExtractionReport.from_dict(config.pop("report"))
        return Done(report, **{**config, "notes": tuple(config["notes"])})
    recipe, section = job.recipe, job.recipe.models[job.model]
    train, valid = text.part(recipe.data.train), text.part(recipe.data.valid)
    planted = suite_of(recipe, section.repetitions, job.seed).insert(train)
    shown = deduplicate(planted.text) if section.deduplicate else planted.text
    model = make_model(recipe, job.model, train, job.seed)
    begun = time.process_time()
    with limited_threads(recipe.threads), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model.fit(shown, strategies=strategies_of(section.private, job.seed))
        fitted = time.process_time()
        attack = ModelInversionAttack(seed=job.seed, **recipe.attack.model_dump())
        report = attack.run(model, planted)
        attacked = time.process_time()
        scores = evaluate_understanding(valid, model.predict(valid))
    told = [str(w.message) for w in caught if w.category is UserWarning]
    statement = model.privacy_
    done = Done(
        report,
        scores,
        None if statement is None else str(statement),
        None if statement is None else statement.epsilon,
        len(shown),
        tuple(dict.fromkeys([*(note.message for note in planted.notes), *told])),
        fitted - begun,
        attacked - fitted,
        peak_memory_mib(),
    )
    config = {name: getattr(done, name) for name in Done.__dataclass_fields__ if name != "report"}
    save_artefact(
        job.home, _KIND, {**config, "notes": list(done.notes), "report": report.to_dict()},
        {"exposure": np.array([np.nan if r.exposure is None else r.exposure for r in report.rows])},
    )  # fmt: skip
    return done


def make_model(recipe: Recipe, name: str, train: TextSet, seed: int) -> NLU:
    """The untrained model of a section.

    All models of a run know the same words, those of prefixes and secrets among them: a model
    without canaries could not be compared with the others if it did not know their words.

    Raises:
        RecipeError: an option that ``NLU`` does not have.
    """
    words = set(train.frame["tokens"].explode())
    words |= {word for template in recipe.suite.templates for word in template.split()}
    words |= set(recipe.suite.vocabulary)
    given = {**recipe.nlu, **recipe.models[name].options}
    model: NLU = make(
        f"models.{name}.options", NLU, given, vocabulary=sorted(words), random_state=seed,
        threads=recipe.threads,
    )  # fmt: skip
    return model


def strategies_of(section: PrivateSection | None, seed: int) -> list[Strategy]:
    """How a model is trained privately, if it is.

    Its noise follows from the run's seed: the models are attacked here and go nowhere, and a run is
    repeated from its recipe. Their statements say so.
    """
    if section is None:
        return []
    if section.clipping_only:
        return [ClippingOnly(max_grad_norm=section.max_grad_norm, noise_seed=seed)]
    return [
        PrivateTraining(
            section.noise_multiplier,
            target_epsilon=section.target_epsilon,
            max_grad_norm=section.max_grad_norm,
            noise_seed=seed,
        )
    ]


def require_text(text: Any, source: str) -> TextSet:
    """Checks that a source holds utterances with intents.

    Raises:
        DataError: it holds something else.
    """
    if not isinstance(text, TextSet):
        raise DataError(f"{source!r} is no set of utterances")
    if not text.has_intents:
        raise DataError(f"the utterances of {source!r} have no intents")
    return text
