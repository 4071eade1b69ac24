"""Joint models: shapes, independence of padding and neighbours, exact clipping throughout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foretell.data.text import UNKNOWN, TextSet
from foretell.errors import ParameterError
from foretell.learners.language import (
    IGNORED,
    CharacterCNN,
    JointLearner,
    JointOutput,
    JointShape,
    TextExamples,
    TextReader,
)
from foretell.training.per_sample import example_by_example
from foretell.training.private import ExactClipper

WORDS = "play some jazz at nine in the morning wake me rain tomorrow please now".split()
KINDS = [("bilstm", False), ("bilstm", True), ("bilstm", "only"), ("transformer", False),
         ("transformer", True), ("transformer", "only")]  # fmt: skip


def utterances(size: int = 12, seed: int = 0) -> TextSet:
    rng = np.random.default_rng(seed)
    texts = [[WORDS[i] for i in rng.integers(0, len(WORDS), n)] for n in rng.integers(1, 9, size)]
    slots = [rng.choice(["O", "B-a", "I-a"], len(t)).tolist() for t in texts]
    intents = rng.choice(["x", "y", "z"], size).tolist()
    return TextSet.from_texts(texts, intents, slots)


def model(kind: str, characters: bool | str, text: TextSet, **options):
    reader = TextReader.learn(text, characters=characters)
    shape = JointShape(
        0 if characters == "only" else len(reader.words), len(reader.intents), len(reader.slots),
        kind, embedding=6, hidden=8,
        heads=2, characters=0 if reader.characters is None else len(reader.characters),
        character_filters=5, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return JointLearner(shape), TextExamples(text, reader)


@pytest.mark.parametrize("kind, characters", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_no_gradient_is_formed_one_by_one_and_norms_are_exact(kind, characters, layers):
    learner, examples = model(kind, characters, utterances(), layers=layers)
    learner = learner.double()
    batch = examples.batch(np.arange(12))
    clipper = ExactClipper(learner)

    def factors(norms):
        return (0.5 * norms.max() / norms).clamp(max=1)

    ones = torch.ones(12, dtype=torch.float64)
    result = clipper(batch, lambda given: (learner.loss(given), ones), factors)
    assert clipper.names() == []
    found = example_by_example(learner, batch, list(learner.parameters()))
    norms = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
    torch.testing.assert_close(result.norms, norms, rtol=1e-9, atol=0)
    for parameter, gradient in found.items():
        expected = torch.tensordot(factors(norms), gradient, dims=1)
        torch.testing.assert_close(result.gradients[parameter], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind, characters", KINDS)
def test_neither_padding_nor_neighbours_change_an_example(kind, characters):
    learner, examples = model(kind, characters, utterances())
    learner = learner.eval().double()
    whole = learner(examples.batch(np.arange(12)))
    losses = learner.loss(examples.batch(np.arange(12)))
    for i in range(12):
        batch = examples.batch(np.array([i]))
        alone, length = learner(batch), int(batch["mask"].sum())
        torch.testing.assert_close(alone.intent[0], whole.intent[i])
        torch.testing.assert_close(alone.slots[0], whole.slots[i, :length])
        torch.testing.assert_close(learner.loss(batch)[0], losses[i])


def test_the_score_is_the_intents_and_the_mean_of_the_examples_own_tokens():
    learner, _ = model("bilstm", False, utterances())
    intent = torch.zeros(2, 3)
    slots = torch.zeros(2, 4, 3)
    slots[0, 0, 1] = 1.0
    batch = {
        "intent": torch.tensor([0, 2]),
        "slots": torch.tensor([[1, 0, IGNORED, IGNORED], [2, 0, 1, IGNORED]]),
    }
    sure = math.log(math.e + 2) - 1
    scores = learner.score(JointOutput(intent, slots), batch)
    expected = [math.log(3) + (sure + math.log(3)) / 2, 2 * math.log(3)]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_one_part_alone_is_a_classifier_or_a_tagger():
    text = utterances()
    reader = TextReader.learn(text)
    batch = TextExamples(text, reader).batch(np.arange(5))
    classifier = JointLearner(JointShape(len(reader.words), 3, 0, embedding=4, hidden=4))
    tagger = JointLearner(JointShape(len(reader.words), 0, 3, embedding=4, hidden=4))
    assert classifier(batch).slots.shape[2] == 0 and classifier.loss(batch).shape == (5,)
    assert tagger(batch).intent.shape == (5, 0) and tagger.loss(batch).shape == (5,)
    with pytest.raises(ParameterError, match="intents or slots"):
        JointLearner(JointShape(10, 0, 0))


def test_embedded_words_can_be_made_up():
    """What attacks that search inputs by gradient need."""
    learner, examples = model("transformer", True, utterances())
    batch = examples.batch(np.arange(3))
    embedded = learner.embed(batch).detach().requires_grad_()
    encoding = learner.contextualise(embedded, batch["mask"])
    torch.testing.assert_close(encoding, learner.encode(batch))
    learner.score(learner.decode(encoding, batch), batch).sum().backward()
    assert embedded.grad is not None and embedded.grad.abs().sum() > 0


def test_characters_of_one_word_stay_within_it():
    torch.manual_seed(0)
    network = CharacterCNN(20, 4, 6).double()
    words = torch.randint(2, 20, (1, 4, 5))
    words[0, 1, 3:] = 0
    words[0, 2] = 0
    vectors = network(words)
    changed = words.clone()
    changed[0, 0] = torch.randint(2, 20, (5,))
    moved = network(changed)
    torch.testing.assert_close(vectors[0, 1:], moved[0, 1:])
    assert not torch.allclose(vectors[0, 0], moved[0, 0])
    assert not vectors[0, 2].any()
    wider = torch.nn.functional.pad(words, (0, 3))
    torch.testing.assert_close(network(wider), vectors)
    with pytest.raises(ParameterError, match="odd"):
        CharacterCNN(20, kernel=2)


def test_words_that_are_spelled_alike_are_read_alike_where_only_characters_are_read():
    text = utterances()
    reader = TextReader.learn(text, characters="only")
    assert reader.words.words == () and TextReader.from_dict(reader.to_dict()) == reader
    learner, examples = model("bilstm", "only", text)
    names = [name for name, _ in learner.embedding.named_parameters()]
    assert names and not any(name.startswith("words") for name in names)
    assert learner.embedding.width == 5
    batch = examples.batch(np.arange(12))
    torch.testing.assert_close(
        learner.embed(batch), learner.embed({**batch, "tokens": batch["tokens"] + 1})
    )
    with pytest.raises(ParameterError, match="a table, by their characters"):
        JointLearner(JointShape(0, 2, 2))


def test_examples_are_sorted_and_labels_follow():
    text = utterances(30)
    reader = TextReader.learn(text)
    examples = TextExamples(text, reader)
    assert np.all(np.diff(examples.lengths) >= 0)
    batch = examples.batch(np.arange(30))
    for row, source in enumerate(examples.rows):
        length = int(batch["mask"][row].sum())
        assert reader.words.decode(batch["tokens"][row, :length].tolist()) == text.tokens[source]
        tags = [reader.slots[code] for code in batch["slots"][row, :length]]
        assert tags == text.slots[source]
        assert (batch["slots"][row, length:] == IGNORED).all()
        assert (batch["tokens"][row, length:] == 0).all()
        assert reader.intents[batch["intent"][row]] == text.intents[source]


def test_words_and_labels_that_training_did_not_see():
    reader = TextReader.learn(utterances())
    text = TextSet.from_texts(["play polka"], ["dance"], ["O B-dance"])
    batch = TextExamples(text, reader).batch(np.array([0]))
    assert batch["tokens"][0, 1] == UNKNOWN
    assert batch["intent"].tolist() == [IGNORED]
    assert batch["slots"][0].tolist() == [reader.slots.index("O"), IGNORED]


def test_words_are_hidden_at_the_rate_that_was_asked_for():
    text = utterances(400)
    reader = TextReader.learn(text)
    examples = TextExamples(text, reader, unknown_rate=0.3)
    batch = examples.batch(np.arange(400), np.random.default_rng(0))
    hidden = (batch["tokens"] == UNKNOWN).sum() / batch["mask"].sum()
    assert float(hidden) == pytest.approx(0.3, abs=0.04)
    assert not (examples.batch(np.arange(400))["tokens"] == UNKNOWN).any()


def test_readers_come_back_from_json():
    reader = TextReader.learn(utterances(), characters=True)
    assert TextReader.from_dict(reader.to_dict()) == reader
    few = TextReader.learn(utterances(), min_count=1000)
    assert few.words.words == ()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoder": "gru"}, "unknown encoder 'gru'"),
        ({"encoder": "transformer", "hidden": 9}, "divisible by heads"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_shapes_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        JointLearner(JointShape(10, 2, 2, **options))
