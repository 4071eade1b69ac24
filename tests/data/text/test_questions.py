"""Sets of questions, pairs and tagged sentences from files: what is wrong is named."""

from __future__ import annotations

import json

import polars as pl
import pytest

from foretell.data.text import PairSet, QuestionSet, read_conll, repair_tags, spans_of
from foretell.data.text.words import join_words, split_words
from foretell.errors import DataError


def squad(**change) -> dict:
    asked = {"id": "1", "question": " Who sat? ", "answers": [{"text": "cat", "answer_start": 4}]}
    asked |= change
    hard = {"id": "2", "question": "Why?", "is_impossible": True, "answers": []}
    paragraph = {"context": "The cat sat.", "qas": [asked, hard]}
    return {"data": [{"title": "Cats", "paragraphs": [paragraph]}]}


def test_squad_is_read(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps(squad()))
    questions = QuestionSet.from_squad(file, split="train")
    assert len(questions) == 1 and questions.answers == [["cat"]]
    assert questions.frame["question"].to_list() == ["Who sat?"] and questions.splits == ("train",)
    assert repr(questions) == "QuestionSet(1 questions, 1 contexts, parts train)"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"answers": [{"text": "cat", "answer_start": 5}]}, "not at character 5.*reads 'at '"),
        ({"answers": [{"text": "cat"}]}, r"data\[0\].paragraphs\[0\].qas\[0\] is not as in SQuAD"),
        ({"answers": []}, "needs an answer"),
        ({"question": " "}, "question is blank"),
        ({"is_impossible": True}, "there is no question"),
    ],
)
def test_what_is_wrong_with_squad_is_named(tmp_path, change, message):
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(squad(**change)))
    with pytest.raises(DataError, match=message) as caught:
        QuestionSet.from_squad(file)
    assert caught.value.file == str(file)
    file.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        QuestionSet.from_squad(file)
    with pytest.raises(DataError, match="cannot be read"):
        QuestionSet.from_squad(tmp_path / "none.json")


def test_questions_without_answers_can_be_asked():
    questions = QuestionSet.from_frame(pl.DataFrame({"context": ["a"], "question": ["b?"]}))
    assert not questions.has_answers
    with pytest.raises(DataError, match="no answers"):
        _ = questions.answers
    with pytest.raises(DataError, match="no column 'question'"):
        QuestionSet.from_frame(pl.DataFrame({"context": ["a"]}))


def test_pairs_are_read_line_by_line(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"document": "a b", "summary": "a"}\n\n{"document": "c", "summary": "c"}\n')
    pairs = PairSet.from_jsonl(file, source="document", target="summary", split="train")
    assert pairs.sources == ["a b", "c"] and pairs.references == [["a"], ["c"]]
    assert len(pairs.part("train")) == 2
    for line, message in [
        ('{"document": "a"}', "line 3"),
        ("[1]", "line 3"),
        ('{"document": "a", "summary": " "}', "'summary' is no text or blank"),
        ("{", "line 3"),
    ]:
        file.write_text('{"document": "a", "summary": "b"}\n\n' + line)
        with pytest.raises(DataError, match=message) as caught:
            PairSet.from_jsonl(file, source="document", target="summary")
        assert caught.value.file == str(file)
    with pytest.raises(DataError, match="2 sources but 1 targets"):
        PairSet.from_texts(["a", "b"], ["c"])
    assert PairSet.from_texts(["a"]).fingerprint() != PairSet.from_texts(["b"]).fingerprint()


def test_tagged_sentences_are_read_from_conll_files(tmp_path):
    file = tmp_path / "train.txt"
    file.write_text("-DOCSTART- -X- O\n\nEU NNP I-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n\n\n")
    text = read_conll(file)
    assert text.tokens == [["EU", "rejects"], ["Peter"]]
    assert text.slots == [["I-ORG", "O"], ["B-PER"]] and text.splits == ("train",)
    assert text.notes[0].kind == "loose_tags"
    for content, message in [
        ("EU NNP I-ORG\nrejects O\n", "line 2 .* has 2 columns"),
        ("EU I-ORG\nrejects VBZ\n", "line 2 .* tag 'VBZ'"),
        ("EU\n", "line 1 .* has 1 columns"),
        ("\n\n", "no sentence"),
    ]:
        file.write_text(content)
        with pytest.raises(DataError, match=message) as caught:
            read_conll(file)
        assert caught.value.file == str(file)
    with pytest.raises(DataError, match="as many names"):
        read_conll(file, splits=("a", "b"))


def test_repaired_tags_have_the_same_spans():
    tags = ["I-a", "I-a", "O", "I-b", "I-a", "B-a", "I-a"]
    repaired = repair_tags(tags)
    assert repaired == ["B-a", "I-a", "O", "B-b", "B-a", "B-a", "I-a"]
    assert spans_of(repaired) == spans_of(tags) and repair_tags(repaired) == repaired


def test_words_know_their_places():
    text = "It's 5.5% (or so)!"
    words = split_words(text)
    assert [text[w.begin : w.end] for w in words] == [w.text for w in words]
    assert join_words([w.text for w in split_words("Come in, please (now).")]) == (
        "Come in, please (now)."
    )
