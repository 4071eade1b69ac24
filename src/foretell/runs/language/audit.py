"""The audit of a run about language models: which utterances does a model give away?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.audits.membership import (
    content_hashes,
    logit_confidence,
    loss_confidence,
    sequence_confidence,
)
from foretell.data.text import TextSet
from foretell.errors import ArtefactError
from foretell.runs.auditing import FOLDER, AuditSubject, named_model, require_same_data
from foretell.runs.folder import RunFolder
from foretell.runs.language.recipe import DataSection, Recipe
from foretell.runs.language.sources import build, kind_of, load_text
from foretell.runs.threads import limited_threads

_AT_ONCE = 256


def audit(
    folder: RunFolder, record: Mapping[str, Any], recipe: Recipe, model: str | None
) -> AuditSubject:
    """What to repeat: the training of one model, privacy included, on halves of the utterances.

    Raises:
        ArtefactError: the data have changed, or the model has no losses of single examples.
        ParameterError: the run has no such model.
    """
    name = named_model(record, list(recipe.models), model)
    section = recipe.models[name]
    if not hasattr(kind_of(name, section), "losses"):
        raise ArtefactError(f"{name}: a {section.kind} tells no losses of single examples")
    train, test = load_text(recipe.data, recipe.seeds[0])
    require_same_data(folder, record, f"{train.fingerprint()}-{test.fingerprint()}")
    about = recipe.model_dump(mode="json", include={"data", "defaults", "threads"})
    training = UtteranceTraining(recipe, name, folder.path.resolve() / FOLDER / f"{name}.json")
    texts = [" ".join(words) for words in train.tokens]
    return AuditSubject(
        model=name,
        train=training,
        examples=len(train),
        unit="utterance",
        about={
            **about, "model": section.model_dump(mode="json"), "fingerprint": train.fingerprint()
        },
        features=texts,
        hashes=content_hashes(texts),
        notes=(
            "One example is an utterance. Models are trained on half of the utterances each, with "
            "the same privacy as the run's own.",
        ),
        statement_file=training.statement_file if section.privacy is not None else None,
    )  # fmt: skip


@dataclass(frozen=True)
class UtteranceTraining:
    """One model of a recipe trained on some of the utterances.

    Args:
        recipe: the run's recipe.
        model: name of the model's section.
        statement_file: where the guarantee of a private training is told.
    """

    recipe: Recipe
    model: str
    statement_file: Path

    def __call__(self, members: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """Signals ``(N,)`` of all utterances."""
        train = _train_part(self.recipe.data.model_dump_json(), self.recipe.seeds[0])
        model, strategies = build(self.recipe, self.model, seed % 2**31)
        with limited_threads(self.recipe.threads):
            model.fit(train.select(members), strategies=strategies)
            signals = utterance_signals(model, train)
        statement = getattr(model, "privacy_", None)
        if statement is not None and not self.statement_file.is_file():
            self.statement_file.parent.mkdir(parents=True, exist_ok=True)
            partial = self.statement_file.with_name(f".{self.statement_file.name}.{seed}.partial")
            partial.write_text(json.dumps(statement.to_dict()), encoding="utf-8")
            partial.replace(self.statement_file)
        return signals


def utterance_signals(model: Any, text: TextSet) -> NDArray[np.float64]:
    """Phi of each utterance ``(N,)``: of a joint model's tags and intent, else of its loss."""
    reader, learner = getattr(model, "reader_", None), getattr(model, "learner_", None)
    if not hasattr(reader, "slots") or not hasattr(reader, "words"):
        return loss_confidence(np.maximum(model.losses(text), 0.0))
    from foretell.learners.language import TextExamples

    assert learner is not None and reader is not None
    examples = TextExamples(text, reader)
    found = np.zeros(len(text))
    with torch.inference_mode():
        for begin in range(0, len(examples), _AT_ONCE):
            chosen = np.arange(begin, min(begin + _AT_ONCE, len(examples)))
            batch = examples.batch(chosen)
            output = learner(batch)
            phi = np.zeros(len(chosen))
            if "intent" in batch and output.intent.shape[-1] > 1:
                labels = batch["intent"].clamp(min=0)
                phi += logit_confidence(output.intent, labels)
            if "slots" in batch and output.slots.shape[-1] > 1:
                phi += sequence_confidence(output.slots, batch["slots"])
            found[examples.rows[chosen]] = phi
    return found


@lru_cache(maxsize=1)
def _train_part(document: str, seed: int) -> TextSet:
    return load_text(DataSection.model_validate_json(document), seed)[0]
