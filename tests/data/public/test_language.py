"""Loaders of utterances."""

from __future__ import annotations

import polars as pl
import pytest

from foretell.data import registry
from foretell.data.public import (
    atis,
    clinc150,
    lm_text,
    newsgroups20,
    nlu_atis_snips,
    nlu_evaluation,
    question_generation,
    seq2seq_small,
    snips,
    wnut17,
    xquad,
)
from foretell.data.public.language import read_annotation
from foretell.errors import DataError, ParameterError


def test_annotations_become_tags():
    words, tags = read_annotation("wake me up at [time : five am] [date: this week ]")
    assert words == "wake me up at five am this week".split()
    assert tags == "O O O O B-time I-time B-date I-date".split()
    assert read_annotation("[song_name : one]") == (["one"], ["B-song_name"])
    assert read_annotation("no entity") == (["no", "entity"], ["O", "O"])


@pytest.mark.real_data
def test_parts_are_as_published(data_set):
    text = snips(data_set("nlu_atis_snips"))
    assert {part: len(text.part(part)) for part in text.splits} == {
        "train": 13_084, "valid": 700, "test": 700,
    }  # fmt: skip
    assert len(text.intent_names) == 7 and len(text.slot_names) == 72
    text = atis(data_set("nlu_atis_snips"))
    assert [len(text.part(part)) for part in text.splits] == [4_478, 500, 893]
    assert sum("#" in intent for intent in text.intents) == 41


@pytest.mark.real_data
def test_home_assistant_utterances_have_folds(data_set):
    text = nlu_evaluation(data_set("nlu_evaluation_home"), fold=1)
    assert len(text.part("train")) == 9_960 and len(text.part("test")) == 1_076
    assert len(text.intent_names) == 64
    assert len({tag[2:] for tag in text.slot_names if tag != "O"}) == 54
    assert not any("[" in word or "]" in word for words in text.tokens for word in words)
    assert text.frame["scenario"].n_unique() == 18


@pytest.mark.real_data
def test_the_registry_gives_text_sets(data_root, monkeypatch):
    monkeypatch.setenv("FORETELL_DATA", str(data_root))
    assert len(registry.load("snips", form="text")) == 14_484
    with pytest.raises(ParameterError, match="as a set of utterances, not as a panel"):
        registry.load("snips", form="panel")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ParameterError, match="'snips' or 'atis'"):
        nlu_atis_snips(tmp_path, corpus="clinc")
    with pytest.raises(ParameterError, match="fold must be 1 to 10"):
        nlu_evaluation(tmp_path, fold=0)
    with pytest.raises(DataError, match="cannot be read"):
        snips(tmp_path)


@pytest.mark.real_data
def test_posts_have_groups_and_authors(data_set):
    text = newsgroups20(data_set("newsgroups20"))
    train = text.part("train")
    assert (len(train), len(text.part("test")), len(text.intent_names)) == (11_314, 7_532, 20)
    counts = train.frame["author"].value_counts(sort=True)
    assert abs(counts.height - 5_752) < 10 and counts["count"][0] == 73
    assert counts["count"].median() == 1 and counts["count"].head(575).sum() / 11_314 > 0.38
    assert not train.frame["text"].str.contains("\n>", literal=True).any()
    assert (
        newsgroups20(data_set("newsgroups20"), quotes=True)
        .frame["text"]
        .str.contains("\n>", literal=True)
        .any()
    )


def test_posts_are_cut_as_asked(tmp_path):
    post = (
        "From: Ann <Ann@Here.org>\nSubject: Re: Locks\nLines: 3\n\n"
        "In article <1@x> bob@there.net writes:\n> Which lock is best?\n\nThe best is mine.\n"
        "-- \nAnn Other\n"
    )
    for part in ("train", "test"):
        frame = pl.DataFrame({"group": ["sci.x"], "doc_id": [1], "text": [post]})
        frame.write_parquet(tmp_path / f"bydate_{part}.parquet")

    def words(**options) -> str:
        return " ".join(newsgroups20(tmp_path, **options).tokens[0])

    assert words() == "re locks the best is mine ann other"
    assert words(headers="none", signatures=False) == "the best is mine"
    assert "which lock is best" in words(quotes=True)
    assert "lines" in words(headers="all")
    assert newsgroups20(tmp_path).frame["author"].unique().to_list() == ["ann@here.org"]
    with pytest.raises(ParameterError, match="headers must be"):
        newsgroups20(tmp_path, headers="some")
    pl.DataFrame({"group": ["a"]}).write_parquet(tmp_path / "bydate_train.parquet")
    with pytest.raises(DataError, match="no column 'doc_id'"):
        newsgroups20(tmp_path)


@pytest.mark.real_data
def test_queries_have_intents_and_domains(data_set):
    text = clinc150(data_set("clinc150"))
    assert {part: len(text.part(part)) for part in text.splits} == {
        "valid": 3_000, "train": 15_000, "test": 4_500,
    }  # fmt: skip
    assert len(text.intent_names) == 150 and text.frame["domain"].n_unique() == 10
    whole = clinc150(data_set("clinc150"), out_of_scope=True)
    assert len(whole) == 23_700 and (whole.intents == "oos").sum() == 1_200


@pytest.mark.real_data
def test_sentences_of_the_web_have_entities(data_set):
    text = wnut17(data_set("wnut17_ner"))
    assert [len(text.part(part)) for part in text.splits] == [3_394, 1_009, 1_287]
    assert len(text.slot_names) == 13 and text.part("train").frame["kinds_left_open"].sum() == 0
    assert text.part("test").frame["kinds_left_open"].sum() == 297


@pytest.mark.real_data
def test_questions_and_pairs_are_parted_by_their_source(data_set):
    questions = xquad(data_set("squad_derived"))
    train, test = questions.part("train").frame, questions.part("test").frame
    assert len(train) + len(test) == 1_190
    assert not set(train["title"]) & set(test["title"])
    with pytest.raises(ParameterError, match="at least 2"):
        xquad(data_set("squad_derived"), test_share=1)
    assert len(question_generation(data_set("squad_derived"))) == 22_447
    folder = data_set("seq2seq_small")
    e2e = seq2seq_small(folder)
    assert [len(e2e.part(part)) for part in e2e.splits] == [4_672, 630]
    assert not set(e2e.part("train").sources) & set(e2e.part("test").sources)
    assert max(map(len, e2e.part("test").references)) > 5
    dialogues = seq2seq_small(folder, corpus="dialogsum").part("test")
    assert {len(right) for right in dialogues.references} == {3}
    talks = seq2seq_small(folder, corpus="negotiation")
    assert not any("<selection>" in text for text in talks.frame["target"])
    with pytest.raises(ParameterError, match="corpus must be"):
        seq2seq_small(folder, corpus="wmt")


@pytest.mark.real_data
def test_speeches_have_speakers(data_set):
    plays = lm_text(data_set("lm_text"))
    assert len(plays) == 6_912 and plays.frame["author"].n_unique() == 305
    tiny = lm_text(data_set("lm_text"), corpus="tinyshakespeare")
    assert 290 < tiny.frame["author"].n_unique() < 305
    assert "ROMEO" in tiny.frame["author"] and "Before we proceed" in tiny.frame["text"][0]
    with pytest.raises(ParameterError, match="no corpus 'bible'"):
        lm_text(data_set("lm_text"), corpus="bible")


def test_damaged_files_are_named(tmp_path):
    pl.DataFrame({"split": ["train"], "text": ["a"], "intent": ["b"]}).write_parquet(
        tmp_path / "data_full.parquet"
    )
    with pytest.raises(DataError, match=r"domains cannot be read.*domains\.json"):
        clinc150(tmp_path)
    for loader in (wnut17, xquad, seq2seq_small, lm_text, question_generation):
        with pytest.raises(DataError, match="cannot be read"):
            loader(tmp_path)
