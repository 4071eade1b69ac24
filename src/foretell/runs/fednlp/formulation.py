"""What a federated task of language is: texts, a learner, and how it is judged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foretell.data import registry
from foretell.data.public.texts import lm_text
from foretell.data.text import HashingVocabulary, Vocabulary
from foretell.data.text.table import TextTable
from foretell.data.text.words import split_words
from foretell.errors import RecipeError
from foretell.learners.contract import Learner
from foretell.learners.language.reader import AnyVocabulary
from foretell.runs.fednlp.recipe import ModelSection, TaskSection, TextSource
from foretell.training.examples import Examples

Rows = NDArray[np.int64]
Judge = Callable[[Learner, Rows], Mapping[str, float]]
HELD_OUT = 10


@dataclass(frozen=True, eq=False)
class FederatedTask:
    """One of the four formulations of FedNLP (Lin et al. 2022), ready to be divided.

    Args:
        code: ``tc``, ``st``, ``qa`` or ``ss``.
        train: training texts.
        test: texts to judge by.
        examples: training examples, in an order of their own.
        rows: row of ``train`` that each example comes from.
        tests: test examples.
        test_rows: row of ``test`` that each of them comes from.
        build: makes the learner.
        judge: scores of a learner on some test examples.
        metric: the score that counts, among those of ``judge``.
        trivial: that score of what needs no training, by name.
        labels: what label partitions divide ``train`` by; None where texts must be clustered.
        test_labels: the same of ``test``.
        text: column (or texts) that clusters are made of.
        test_text: the same of ``test``.
        notes: what a reader of the results has to know.
    """

    code: str
    train: TextTable
    test: TextTable
    examples: Examples
    rows: Rows
    tests: Examples
    test_rows: Rows
    build: Callable[[], Learner]
    judge: Judge
    metric: str
    trivial: dict[str, float]
    labels: NDArray[Any] | None
    test_labels: NDArray[Any] | None
    text: list[str]
    test_text: list[str]
    notes: tuple[str, ...] = field(default=())

    def evaluate(self, learner: Learner) -> dict[str, float]:
        """Scores on all tests; ``score`` is the one that counts."""
        return self.on(learner, np.arange(len(self.tests)))

    def on(self, learner: Learner, rows: Rows) -> dict[str, float]:
        """Scores on some test examples."""
        learner.eval()
        found = dict(self.judge(learner, rows))
        return {"score": found[self.metric], **found}


class TestRows:
    """Some test examples, which know their numbers, so that a client's can be judged alone.

    Args:
        tests: all of them.
        rows: those of one client.
    """

    __test__ = False

    def __init__(self, tests: Examples, rows: Rows) -> None:
        self.tests, self.rows = tests, rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Rows, rng: np.random.Generator) -> dict[str, Tensor]:
        """Tensors of some of them."""
        return self.tests.batch(self.rows[indices], rng)


class TestClients:
    """Test examples of each client.

    Args:
        tests: of all.
        parts: numbers of each client's.
    """

    __test__ = False

    def __init__(self, tests: Examples, parts: list[Rows]) -> None:
        self._tests, self._parts = tests, parts

    def __len__(self) -> int:
        return len(self._parts)

    def examples(self, client: int) -> TestRows:
        """Those of one client."""
        return TestRows(self._tests, self._parts[client])

    def activity(self, client: int) -> int:
        """Their number."""
        return len(self._parts[client])


def read_parts(source: TextSource, given: TextTable) -> tuple[Any, Any]:
    """Training and test texts of a source, as many as the recipe wants.

    Raises:
        RecipeError: the source has no parts ``train`` and ``test``.
    """
    if not {"train", "test"} <= set(given.splits):
        raise RecipeError(
            f"{source.source} has the parts {', '.join(given.splits) or 'none'}: a task needs "
            "'train' and 'test'"
        )
    train, test = given.part("train"), given.part("test")
    rng = np.random.default_rng(source.seed)
    if source.judge == "held_out":
        order = rng.permutation(len(train))
        cut = len(train) // HELD_OUT
        test, train = train.select(np.sort(order[:cut])), train.select(np.sort(order[cut:]))
    return _some(train, source.examples, rng), _some(test, source.tests, rng)


def _some(texts: TextTable, number: int | None, rng: np.random.Generator) -> TextTable:
    if number is None or number >= len(texts):
        return texts
    return texts.select(np.sort(rng.permutation(len(texts))[:number]))


def load_source(task: TaskSection, **arguments: Any) -> Any:
    """The texts of a task's source; ``arguments`` are the formulation's own."""
    return registry.load(task.data.source, **{**arguments, **task.data.options})


def vocabulary_of(model: ModelSection, pooled: Callable[[], list[str]]) -> AnyVocabulary:
    """Words of a learner, and a warning where clients' texts are pooled for them.

    Args:
        model: says where words come from.
        pooled: all words of all clients.
    """
    if model.vocabulary == "hashing":
        return HashingVocabulary(model.words)
    if model.vocabulary == "public":
        return Vocabulary(public_words(model.corpus, model.words))
    warn_pooled("the vocabulary is built of", "vocabulary = 'hashing' or 'public'")
    return Vocabulary.build(pooled(), min_count=2, max_words=model.words)


def public_words(corpus: str, most: int) -> tuple[str, ...]:
    """The most frequent words and marks of a public corpus of running text."""
    text = lm_text(registry.path("lm_text"), corpus=corpus)  # type: ignore[arg-type]
    column = "text" if "text" in text.frame.columns else "tokens"
    flat = (w.text for line in text.frame[column] for w in split_words(line))
    return Vocabulary.build(flat, max_words=most).words


def warn_pooled(what: str, instead: str) -> None:
    """Says that raw texts of clients were brought together."""
    warnings.warn(
        f"{what} the clients' raw texts in one place, which a federation exists to avoid: use "
        f"{instead} where texts must stay",
        UserWarning,
        stacklevel=3,
    )


def shape_of(model: ModelSection) -> dict[str, Any]:
    """Widths that learners over tokens share."""
    return {
        "encoder": model.kind, "embedding": model.embedding, "hidden": model.hidden,
        "layers": model.layers, "heads": model.heads, "dropout": model.dropout,
    }  # fmt: skip


def warn_absent(train: tuple[str, ...], test: tuple[str, ...], what: str) -> tuple[str, ...]:
    """All labels of training and tests; warns of those that no training text has."""
    absent = sorted(set(test) - set(train))
    if absent:
        warnings.warn(
            f"{len(absent)} {what} of the tests occur in no training text and cannot be learned: "
            + ", ".join(absent[:5]),
            UserWarning,
            stacklevel=3,
        )
    return tuple(sorted({*train, *test}))
