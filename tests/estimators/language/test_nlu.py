"""NLU: fit, predict, save, load, and private training through the one loop."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foretell.data import registry
from foretell.data.text import TextSet
from foretell.errors import (
    ArtefactError,
    DataError,
    NotFittedError,
    ParameterError,
    TrainingError,
)
from foretell.estimators import NLU
from foretell.evaluation.language import evaluate_understanding

GENRES, TIMES = ["jazz", "folk", "soul", "rock"], ["nine", "noon", "dawn", "dusk"]


def phrases(size: int = 300, seed: int = 0) -> TextSet:
    """Two intents and two slots that a word tells apart."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(size):
        if rng.random() < 0.5:
            more = ["please"] * int(rng.integers(0, 3))
            rows.append((["play", "some", rng.choice(GENRES), *more], "play", "B-genre"))
        else:
            rows.append((["wake", "me", "at", rng.choice(TIMES)], "alarm", "B-time"))
    texts = [[str(word) for word in words] for words, _, _ in rows]
    slots = [
        [tag if word in GENRES + TIMES else "O" for word in words]
        for words, (_, _, tag) in zip(texts, rows, strict=True)
    ]
    return TextSet.from_texts(texts, [intent for _, intent, _ in rows], slots)


def small(**options) -> NLU:
    defaults = {"embedding": 8, "hidden": 8, "heads": 2, "max_steps": 60, "batch_size": 32,
                "learning_rate": 1e-2, "threads": 1}  # fmt: skip
    return NLU(**{**defaults, **options})


@pytest.fixture(scope="module")
def fitted() -> NLU:
    return small().fit(phrases())


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "bilstm"},
        {"encoder": "transformer"},
        {"characters": True, "dropout": 0.1, "unknown_rate": 0.1},
        {"characters": "only"},
    ],
)
def test_learns_what_a_word_tells(options):
    scores = evaluate_understanding(
        test := phrases(80, 1), small(**options).fit(phrases()).predict(test)
    )
    assert scores["intent_accuracy"] > 0.97 and scores["slot_f1"] > 0.9


def test_predictions_come_in_the_order_of_the_utterances(fitted):
    result = fitted.predict(["wake me at noon", "play some soul please please", "play some jazz"])
    assert result.intents.tolist() == ["alarm", "play", "play"]
    assert result.slots[0] == ["O", "O", "O", "B-time"]
    assert result.slots[1] == ["O", "O", "B-genre", "O", "O"]
    assert result.probabilities.sum(1) == pytest.approx(np.ones(3))
    table = result.to_polars()
    assert table["spans"][0].to_list() == [{"kind": "time", "words": "noon"}]
    one = fitted.predict([["play", "some", "jazz"]])
    np.testing.assert_allclose(one.probabilities[0], result.probabilities[2], rtol=1e-5)
    assert fitted.classes_.tolist() == ["alarm", "play"]


def test_losses_are_those_of_training(fitted):
    text = phrases(20, 2)
    losses = fitted.losses(text)
    alone = np.concatenate([fitted.losses(text.select([i])) for i in range(20)])
    np.testing.assert_allclose(losses, alone, rtol=1e-4, atol=1e-6)


def test_classifier_and_tagger():
    text = phrases()
    intents = TextSet.from_texts(text.tokens, text.intents.tolist())
    result = small().fit(intents).predict(text.select(range(5)))
    assert result.slots is None and len(result.intents) == 5
    tags = TextSet.from_texts(text.tokens, slots=text.slots)
    result = small().fit(tags).predict(text.select(range(5)))
    assert result.probabilities.shape == (5, 0) and len(result.slots) == 5
    assert set(evaluate_understanding(text.select(range(5)), result)) == {
        "utterances", "slot_precision", "slot_recall", "slot_f1", "exact_match",
    }  # fmt: skip


def test_same_seed_same_weights():
    """Twice the same, private or not: the seed decides."""
    private = pytest.importorskip("foretell.training.private")
    pytest.importorskip("dp_accounting", reason="needs the extra 'private'")
    for make in (list, lambda: [private.PrivateTraining(1.0, accountant="rdp", noise_seed=0)]):
        one = small(max_steps=5, accumulate=2).fit(phrases(), strategies=make())
        two = small(max_steps=5, accumulate=2).fit(phrases(), strategies=make())
        three = small(max_steps=5, random_state=1).fit(phrases(), strategies=make())
        states = [m.learner_.state_dict() for m in (one, two, three)]
        assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
        assert not all(torch.equal(states[0][n], states[2][n]) for n in states[0])


def test_characters_alone_keep_no_word(tmp_path):
    model = small(characters="only", max_steps=5).fit(phrases())
    assert model.reader_.words.words == ()
    assert not any("words" in name for name in model.learner_.state_dict())
    model.save(tmp_path)
    again = NLU.load(tmp_path)
    assert np.array_equal(again.losses(phrases()), model.losses(phrases()))
    assert again.characters == "only"
    for options, message in (
        ({"characters": "alone"}, "True, False or 'only'"),
        ({"unknown_rate": 0.1}, "unknown_rate at 0"),
        ({"tokenizer": "pieces"}, "without a tokenizer"),
    ):
        with pytest.raises(ParameterError, match=message):
            small(**{"characters": "only", **options}).fit(phrases())


@pytest.mark.parametrize(
    "encoder, characters", [("bilstm", True), ("transformer", False), ("bilstm", "only")]
)
def test_private_training_keeps_to_its_budget_and_says_what_it_assumes(
    encoder, characters, tmp_path
):
    pytest.importorskip("dp_accounting", reason="needs the extra 'private'")
    from foretell.training.private import PrivateTraining

    strategy = PrivateTraining(target_epsilon=8, accountant="rdp", noise_seed=0)
    model = small(encoder=encoder, characters=characters, accumulate=2, learning_rate=2e-2)
    model.fit(phrases(1000), strategies=[strategy])
    assert strategy.clipper.names() == []
    assert evaluate_understanding(t := phrases(80, 1), model.predict(t))["intent_accuracy"] > 0.9
    assert 7.9 < model.privacy_.epsilon <= 8
    learned = "characters" if characters == "only" else "vocabulary"
    assert any(learned in a for a in model.privacy_.assumptions)
    model.save(tmp_path)
    assert NLU.load(tmp_path).privacy_ == model.privacy_
    words = sorted({word for tokens in phrases(1000).tokens for word in tokens})
    public = small(vocabulary=words, max_steps=2).fit(
        phrases(1000), strategies=[PrivateTraining(1.0, accountant="rdp", noise_seed=0)]
    )
    assert not any("vocabulary" in a for a in public.privacy_.assumptions)


def test_private_training_does_not_choose_weights_by_validation():
    pytest.importorskip("dp_accounting", reason="needs the extra 'private'")
    from foretell.training.private import PrivateTraining

    options = {"max_steps": 6, "validate_every": 1, "learning_rate": 0.3}
    one = small(**options).fit(
        phrases(), strategies=[PrivateTraining(1.0, accountant="rdp", noise_seed=0)]
    )
    two = small(**options).fit(
        phrases(),
        strategies=[PrivateTraining(1.0, accountant="rdp", noise_seed=0)],
        validation=phrases(50, 1),
    )
    states = [m.learner_.state_dict() for m in (one, two)]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert two.result_.history[0]["validation"] is not None


def test_saved_models_predict_the_same(fitted, tmp_path):
    fitted.save(tmp_path)
    again = NLU.load(tmp_path)
    text = phrases(30, 3)
    np.testing.assert_array_equal(again.predict_proba(text), fitted.predict_proba(text))
    assert again.get_params() == fitted.get_params() and again.privacy_ is None


def test_damaged_artefacts_are_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    file = tmp_path / "model.json"
    document = json.loads(file.read_text())
    document["config"]["reader"]["words"].append("one-more")
    file.write_text(json.dumps(document))
    with pytest.raises(ArtefactError, match=r"embedding\.words\.weight has shape"):
        NLU.load(tmp_path)


def test_misuse_is_named(fitted):
    with pytest.raises(NotFittedError, match="call fit"):
        NLU().predict(["play"])
    with pytest.raises(DataError, match="a TextSet is needed, not a list"):
        NLU().fit(["play"])
    with pytest.raises(DataError, match="neither intents nor slots"):
        NLU().fit(TextSet.from_texts(["play"]))
    with pytest.raises(DataError, match=r"no token .*row 1"):
        fitted.predict(["play", " "])
    with pytest.raises(TrainingError, match="Strategy objects"):
        small().fit(phrases(), strategies=["private"])
    for options, message in [
        ({"encoder": "cnn"}, "encoder must be one of"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"batch_size": 32, "accumulate": 3}, "must be a multiple of accumulate"),
        ({"dropout": 1}, "dropout must lie"),
        ({"epochs": 0, "max_steps": None}, "epochs must be positive"),
        ({"encoder": "transformer", "heads": 3}, "divisible by heads"),
    ]:
        with pytest.raises(ParameterError, match=message):
            small(**options).fit(phrases())


def test_training_on_the_test_part_is_warned_of():
    text = TextSet.from_texts(["play jazz", "wake me"], ["a", "b"], splits=["train", "test"])
    with pytest.warns(UserWarning, match=r"all parts \(train, test\)"):
        small(max_steps=1).fit(text)


@pytest.mark.real_data
def test_snips_is_learned_in_a_few_steps(data_root, monkeypatch):
    monkeypatch.setenv("FORETELL_DATA", str(data_root))
    text = registry.load("snips")
    model = NLU(embedding=48, hidden=48, max_steps=60, batch_size=64, learning_rate=8e-3, threads=1)
    model.fit(text.part("train"))
    scores = evaluate_understanding(text.part("valid"), model.predict(text.part("valid")))
    assert scores["intent_accuracy"] > 0.85
