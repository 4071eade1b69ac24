"""The training whose leakage is measured: softmax regression on hashed bags of words."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import SGD, Optimizer

from foretell.audits.dp import (
    ClippingOnly,
    PrivacyViolation,
    WithCanaries,
    audit_one_run,
    dirac_features,
    weight_scores,
)
from foretell.audits.membership import POSTERIORS, logit_confidence
from foretell.audits.membership.subset import MemberExamples
from foretell.data import registry
from foretell.data.text import TextSet
from foretell.errors import DataError, RecipeError
from foretell.learners.language.bag_of_words import BagExamples, BagOfWordsLearner, BagReader
from foretell.runs.building import check_keys
from foretell.runs.leakage.recipe import DataSection, Recipe
from foretell.runs.sources import is_public, loader_options
from foretell.runs.threads import limited_threads
from foretell.training import Examples, TensorExamples, fit
from foretell.training.private import PrivateTraining

_AT_ONCE = 256
_PUBLIC = "labels and the counts behind the features' weights (idf) are public"
_HALVES = (
    "halves have a fixed size, so two of them differ by a replacement: the bound of one addition "
    "that is checked here is stricter than what is guaranteed"
)


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts as examples.

    Attributes:
        text: the training part.
        train: its N examples.
        test: those that judge accuracy.
    """

    text: TextSet
    train: BagExamples
    test: BagExamples


def load(data: DataSection) -> Texts:
    """The texts of a recipe, read once a process.

    Raises:
        RecipeError: the source is no public data set, or an option its reader does not have.
        DataError: it cannot be read, or its texts have no labels.
    """
    return _load(data.model_dump_json())


@lru_cache(maxsize=1)
def _load(document: str) -> Texts:
    data = DataSection.model_validate_json(document)
    if not is_public(data.source):
        raise RecipeError(f"data.source: there is no public data set {data.source!r}")
    check_keys("data.options", data.options, loader_options(data.source))
    text = registry.load(data.source, **data.options)
    if not isinstance(text, TextSet) or not text.has_intents:
        raise DataError(f"{data.source!r} is no set of texts with labels")
    train, test = (_limited(text.part(part), data.limit) for part in (data.train, data.test))
    reader = BagReader.learn(train, features=data.features, idf=data.idf)
    return Texts(train, BagExamples(train, reader), BagExamples(test, reader))


def _limited(text: TextSet, limit: int | None) -> TextSet:
    if limit is None or limit >= len(text):
        return text
    return text.select(np.sort(np.random.default_rng(0).permutation(len(text))[:limit]))


@dataclass(frozen=True)
class Training:
    """One kind of training, as :class:`foretell.audits.membership.ShadowTrainer` calls it.

    Args:
        recipe: the run's recipe.
        model: name of the model's section.
        folder: where the guarantee of the training is told, in ``statement.json``.
    """

    recipe: Recipe
    model: str
    folder: Path

    def __call__(self, members: NDArray[np.bool_], seed: int) -> dict[str, Any]:
        """Trains on the members; signals and log-posteriors of all, and the test accuracy."""
        texts = load(self.recipe.data)
        learner = self._learner(texts, 0)
        private = self._fit(learner, MemberExamples(texts.train, members), seed)
        with limited_threads(self.recipe.threads):
            logits = _logits(learner, texts.train)
            judged = _logits(learner, texts.test)
        if private and self.recipe.models[self.model].target_epsilon is not None:
            self._tell(private[0])
        labels = texts.train.intents
        assert labels is not None and texts.test.intents is not None
        posteriors = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return {
            "signals": logit_confidence(logits, labels),
            POSTERIORS: posteriors.astype(np.float32),
            "test_accuracy": float(np.mean(judged.argmax(1) == texts.test.intents)),
        }

    def lower_bound(self) -> dict[str, Any]:
        """What canaries prove of epsilon, by one more model trained on all texts and on them.

        Read from ``lower_bound.json`` where it was done before.
        """
        file = self.folder / "lower_bound.json"
        if file.is_file():
            done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return done
        recipe, seed = self.recipe, self.recipe.seeds[0]
        texts = load(recipe.data)
        labels = len(texts.train.reader.intents)
        count = recipe.attack.canaries
        canaries, included = dirac_features(recipe.data.features, count, labels, seed=seed)
        learner = self._learner(texts, count)
        initial = {name: value.clone() for name, value in learner.state_dict().items()}
        private = self._fit(learner, WithCanaries(texts.train, canaries, included), seed)
        scores = weight_scores(learner, initial, TensorExamples(canaries))
        found = audit_one_run(scores, included, recipe.private.delta, seed=seed)
        document: dict[str, Any] = {"bound": found.to_dict(), "violation": None}
        if private and recipe.models[self.model].target_epsilon is not None:
            try:
                found.check(private[0].statement())
            except PrivacyViolation as violation:
                document["violation"] = str(violation)
        _write(file, document)
        return document

    def _learner(self, texts: Texts, more: int) -> BagOfWordsLearner:
        """An untrained learner without intercepts.

        All examples agree about these, so that they swing at the high rates of private training,
        and they would take half of the norm that clipping leaves to an example.
        """
        learner = BagOfWordsLearner(
            self.recipe.data.features + more, len(texts.train.reader.intents)
        )
        learner.intent.bias.requires_grad_(False)
        return learner

    def _fit(
        self, learner: BagOfWordsLearner, examples: Examples, seed: int
    ) -> list[PrivateTraining]:
        """Trains in place; the strategy, if there is one."""
        recipe, section = self.recipe, self.recipe.models[self.model]
        private = self._private()
        size = min(recipe.plain.batch_size, len(examples))
        steps = max(1, int(recipe.plain.epochs * len(examples) / size))
        rate = recipe.plain.learning_rate
        if section.is_private:
            settings = recipe.private
            size = max(1, round(settings.sample_rate * len(examples)))
            steps, rate = settings.steps, settings.learning_rate
        with limited_threads(recipe.threads):
            fit(
                learner, examples, strategies=private, max_steps=steps, batch_size=size,
                learning_rate=rate, optimizer=_plain_descent, weight_decay=0.0,
                gradient_clip=None, schedule="constant", seed=seed, device="cpu",
                threads=recipe.threads, validate_every=1_000_000, checkpoint_every=1_000_000,
            )  # fmt: skip
        return private

    @property
    def statement_file(self) -> Path:
        """Where the guarantee is told."""
        return self.folder / "statement.json"

    def _private(self) -> list[PrivateTraining]:
        section, settings = self.recipe.models[self.model], self.recipe.private
        # The models are attacked here and go nowhere; a run is repeated from its recipe.
        seed = self.recipe.seeds[0]
        if section.clipping_only:
            return [ClippingOnly(max_grad_norm=settings.max_grad_norm, noise_seed=seed)]
        if section.target_epsilon is None:
            return []
        return [
            PrivateTraining(
                target_epsilon=section.target_epsilon,
                target_delta=settings.delta,
                max_grad_norm=settings.max_grad_norm,
                accountant=settings.accountant,
                noise_seed=seed,
            )
        ]

    def _tell(self, private: PrivateTraining) -> None:
        """Writes the statement of the first training; those of the others are the same."""
        if self.statement_file.is_file():
            return
        own = private.statement()
        assumptions = (*own.assumptions, _PUBLIC, _HALVES)
        document = replace(own, assumptions=assumptions).to_dict()
        _write(self.statement_file, document)


def _write(file: Path, document: dict[str, Any]) -> None:
    """Writes JSON in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    partial.replace(file)


def _plain_descent(groups: list[dict[str, Any]]) -> Optimizer:
    """SGD without momentum, which is what the accounts of the literature speak of."""
    return SGD(groups)


def _logits(learner: BagOfWordsLearner, examples: BagExamples) -> NDArray[np.float64]:
    """Scores of the labels ``(N, C)``; what is made of them is computed in double precision."""
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(examples), _AT_ONCE):
            rows = np.arange(begin, min(begin + _AT_ONCE, len(examples)))
            parts.append(learner(examples.batch(rows)).intent.double().numpy())
    return np.concatenate(parts)
