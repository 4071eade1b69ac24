"""Softmax regression on hashed words: features as the formula has them, exact clipping."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from foretell.data.text import TextSet
from foretell.errors import ParameterError
from foretell.learners.language import BagExamples, BagOfWordsLearner, BagReader
from foretell.training import fit
from foretell.training.private import ExactClipper, PrivateTraining


def topics(size: int = 120, seed: int = 0) -> TextSet:
    """Texts of two labels whose words overlap."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(["car", "sea"], size)
    words = {"car": ["wheel", "engine", "road", "fast"], "sea": ["wave", "fish", "boat", "fast"]}
    texts = [rng.choice(words[label], rng.integers(2, 9)).tolist() for label in labels]
    return TextSet.from_texts(texts, labels.tolist())


def test_features_are_those_of_the_formula():
    text = TextSet.from_texts(["a b a", "b", "c c c d"], ["x", "y", "x"])
    reader = BagReader.learn(text, features=4_096)
    found = BagExamples(text, reader).batch(np.array([2, 0]))["features"].numpy()
    having = Counter(word for tokens in text.tokens for word in set(tokens))
    for row, tokens in zip(found, [text.tokens[2], text.tokens[0]], strict=True):
        expected = np.zeros(4_096)
        for word, count in Counter(tokens).items():
            idf = math.log(4 / (1 + having[word])) + 1
            expected[reader.vocabulary.encode([word])[0] - 2] = (1 + math.log(count)) * idf
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), rtol=1e-6)


def test_without_idf_nothing_is_learned_of_the_texts():
    first = BagReader.learn(topics(seed=0), idf=False, intents=("car", "sea"))
    second = BagReader.learn(topics(seed=1), idf=False, intents=("car", "sea"))
    assert first == second and first.idf is None
    assert BagReader.from_dict(first.to_dict()) == first


def test_it_learns_and_reads_labels_it_never_saw_as_none():
    text = topics()
    reader = BagReader.learn(text, features=256)
    learner, examples = BagOfWordsLearner(256, 2), BagExamples(text, reader)
    fit(learner, examples, max_steps=60, batch_size=16, optimizer="sgd", learning_rate=2.0)
    batch = examples.batch(np.arange(len(examples)))
    assert (learner(batch).intent.argmax(-1) == batch["intent"]).float().mean() > 0.95
    other = BagExamples(TextSet.from_texts(["wheel"], ["air"]), reader)
    assert learner.loss(other.batch(np.array([0]))).tolist() == [0.0]
    assert BagExamples(TextSet.from_texts(["wheel"]), reader).batch(np.array([0])).keys() == {
        "features"
    }


def test_clipping_is_exact_without_forming_gradients():
    text = topics()
    examples = BagExamples(text, BagReader.learn(text, features=64))
    learner = BagOfWordsLearner(64, 2)
    with torch.no_grad():
        learner.intent.weight.normal_(generator=torch.Generator().manual_seed(0))
    batch = examples.batch(np.arange(20))
    clipper = ExactClipper(learner)
    found = clipper(
        batch, lambda b: (learner.loss(b), torch.ones(20)), lambda n: (0.1 / n).clamp(max=1)
    )
    assert clipper.names() == []
    loss = learner.loss({k: v[:1] for k, v in batch.items()})
    gradients = torch.autograd.grad(loss.sum(), list(learner.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    torch.testing.assert_close(found.norms[0], norm)


def test_private_training_states_its_price():
    text = topics(400)
    learner, examples = (
        BagOfWordsLearner(64, 2),
        BagExamples(text, BagReader.learn(text, features=64, idf=False)),
    )
    private = PrivateTraining(noise_multiplier=1.0)
    fit(
        learner,
        examples,
        strategies=[private],
        max_steps=20,
        batch_size=40,
        learning_rate=0.5,
        optimizer="sgd",
    )
    assert 0 < private.statement().epsilon < 10


def test_shapes_out_of_range_are_refused():
    with pytest.raises(ParameterError, match="two labels or more"):
        BagOfWordsLearner(10, 1)
