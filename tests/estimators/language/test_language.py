"""Classifier, tagger, answers, text to text, language model: fit, predict, score, save, load."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.base import clone

from foretell.data.text import PairSet, QuestionSet, SubwordTokenizer, TextSet
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.estimators.language import (
    NLU,
    LanguageModel,
    Seq2Seq,
    SequenceTagger,
    SpanQA,
    TextClassifier,
)
from foretell.evaluation.language import (
    evaluate_answers,
    evaluate_language_model,
    evaluate_understanding,
)
from foretell.training.private import PrivateTraining

NAMES = "ann bob eve max tim joe kim lea".split()
PLACES = "rome oslo bern kiev lima riga".split()


def told(size: int = 240, seed: int = 0) -> TextSet:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(size):
        name, place = str(rng.choice(NAMES)), str(rng.choice(PLACES))
        verb = str(rng.choice(["lives", "works"]))
        rows.append(([name, verb, "in", place], verb, ["B-who", "O", "O", "B-where"]))
    return TextSet.from_texts([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


def asked(size: int = 240, seed: int = 0) -> QuestionSet:
    rows = []
    for tokens in told(size, seed).tokens:
        context = f"{' '.join(tokens)} ."
        answer, word = (tokens[3], "where") if len(rows) % 2 else (tokens[0], "who")
        rows.append({"context": context, "question": f"{word} is it ?", "answers": [answer],
                     "starts": [context.index(answer)]})  # fmt: skip
    return QuestionSet.from_frame(pl.DataFrame(rows))


def turned(size: int = 240, seed: int = 0) -> PairSet:
    tokens = told(size, seed).tokens
    return PairSet.from_texts([" ".join(t) for t in tokens], [f"{t[3]} has {t[0]}" for t in tokens])


SMALL = {"embedding": 12, "hidden": 12, "threads": 1, "learning_rate": 1e-2, "batch_size": 24}
MODELS = {
    "bag": (lambda **o: TextClassifier(features=64, max_steps=60, **o), told),
    "classifier": (lambda **o: TextClassifier("bilstm", max_steps=60, **{**SMALL, **o}), told),
    "tagger": (lambda **o: SequenceTagger(max_steps=60, **{**SMALL, **o}), told),
    "answers": (lambda **o: SpanQA(max_steps=120, **{**SMALL, **o}), asked),
    "pairs": (lambda **o: Seq2Seq(max_steps=200, dropout=0.0, beams=2, **{**SMALL, **o}), turned),
    "stream": (lambda **o: LanguageModel(max_steps=150, length=12, **{**SMALL, **o}), told),
}


@pytest.fixture(scope="module")
def fitted() -> dict:
    return {name: make().fit(data()) for name, (make, data) in MODELS.items()}


def quality(name: str, model, data) -> float:
    if name == "pairs":
        return float(
            np.mean([a == b[0] for a, b in zip(model.predict(data), data.references, strict=True)])
        )
    return model.score(data)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_they_learn(fitted, name):
    least = {"stream": -1.0, "pairs": 0.9}.get(name, 0.95)
    assert quality(name, fitted[name], MODELS[name][1](60, seed=1)) > least


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_was_saved_is_what_was_fitted(fitted, name, tmp_path):
    model, data = fitted[name], MODELS[name][1](20, seed=2)
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model")
    np.testing.assert_array_equal(again.losses(data), model.losses(data))
    assert clone(again).get_params() == model.get_params()
    assert again.losses(data).shape == (20,)
    if name == "stream":
        assert again.predict(["ann "], length=9) == model.predict(["ann "], length=9)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_private_training_says_what_it_takes_for_public(name):
    make, data = MODELS[name]
    model = make().set_params(max_steps=3)
    model.fit(data(120), strategies=[PrivateTraining(noise_multiplier=1.0)])
    assert 0 < model.privacy_.epsilon < 20
    assert "public" in " ".join(model.privacy_.assumptions)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_bad_input_is_named(name):
    make, data = MODELS[name]
    with pytest.raises(NotFittedError, match="call fit"):
        make().losses(data(5))
    with pytest.raises(DataError, match="is needed, not a list"):
        make().fit(["text"])
    with pytest.raises(ParameterError, match="batch_size must be a whole number"):
        make(batch_size=0).fit(data(5))


def test_labels_that_are_missing_are_named():
    plain = TextSet.from_texts(["a b"])
    with pytest.raises(DataError, match="two labels or more"):
        TextClassifier().fit(plain)
    with pytest.raises(DataError, match="a tag for each token"):
        SequenceTagger().fit(plain)
    with pytest.raises(DataError, match="no targets"):
        Seq2Seq().fit(PairSet.from_texts(["a"]))
    with pytest.raises(DataError, match="no answers"):
        SpanQA().fit(QuestionSet.from_frame(pl.DataFrame({"context": ["a"], "question": ["b"]})))
    with pytest.raises(ParameterError, match="encoder must be one of bag_of_words"):
        TextClassifier("gpt").fit(told(5))
    with pytest.raises(ParameterError, match="model must be one of"):
        LanguageModel("rnn").fit(plain)


def test_a_hashing_vocabulary_needs_no_word_about_words():
    model = NLU(vocabulary=64, max_steps=2, **SMALL)
    model.fit(told(120), strategies=[PrivateTraining(noise_multiplier=1.0)])
    assert not any("vocabulary" in each for each in model.privacy_.assumptions)


def test_predicted_spans_begin_with_b_whatever_the_model_says():
    text = TextSet.from_texts(
        [["ann", "bob", "in", "rome"]] * 8, slots=[["B-who", "I-who", "O", "B-where"]] * 8
    )
    model = SequenceTagger(max_steps=1, **{**SMALL, "batch_size": 8}).fit(text)
    with torch.no_grad():
        model.learner_.slots.weight.zero_()
        model.learner_.slots.bias.copy_(
            torch.tensor([5.0 if tag == "I-who" else 0.0 for tag in model.reader_.slots])
        )
    assert model.predict([["eve", "lives", "in", "oslo"]]).slots == [["B-who", *["I-who"] * 3]]


def test_answers_beyond_what_is_read_are_left_out_and_wrong():
    context = "a " * 40 + "end"
    far = pl.DataFrame(
        {"context": [context], "question": ["what ?"], "answers": [["end"]], "starts": [[80]]}
    )
    both = QuestionSet.from_frame(pl.concat([asked(60).frame, far]))
    model = SpanQA(max_steps=20, max_length=20, **SMALL).fit(both)
    assert model.rows_left_out_ == 1
    found = model.predict(both)
    assert len(found) == 61 and found.texts[-1] != "end"
    assert evaluate_answers(both, found)["questions"] == 61
    assert found.to_polars().height == 61
    with pytest.raises(DataError, match="Raise max_length"):
        SpanQA(max_length=20, **SMALL).fit(QuestionSet.from_frame(far))


def test_unseen_words_are_copied(fitted):
    model = fitted["pairs"]
    found = model.predict(["zoe lives in perth"], beams=1)
    assert "perth" in found[0] or "zoe" in found[0]
    assert model.predict(turned(10), beams=1) == [
        model.predict([source], beams=1)[0] for source in turned(10).sources
    ]


def test_likelihoods_are_those_of_the_chain_rule(fitted):
    model, text = fitted["stream"], told(6, seed=3)
    scores = evaluate_language_model(model, text)
    found = model.likelihoods(text)
    letters = sum(len(" ".join(tokens)) + 1 for tokens in text.tokens)
    assert found.units.sum() == found.characters.sum() == letters
    assert scores["nats_per_unit"] == pytest.approx(found.nats.sum() / letters)
    assert scores["perplexity"] == pytest.approx(np.exp(scores["nats_per_unit"]))
    assert scores["bits_per_character"] == pytest.approx(scores["nats_per_unit"] / np.log(2))
    assert scores["unknown"] == 0


def test_a_gru_and_a_transformer_write_what_they_read():
    for kind in ("gru", "transformer"):
        model = LanguageModel(kind, level="word", max_steps=150, **SMALL).fit(told())
        said = model.predict(["ann"], length=8, temperature=0)[0].split()
        assert said[0] == "ann" and said[1] in ("lives", "works") and said[2] == "in"
        assert model.predict([""], length=3)[0]
    with pytest.raises(ParameterError, match="temperature"):
        model.predict(["ann"], temperature=-1)


@pytest.mark.parametrize("estimator", [TextClassifier, SequenceTagger, SpanQA])
def test_hugging_face_models_of_a_folder_are_trained_and_saved(estimator, tmp_path):
    transformers = pytest.importorskip("transformers")
    pieces = SubwordTokenizer.train(told(), size=80)
    pieces.save(tmp_path / "pretrained")
    config = transformers.AutoConfig.for_model(
        "bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40, vocab_size=len(pieces),
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "pretrained")
    data = asked if estimator is SpanQA else told
    model = estimator(
        "hugging_face", pretrained=str(tmp_path / "pretrained"), threads=1, learning_rate=5e-3,
        max_steps=80, batch_size=24, optimizer="adam",
    )  # fmt: skip
    model.fit(data())
    # Weights are random at first: to find that answers are names and places is half of the task.
    assert model.score(data(60, seed=1)) > (0.35 if estimator is SpanQA else 0.8)
    model.save(tmp_path / "model")
    import shutil

    shutil.rmtree(tmp_path / "pretrained")  # what was saved needs the folder no more
    again = estimator.load(tmp_path / "model")
    np.testing.assert_array_equal(again.losses(data(9)), model.losses(data(9)))
    if estimator is SequenceTagger:
        scores = evaluate_understanding(told(30), again.predict(told(30)))
        assert scores["slot_f1"] == pytest.approx(again.score(told(30)))
    private = clone(again).set_params(
        pretrained=config.to_dict(), tokenizer=pieces, max_steps=2, max_length=30
    )
    private.fit(data(120), strategies=[PrivateTraining(noise_multiplier=1.0)])
    assert private.privacy_.epsilon > 0
