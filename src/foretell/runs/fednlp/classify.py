"""TC and ST: a label of a text, tags of its words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.data.partitions import entity_type_labels
from foretell.data.text import TextSet
from foretell.errors import RecipeError
from foretell.evaluation.language import slot_scores
from foretell.learners.contract import Learner
from foretell.learners.language.bag_of_words import BagExamples, BagReader
from foretell.learners.language.joint import JointLearner, JointShape
from foretell.learners.language.reader import TextExamples, TextReader
from foretell.runs.federated.sources import linear, sparse_features, without_stop_words
from foretell.runs.fednlp.formulation import (
    FederatedTask,
    Rows,
    load_source,
    read_parts,
    shape_of,
    vocabulary_of,
    warn_absent,
    warn_pooled,
)
from foretell.runs.fednlp.recipe import TaskSection

AT_ONCE = 256


def classification(section: TaskSection) -> FederatedTask:
    """The label of a whole text.

    Raises:
        RecipeError: the source has no labels.
        DataError: it cannot be read.
    """
    train, test = read_parts(section.data, load_source(section))
    if not isinstance(train, TextSet) or not train.has_intents:
        raise RecipeError(f"{section.data.source} has no labels of texts, as 'tc' needs")
    model = section.learner
    if model.kind == "bag_of_words" and model.stop_words:
        train, test = without_stop_words(train), without_stop_words(test)
    names = warn_absent(train.intent_names, test.intent_names, "labels")
    most = Counter(train.intents.tolist()).most_common(1)[0][0]
    right = {name: code for code, name in enumerate(names)}
    labels = np.array([right[label] for label in test.intents])
    common = {
        "code": "tc", "train": train, "test": test, "metric": "accuracy",
        "trivial": {"the commonest label": float((labels == right[most]).mean())},
        "labels": train.intents, "test_labels": test.intents,
        "text": _joined(train), "test_text": _joined(test),
    }  # fmt: skip
    if model.kind == "bag_of_words":
        return _bag(section, train, test, names, labels, common)
    reader = _reader(section, train, intents=names)
    examples, tests = TextExamples(train, reader), TextExamples(test, reader)
    shape = JointShape(
        words=reader.codes, intents=len(names), slots=0, characters=_letters(reader),
        **shape_of(model),
    )  # fmt: skip

    def judge(learner: Learner, rows: Rows) -> dict[str, float]:
        said = np.concatenate(
            [learner(tests.batch(part)).intent.argmax(-1).numpy() for part in _parts(rows)]
        )
        return {"accuracy": float((said == labels[tests.rows[rows]]).mean())}

    return FederatedTask(
        examples=examples, rows=examples.rows, tests=tests, test_rows=tests.rows,
        build=lambda: JointLearner(shape), judge=_quietly(judge), **common,
    )  # fmt: skip


def _bag(
    section: TaskSection,
    train: TextSet,
    test: TextSet,
    names: tuple[str, ...],
    labels: NDArray[np.int64],
    common: dict[str, Any],
) -> FederatedTask:
    model = section.learner
    if model.idf:
        warn_pooled("in how many texts each word occurs (idf) is counted over", "idf = false")
    reader = BagReader.learn(train, features=model.words, idf=model.idf, intents=names)
    examples, tests = BagExamples(train, reader), BagExamples(test, reader)
    table = sparse_features(tests)

    def judge(learner: Learner, rows: Rows) -> dict[str, float]:
        weight, bias = (p.detach().numpy() for p in learner.intent.parameters())  # type: ignore[union-attr]
        own = table if len(rows) == table.shape[0] else table[rows]
        return {"accuracy": float(((own @ weight.T + bias).argmax(1) == labels[rows]).mean())}

    return FederatedTask(
        examples=examples, rows=examples.rows, tests=tests, test_rows=tests.rows,
        build=lambda: linear(model.words, len(names), model.bias), judge=judge, **common,
    )  # fmt: skip


def tagging(section: TaskSection) -> FederatedTask:
    """Entities or slots of a text, judged span by span.

    Raises:
        RecipeError: the source has no tags.
        DataError: it cannot be read.
    """
    train, test = read_parts(section.data, load_source(section))
    if not isinstance(train, TextSet) or not train.has_slots:
        raise RecipeError(f"{section.data.source} has no tags of words, as 'st' needs")
    names = warn_absent(train.slot_names, test.slot_names, "tags")
    reader = _reader(section, train, slots=names)
    examples, tests = TextExamples(train, reader), TextExamples(test, reader)
    shape = JointShape(
        words=reader.codes, intents=0, slots=len(names), characters=_letters(reader),
        **shape_of(section.learner),
    )  # fmt: skip
    true = test.slots
    known = np.array([*names, "O"], dtype=object)

    def judge(learner: Learner, rows: Rows) -> dict[str, float]:
        said: list[list[str]] = []
        for part in _parts(rows):
            best = learner(tests.batch(part)).slots.argmax(-1).numpy()
            said += [known[codes].tolist() for codes in tests.of_words(part, best, -1)]
        scores = slot_scores([true[r] for r in tests.rows[rows]], said).overall
        return {"f1": scores.f1, "precision": scores.precision, "recall": scores.recall}

    looked_up = slot_scores(true, commonest_tags(train, test)).f1
    return FederatedTask(
        code="st", train=train, test=test, examples=examples, rows=examples.rows, tests=tests,
        test_rows=tests.rows, build=lambda: JointLearner(shape), judge=_quietly(judge),
        metric="f1", trivial={"the commonest tag of each word": looked_up},
        labels=entity_type_labels(train.slots), test_labels=entity_type_labels(true),
        text=_joined(train), test_text=_joined(test),
    )  # fmt: skip


def commonest_tags(train: TextSet, test: TextSet) -> list[list[str]]:
    """The tag that each word has most often in training, ``O`` for new words."""
    counts: dict[str, Counter[str]] = {}
    for words, tags in zip(train.tokens, train.slots, strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    best = {word: count.most_common(1)[0][0] for word, count in counts.items()}
    return [[best.get(word, "O") for word in words] for words in test.tokens]


def _reader(
    section: TaskSection,
    train: TextSet,
    *,
    intents: tuple[str, ...] = (),
    slots: tuple[str, ...] = (),
) -> TextReader:
    model = section.learner
    vocabulary = vocabulary_of(model, lambda: train.frame["tokens"].explode().to_list())
    reader = TextReader.learn(
        train, vocabulary=vocabulary, characters=model.characters, max_length=model.max_length
    )
    return replace(reader, intents=intents, slots=slots)


def _letters(reader: TextReader) -> int:
    return 0 if reader.characters is None else len(reader.characters)


def _joined(text: TextSet) -> list[str]:
    return [" ".join(words) for words in text.tokens]


def _parts(rows: Rows) -> list[Rows]:
    return [rows[begin : begin + AT_ONCE] for begin in range(0, len(rows), AT_ONCE)]


def _quietly(judge: Any) -> Any:
    def judged(learner: Learner, rows: Rows) -> dict[str, float]:
        with torch.inference_mode():
            found: dict[str, float] = judge(learner, rows)
        return found

    return judged
