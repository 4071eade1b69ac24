"""Data of a federated run: clients, and tests by what they are about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data import registry
from foretell.data.partitions import (
    FeatureCluster,
    LabelDirichlet,
    Natural,
    Partitioner,
    QuantityDirichlet,
)
from foretell.data.public import newsgroups20
from foretell.data.simulators.device_topics import device_topics
from foretell.data.text import TextSet
from foretell.errors import DataError
from foretell.learners.contract import Learner
from foretell.learners.language.bag_of_words import BagExamples, BagOfWordsLearner, BagReader
from foretell.runs.building import check_arguments
from foretell.runs.federated.recipe import Recipe
from foretell.training.examples import Examples, TensorExamples

_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Federation:
    """Clients' data and the server's tests.

    Args:
        examples: all training examples.
        parts: rows of each client.
        tests: test examples.
        labels: their classes ``(M,)``.
        order: moment of each training example in ``[0, 1)`` ``(N,)``, for periods.
        test_order: the same of test examples ``(M,)``.
        test_activity: activity of the client that each test example belongs to ``(M,)``; 0 where
            the client has no training data, nan where it is not known.
        slices: further groups of test examples by name, masks ``(M,)``.
        build: makes the learner.
        about: what the run's record says of the data.
    """

    examples: Examples
    parts: list[NDArray[np.int64]]
    tests: Examples
    labels: NDArray[np.int64]
    order: NDArray[np.float64]
    test_order: NDArray[np.float64]
    test_activity: NDArray[np.float64]
    build: Callable[[], Learner]
    about: dict[str, Any]
    slices: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def activity(self) -> NDArray[np.float64]:
        """Examples of each client ``(clients,)``."""
        return np.array([len(part) for part in self.parts], dtype=float)

    def right(self, learner: Learner) -> NDArray[np.bool_]:
        """Which test examples a learner gets right ``(M,)``."""
        return self._judge(learner)

    @property
    def _judge(self) -> Callable[[Learner], NDArray[np.bool_]]:
        judge = self.__dict__.get("_cached")
        if judge is None:
            judge = _judge(self.tests, self.labels)
            object.__setattr__(self, "_cached", judge)
        return judge  # type: ignore[no-any-return]


def load_federation(recipe: Recipe, seed: int) -> Federation:
    """The federation of a recipe; a simulated one depends on the seed.

    Raises:
        RecipeError: an option does not fit the source.
        DataError: the data cannot be found, read or used.
    """
    if recipe.data.source == "device_topics":
        return _simulated(recipe.model_dump_json(include={"data", "learner"}), recipe, seed)
    return _newsgroups(recipe.model_dump_json(include={"data", "clients", "learner"}), recipe)


_kept: dict[str, Federation] = {}


def _newsgroups(key: str, recipe: Recipe) -> Federation:
    if key in _kept:
        return _kept[key]
    check_arguments("data.options", newsgroups20, recipe.data.options, ("folder",))
    posts = newsgroups20(registry.path("newsgroups20"), **recipe.data.options)
    if recipe.data.stop_words:
        posts = without_stop_words(posts)
    # The order inside a group is that of time; groups have no clock in common.
    posts = TextSet(
        posts.frame.with_columns(
            ((pl.col("doc_id").rank("ordinal").over("intent", "split") - 1)
             / pl.len().over("intent", "split")).alias("moment")
        ),
        posts.notes,
    )  # fmt: skip
    train, test = posts.part("train"), posts.part("test")
    reader = BagReader.learn(train, features=recipe.learner.features)
    tests = BagExamples(test, reader)
    partitioner = _partitioner(recipe)
    partitioner.dataset = train
    moments = train.frame["moment"].to_numpy()
    parts = [part[np.argsort(moments[part], kind="stable")] for part in partitioner.parts]
    test_activity = np.full(len(test), np.nan)
    if isinstance(partitioner, Natural):
        sizes = dict(
            zip(partitioner.names.tolist(), partitioner.sizes.astype(float).tolist(), strict=True)
        )
        owners = test.frame[recipe.clients.by].to_list()
        test_activity = np.array([sizes.get(owner, 0.0) for owner in owners])
    labels = tests.intents
    assert labels is not None
    features, classes, bias = recipe.learner.features, len(reader.intents), recipe.learner.bias
    federation = Federation(
        examples=BagExamples(train, reader),
        parts=parts,
        tests=tests,
        labels=labels,
        order=moments,
        test_order=test.frame["moment"].to_numpy(),
        test_activity=test_activity,
        build=lambda: linear(features, classes, bias),
        about={
            "source": "newsgroups20",
            "clients": len(parts),
            "examples": len(train),
            "tests": len(test),
            "partition": partitioner.summary("intent"),
            "fingerprint": train.fingerprint(),
            **_concentration(np.array([len(p) for p in parts])),
        },
    )
    _kept.clear()
    _kept[key] = federation
    return federation


def _simulated(key: str, recipe: Recipe, seed: int) -> Federation:
    check_arguments("data.options", device_topics, recipe.data.options, ("seed",))
    made = device_topics(seed=seed, **recipe.data.options)
    order = np.random.default_rng((seed, 1)).random(len(made.topics))
    natural = Natural(made.devices)
    natural.dataset = made.devices
    parts = [part[np.argsort(order[part], kind="stable")] for part in natural.parts]
    classes = int(max(made.topics.max(), made.test_topics.max())) + 1
    width, bias = made.features.shape[1], recipe.learner.bias
    digest = hashlib.sha256(made.features.tobytes() + made.topics.tobytes()).hexdigest()
    return Federation(
        examples=TensorExamples({"features": made.features, "intent": made.topics}),
        parts=parts,
        tests=TensorExamples({"features": made.test_features, "intent": made.test_topics}),
        labels=made.test_topics,
        order=order,
        test_order=np.zeros(len(made.test_topics)),
        test_activity=np.full(len(made.test_topics), np.nan),
        build=lambda: linear(width, classes, bias),
        about={
            "source": "device_topics",
            "clients": len(parts),
            "examples": len(made.topics),
            "tests": len(made.test_topics),
            "fingerprint": digest,
            **_concentration(np.array([len(p) for p in parts])),
        },
        slices={"common topics": ~made.test_rare, "rare topics": made.test_rare},
    )


def linear(features: int, classes: int, bias: bool) -> BagOfWordsLearner:
    """Softmax regression; without a bias it stays at 0 and never travels.

    Clients of one or two classes pull a bias their own way in every step, and the mean of what
    they send is about who was chosen rather than about what is said.
    """
    learner = BagOfWordsLearner(features, classes)
    if not bias:
        learner.intent.bias.requires_grad_(False)
    return learner


def without_stop_words(text: TextSet) -> TextSet:
    """Texts without function words; one that has no other keeps the word ``empty``."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    stop = sorted(ENGLISH_STOP_WORDS)
    kept = pl.col("tokens").list.eval(pl.element().filter(~pl.element().is_in(stop)))
    frame = text.frame.with_columns(kept.alias("tokens")).with_columns(
        pl.when(pl.col("tokens").list.len() > 0)
        .then(pl.col("tokens"))
        .otherwise(pl.lit(["empty"]))
        .alias("tokens")
    )
    return TextSet(frame, text.notes)


def _partitioner(recipe: Recipe) -> Partitioner:
    section = recipe.clients
    if section.partition == "natural":
        return Natural(section.by)
    if section.partition == "label_dirichlet":
        return LabelDirichlet(
            section.count, "intent", section.alpha, scheme=section.scheme, seed=section.seed
        )
    if section.partition == "quantity_dirichlet":
        return QuantityDirichlet(section.count, section.alpha, seed=section.seed)
    return FeatureCluster(
        section.count, "tokens", section.alpha, clusters=section.clusters, seed=section.seed
    )


def _concentration(sizes: NDArray[np.int64]) -> dict[str, Any]:
    """How unequal clients are."""
    ordered = np.sort(sizes)[::-1]
    tenth = max(1, len(ordered) // 10)
    return {
        "median_activity": float(np.median(sizes)),
        "largest_activity": int(ordered[0]),
        "top_tenth_share": float(ordered[:tenth].sum() / ordered.sum()),
    }


def sparse_features(tests: Examples) -> Any:
    """Features of all examples as one sparse matrix ``(M, F)``."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    blocks = []
    for begin in range(0, len(tests), _CHUNK):
        rows = np.arange(begin, min(begin + _CHUNK, len(tests)))
        blocks.append(sparse.csr_matrix(tests.batch(rows, rng)["features"].numpy()))
    return sparse.vstack(blocks, format="csr")


def _judge(tests: Examples, labels: NDArray[np.int64]) -> Callable[[Learner], NDArray[np.bool_]]:
    """A function that says which tests a linear learner gets right, by one sparse product."""
    table = sparse_features(tests)

    def right(learner: Learner) -> NDArray[np.bool_]:
        if not isinstance(learner, BagOfWordsLearner):
            raise DataError(f"{type(learner).__name__} is not judged here")
        weight = learner.intent.weight.detach().numpy()
        scores = table @ weight.T + learner.intent.bias.detach().numpy()
        return np.asarray(scores.argmax(1) == labels)

    return right
