"""Every learner of language: losses of single examples, and clipping that is exact for each."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from foretell.data.text import PairSet, QuestionSet, SubwordTokenizer, TextSet
from foretell.learners.language import (
    JointLearner,
    JointShape,
    LanguageModelExamples,
    LanguageModelLearner,
    LanguageModelShape,
    PairExamples,
    PairReader,
    Seq2SeqLearner,
    Seq2SeqShape,
    SpanExamples,
    SpanLearner,
    SpanShape,
    StreamReader,
    TextExamples,
    TextReader,
)
from foretell.learners.language.span_reader import as_utterances
from foretell.training.per_sample import example_by_example
from foretell.training.private import ExactClipper

SIZE = 10
WORDS = "play some jazz at nine in the morning wake me rain tomorrow please now".split()
CONFIGS = {
    "bert": {"model_type": "bert", "intermediate_size": 16, "num_hidden_layers": 2,
             "hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 64},
    "distilbert": {"model_type": "distilbert", "dim": 8, "hidden_dim": 16, "n_layers": 2,
                   "n_heads": 2, "max_position_embeddings": 64},
    "roberta": {"model_type": "roberta", "intermediate_size": 16, "num_hidden_layers": 1,
                "hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 66},
}  # fmt: skip


def utterances(seed: int = 0) -> TextSet:
    rng = np.random.default_rng(seed)
    texts = [[WORDS[i] for i in rng.integers(0, len(WORDS), n)] for n in rng.integers(1, 9, SIZE)]
    slots = [rng.choice(["O", "B-a", "I-a"], len(t)).tolist() for t in texts]
    return TextSet.from_texts(texts, rng.choice(["x", "y", "z"], SIZE).tolist(), slots)


def questions() -> QuestionSet:
    rng = np.random.default_rng(1)
    rows = []
    for text in utterances(2).tokens:
        context = " ".join([*text, "the", "end", "."])
        answer = str(rng.choice(text))
        rows.append({"context": context, "question": f"what is {answer} ?", "answers": [answer],
                     "starts": [context.index(answer)]})  # fmt: skip
    return QuestionSet.from_frame(pl.DataFrame(rows))


def pairs() -> PairSet:
    texts = [" ".join(t) for t in utterances(3).tokens]
    return PairSet.from_texts(texts, [" ".join(reversed(t.split())) for t in texts])


def pretrained(kind: str, codes: int) -> dict:
    return {**CONFIGS[kind], "vocab_size": codes, "hidden_dropout_prob": 0.0, "dropout": 0.0,
            "attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0, "pad_token_id": 0,
            }  # fmt: skip


def joint(**options):
    pieces = options.pop("pieces", None)
    reader = TextReader.learn(utterances(), pieces=pieces, shift=options.pop("shift", 2),
                              characters=options.get("encoder") == "bilstm")  # fmt: skip
    letters = 0 if reader.characters is None else len(reader.characters)
    shape = JointShape(reader.codes, 3, 3, embedding=6, hidden=8, heads=2, characters=letters,
                       character_filters=5, **options)  # fmt: skip
    return JointLearner(shape), TextExamples(utterances(), reader)


def span(**options):
    pieces = options.pop("pieces", None)
    reader = TextReader.learn(as_utterances(questions()), pieces=pieces,
                              shift=options.pop("shift", 2),
                              characters=options.get("encoder") == "bilstm")  # fmt: skip
    letters = 0 if reader.characters is None else len(reader.characters)
    shape = SpanShape(reader.codes, embedding=6, hidden=8, heads=2, characters=letters,
                      character_filters=5, **options)  # fmt: skip
    return SpanLearner(shape), SpanExamples(questions(), reader, answerable=True)


def hugging_face(make, kind: str):
    pytest.importorskip("transformers")
    pieces = SubwordTokenizer.train(utterances(), size=60)
    return make(encoder="hugging_face", pretrained=pretrained(kind, len(pieces)), pieces=pieces,
                shift=0)  # fmt: skip


def seq2seq(copy: bool):
    reader = PairReader.learn(pairs(), min_count=3)
    learner = Seq2SeqLearner(Seq2SeqShape(len(reader.words), embedding=6, hidden=5, copy=copy))
    return learner, PairExamples(pairs(), reader)


def language_model(model: str, layers: int):
    reader = StreamReader.learn(utterances(), length=20)
    shape = LanguageModelShape(
        len(reader.units), model, embedding=6, hidden=8, layers=layers, heads=2
    )
    return LanguageModelLearner(shape), LanguageModelExamples(utterances(), reader)


CASES = {
    "joint bilstm": lambda: joint(encoder="bilstm"),
    "joint transformer": lambda: joint(encoder="transformer"),
    "span bilstm": lambda: span(encoder="bilstm"),
    "span transformer": lambda: span(encoder="transformer"),
    "joint bert": lambda: hugging_face(joint, "bert"),
    "joint distilbert": lambda: hugging_face(joint, "distilbert"),
    "joint roberta": lambda: hugging_face(joint, "roberta"),
    "span bert": lambda: hugging_face(span, "bert"),
    "seq2seq": lambda: seq2seq(True),
    "seq2seq without copying": lambda: seq2seq(False),
    "language model gru": lambda: language_model("gru", 2),
    "language model transformer": lambda: language_model("transformer", 2),
}


@pytest.fixture(params=sorted(CASES))
def case(request):
    torch.manual_seed(0)
    learner, examples = CASES[request.param]()
    return learner.double(), examples


def test_no_gradient_is_formed_one_by_one_and_norms_are_exact(case):
    learner, examples = case
    batch = examples.batch(np.arange(SIZE))
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    clipper = ExactClipper(learner)
    parameters = list(learner.parameters())
    found = example_by_example(learner, batch, parameters)
    norms = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()

    def factors(norms):
        return (0.5 * norms.max() / norms).clamp(max=1)

    ones = torch.ones(SIZE, dtype=torch.float64)
    result = clipper(batch, lambda given: (learner.loss(given), ones), factors)
    assert clipper.names() == []
    torch.testing.assert_close(result.norms, norms, rtol=1e-7, atol=0)
    for parameter, gradient in found.items():
        expected = torch.tensordot(factors(norms), gradient, dims=1)
        mine = result.gradients.get(parameter, torch.zeros_like(parameter))
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-8)


def test_neither_padding_nor_neighbours_change_a_loss(case):
    learner, examples = case
    learner.eval()
    losses = learner.loss(examples.batch(np.arange(SIZE)))
    assert losses.shape == (SIZE,) and bool(torch.isfinite(losses).all())
    for i in range(SIZE):
        alone = learner.loss(examples.batch(np.array([i])))
        torch.testing.assert_close(alone[0], losses[i])
