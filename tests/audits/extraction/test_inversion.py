from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from foretell.audits.extraction import (
    Canary,
    CanarySuite,
    ExtractionReport,
    ModelInversionAttack,
    PlantedCanaries,
    as_target,
)
from foretell.audits.extraction.target import Problem
from foretell.data.text import SubwordTokenizer, TextSet, Vocabulary
from foretell.errors import DataError, ParameterError
from foretell.learners.language import JointLearner, JointShape, TextExamples, TextReader
from foretell.training import fit

DIGITS = tuple("0123456789")


class Bag(torch.nn.Module):
    """The mean of the words' vectors at every word: no order, no context."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, embedded, mask):
        weights = mask.to(embedded.dtype).unsqueeze(-1)
        mean = (embedded * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return mean.expand(-1, embedded.shape[1], -1)


class Problems(NamedTuple):
    learner: JointLearner
    reader: TextReader
    canary: Canary


@pytest.fixture(scope="module")
def bag() -> Problems:
    """A bag of embeddings, trained on a canary and on every other word with the other intent.

    Of all words, those of the secret alone pull towards the canary's intent: its completion with
    the least loss repeats the word that pulls most, and is known without a search.
    """
    secret = ("3", "8")
    others = [f"go {word}" for word in DIGITS if word not in secret]
    text = TextSet.from_texts(["go 3 8", *others], ["secret", *["other"] * len(others)])
    reader = TextReader.learn(text)
    torch.manual_seed(0)
    learner = JointLearner(JointShape(len(reader.words), 2, 0, embedding=8, hidden=4))
    learner.encoder, learner.intent = Bag(8), torch.nn.Linear(8, 2)
    fit(
        learner, TextExamples(text, reader), max_steps=400, batch_size=9, learning_rate=0.05,
        weight_decay=0.0, device="cpu", threads=1,
    )  # fmt: skip
    with torch.no_grad():
        assert learner.loss(TextExamples(text, reader).batch(np.arange(9))).max() < 1e-2
    return Problems(learner, reader, Canary(("go",), secret, "secret", None, ("1", "2")))


@pytest.mark.parametrize("refine", [True, False])
def test_the_search_finds_what_is_provably_the_argmin(bag, refine):
    learner, reader, canary = bag
    vectors = learner.embedding.words.weight[torch.from_numpy(reader.words.encode(DIGITS))]
    code = reader.intents.index("secret")
    direction = learner.intent.weight[code] - learner.intent.weight[1 - code]
    pull = (vectors @ direction).detach().numpy()
    # Linear in the words, so that the best completion takes the best word at every place.
    best = DIGITS[int(pull.argmax())]
    assert set(np.argsort(-pull)[:2]) == {3, 8}
    attack = ModelInversionAttack("gumbel", refine=refine)
    report = attack.run((learner, reader), [canary], DIGITS)
    (row,) = report.rows
    assert row.found == (best, best)
    assert row.loss == pytest.approx(row.optimum, abs=1e-6)
    assert row.rank <= 4 and report.exposure > 4


def test_losses_of_words_are_those_of_the_learner(model, planted):
    for canary in planted.canaries:
        problem = Problem(as_target(model), canary, DIGITS, (canary.intent,))
        text = TextSet.from_texts([canary.words], [canary.intent], [canary.tags])
        assert problem.losses(problem.secret[None])[0] == pytest.approx(
            float(model.losses(text)[0]), abs=1e-6
        )
        everything = problem.all(0, problem.space)
        assert len(everything) == 1000 and problem.index(everything[537]) == 537


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("bilstm", {}),
        ("transformer", {}),
        ("bilstm", {"characters": True}),
        ("bilstm", {"characters": "only"}),
    ],
    ids=["bilstm", "transformer", "characters", "characters only"],
)
def test_the_search_reaches_the_optimum_of_trained_models(encoder, options, planted, small):
    model = small(encoder, **options).fit(planted.text)
    report = ModelInversionAttack(steps=60).run(model, planted)
    assert report.optimised == 1.0
    ideal = ModelInversionAttack("exhaustive").run(model, planted)
    for row, best in zip(report.rows, ideal.rows, strict=True):
        assert row.loss == pytest.approx(best.loss, abs=1e-3)
        assert row.exposure == best.exposure and best.loss == best.optimum
    assert report.exposure > report.control_exposure


def test_free_vectors_are_the_weaker_baseline(model, planted):
    free = ModelInversionAttack("embedding", steps=40, refine=False).run(model, planted)
    relaxed = ModelInversionAttack("gumbel", steps=40, refine=False).run(model, planted)
    assert sum(r.loss for r in relaxed.rows) <= sum(r.loss for r in free.rows) + 1e-6


def test_attacks_repeat_with_their_seed(model, planted):
    rows = [ModelInversionAttack(steps=15, seed=3).run(model, planted).rows for _ in range(2)]
    assert rows[0] == rows[1]


def test_an_unknown_label_is_tried_out(model, planted):
    known = ModelInversionAttack("exhaustive").run(model, planted)
    unknown = ModelInversionAttack("exhaustive", know_label=False).run(model, planted)
    for a, b in zip(unknown.rows, known.rows, strict=True):
        assert a.loss <= b.loss
    searched = ModelInversionAttack(know_label=False, steps=30).run(model, planted)
    assert searched.optimised == 1.0
    blind = ModelInversionAttack("exhaustive", know_tags=False).run(model, planted)
    assert blind.rows[0].loss < known.rows[0].loss


def test_exposures_of_large_spaces_are_estimated(model, planted):
    exact = ModelInversionAttack(steps=5).run(model, planted)
    estimate = ModelInversionAttack(steps=5, ranks="estimate", sample=2000).run(model, planted)
    for a, b in zip(exact.rows, estimate.rows, strict=True):
        assert b.rank is None and b.optimum is None
        assert b.exposure == pytest.approx(a.exposure, abs=2.5)
    assert estimate.optimised is None and np.isnan(estimate.ranks).all()
    long = CanarySuite(("my pin is",), DIGITS, n_tokens=8).insert(planted.text)
    assert ModelInversionAttack(steps=5, sample=200).run(model, long).rows[0].exposure is not None
    with pytest.raises(ParameterError, match="too many"):
        ModelInversionAttack("exhaustive").run(model, long)


def test_words_that_the_model_does_not_know_cannot_be_extracted(planted, small):
    known = sorted({w for t in planted.text.tokens for w in t} - {"7"})
    model = small(vocabulary=known, max_steps=5).fit(planted.text)
    canary = Canary(("my", "pin", "is"), ("7", "1", "2"), "music", None, ("1", "2", "3"))
    fine = Canary(("my", "pin", "is"), ("4", "1", "2"), "music", None, ("1", "2", "3"))
    report = ModelInversionAttack("exhaustive").run(model, [canary, fine], DIGITS)
    assert report.missing == ("7",) and report.extractable == 1
    assert report.rows[0].found is None and report.rows[0].hits == 0
    assert report.token_accuracy <= 0.5 and "not known to the model: 7" in str(report)
    assert report.to_polars()["found"][0] is None
    alone = ModelInversionAttack("exhaustive").run(model, [canary], DIGITS)
    assert alone.summary()["exposure"] is None and np.isnan(alone.exposure)


def test_words_with_a_character_that_the_model_does_not_know_cannot_be_extracted(planted, small):
    known = sorted({w for t in planted.text.tokens for w in t if "7" not in w})
    model = small(vocabulary=known, characters="only", max_steps=5).fit(planted.text)
    canary = Canary(("my", "pin", "is"), ("4", "1", "2"), "music", None, ("1", "2", "3"))
    report = ModelInversionAttack("exhaustive").run(model, [canary], (*DIGITS, "41", "47"))
    assert report.missing == ("7", "47") and report.rows[0].found is not None


def test_secrets_in_pieces_are_found_as_words(real, small):
    """Each word of these secrets takes two places; choices and matches are of whole words."""
    pytest.importorskip("tokenizers")
    words = tuple(f"{digit}5" for digit in DIGITS)
    known = ["my pin is call me at play wake a b c d", *words]
    pieces = SubwordTokenizer.train(known, size=40)
    assert {len(own) for own in pieces.encode(words)} == {2}
    planted = CanarySuite(("my pin is", "call me at"), words, 2, 20).insert(real)
    model = small(tokenizer=pieces, max_steps=150).fit(planted.text)
    for canary in planted.canaries:
        problem = Problem(as_target(model), canary, words, (canary.intent,))
        text = TextSet.from_texts([canary.words], [canary.intent], [canary.tags])
        assert problem.losses(problem.secret[None])[0] == pytest.approx(
            float(model.losses(text)[0]), abs=1e-5
        )
    report = ModelInversionAttack(steps=40).run(model, planted)
    assert report.missing == () and report.optimised == 1.0
    assert report.exposure > report.control_exposure
    assert all(word in words for row in report.rows for word in row.found)
    with pytest.raises(ParameterError, match="into 1 and '05' into 2 pieces"):
        ModelInversionAttack(steps=2).run(model, planted.canaries, ("0", *words))
    report = ModelInversionAttack(steps=2).run(model, planted.canaries, (*words, "ж5"))
    assert report.missing == ("ж5",) and report.extractable == 2


def test_models_of_which_only_losses_can_be_had_are_attacked_exhaustively(planted):
    canary = planted.canaries[0]

    def scorer(texts, intent, tags):
        assert intent == canary.intent
        return np.array([sum(a != b for a, b in zip(t, canary.words, strict=True)) for t in texts])

    one = PlantedCanaries(planted.text, (canary,), DIGITS, 20)
    report = ModelInversionAttack("exhaustive").run(scorer, one)
    assert report.exact_match == 1 and report.ranks[0] == 1
    with pytest.raises(ParameterError, match="exhaustive"):
        ModelInversionAttack("gumbel").run(scorer, one)
    with pytest.raises(ParameterError, match="cannot be attacked"):
        ModelInversionAttack().run(object(), one)


def test_what_makes_no_attack_is_refused(model, planted):
    for options, message in (
        ({"method": "guess"}, "method"), ({"steps": 0}, "steps"), ({"ranks": "no"}, "ranks"),
        ({"learning_rate": 0}, "learning_rate"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=message):
            ModelInversionAttack(**options)
    with pytest.raises(DataError, match="no canary"):
        ModelInversionAttack().run(model, [], DIGITS)
    target = as_target(model)
    target.learner.max_length = 4
    try:
        with pytest.raises(ParameterError, match="longer than the 4 words"):
            ModelInversionAttack().run(target, planted)
    finally:
        del target.learner.max_length


def test_reports_say_intervals_and_survive_json(model, planted):
    report = ModelInversionAttack("exhaustive").run(model, planted)
    assert ExtractionReport.from_dict(report.to_dict()) == report
    bits = report.ci()
    assert bits.low <= bits.value == report.exposure <= bits.high
    assert report.hamming == pytest.approx(3 * (1 - report.token_accuracy))
    assert report.difference(report).value == 0
    both = ExtractionReport.concat([report, report])
    assert len(both.rows) == 6 and both.exposure == pytest.approx(report.exposure)
    apart = report.difference(both)
    assert apart.low < 0 < apart.high or apart.value == pytest.approx(0)
    assert len(report.plot().data) == 2
    for word in ("white_box_final", "chance 0.100", "bits"):
        assert word in str(report)
    with pytest.raises(ParameterError, match="no score"):
        report.ci("luck")


def test_vocabularies_hold_secret_words_only_once():
    assert len(Vocabulary(DIGITS)) == 12
