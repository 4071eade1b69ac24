"""Loaders of utterances."""

from __future__ import annotations

import pytest

from foretell.data import registry
from foretell.data.public import atis, nlu_atis_snips, nlu_evaluation, snips
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
