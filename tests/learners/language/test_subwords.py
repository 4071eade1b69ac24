"""Pieces of words: tags on the first, truncation, models read from folders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretell.data.text import HashingVocabulary, SubwordTokenizer, TextSet
from foretell.errors import DataError, ParameterError
from foretell.learners.language import IGNORED, HuggingFaceEncoder, TextExamples, TextReader

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def text() -> TextSet:
    return TextSet.from_texts(
        [["play", "jazz", "saxophone"], ["play"], ["now"]] * 4,
        slots=[["O", "B-x", "I-x"], ["O"], ["O"]] * 4,
    )


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_pieces_put_together_are_the_word(text, kind, tmp_path):
    pieces = SubwordTokenizer.train(text, kind=kind, size=40)
    found = pieces.encode(["jazz", "saxophone", "🎷"])
    assert "".join(p.removeprefix("##") for p in pieces.pieces(found[1])) == "saxophone"
    assert found[2] == [pieces.unknown] and pieces.padding == 0
    assert pieces.pieces(pieces.prefix + pieces.middle + pieces.suffix) == [
        "[CLS]",
        "[SEP]",
        "[SEP]",
    ]
    pieces.save(tmp_path)
    assert SubwordTokenizer.from_folder(tmp_path) == pieces
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="no tokenizer") as caught:
        SubwordTokenizer.from_folder(tmp_path)
    assert caught.value.file.endswith("tokenizer.json")
    with pytest.raises(DataError, match="no readable tokenizer"):
        SubwordTokenizer.from_folder(tmp_path / "none")
    with pytest.raises(ParameterError, match="kind must be"):
        SubwordTokenizer.train(text, kind="unigram")


def test_only_first_pieces_have_tags_and_give_them_back(text):
    pieces = SubwordTokenizer.train(TextSet.from_texts(["a b c"]), size=50)
    pieces = SubwordTokenizer.train(["p l a y j a z s x o h n e w"], size=60)
    reader = TextReader.learn(text, pieces=pieces)
    examples = TextExamples(text, reader, ordered=False)
    batch = examples.batch(np.array([0, 1]))
    lengths = [len(p) for p in pieces.encode(["play", "jazz", "saxophone"])]
    assert batch["mask"].sum(1).tolist() == [sum(lengths) + 2, lengths[0] + 2]
    tagged = (batch["slots"][0] != IGNORED).nonzero().flatten().tolist()
    assert tagged == [1, 1 + lengths[0], 1 + lengths[0] + lengths[1]]
    back = examples.of_words(np.array([0, 1]), batch["slots"].numpy(), -1)
    names = [[reader.slots[c] for c in row] for row in back]
    assert names == [["O", "B-x", "I-x"], ["O"]]
    assert TextReader.from_dict(reader.to_dict()) == reader


def test_what_is_cut_off_has_no_part(text):
    reader = TextReader.learn(text, max_length=2)
    examples = TextExamples(text, reader, ordered=False)
    batch = examples.batch(np.array([0]))
    assert batch["tokens"].shape == (1, 2)
    assert [reader.slots[c] for c in batch["slots"][0]] == ["O", "B-x"]
    values = np.zeros((1, 2), np.int64)
    assert examples.of_words(np.array([0]), values, -1)[0].tolist() == [0, 0, -1]
    pieces = SubwordTokenizer.train(text, size=60)
    with pytest.raises(ParameterError, match="more than 2"):
        TextReader.learn(text, pieces=pieces, max_length=2)
    with pytest.raises(ParameterError, match="take one"):
        TextReader.learn(text, pieces=pieces, characters=True)


def test_hashed_words_learn_nothing_of_the_text(text):
    other = TextSet.from_texts([["x"]], slots=[["O"]])
    readers = [
        TextReader.learn(t, vocabulary=HashingVocabulary(32), characters=True)
        for t in (text, other)
    ]
    assert readers[0].words == readers[1].words and readers[0].characters == readers[1].characters
    assert TextReader.from_dict(readers[0].to_dict()) == readers[0]
    assert TextExamples(text, readers[0]).batch(np.arange(4))["tokens"].max() < 34


def test_models_are_read_from_local_folders_only(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = {"model_type": "distilbert", "dim": 8, "hidden_dim": 8, "n_layers": 1, "n_heads": 2,
              "vocab_size": 20, "max_position_embeddings": 12}  # fmt: skip
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config))
    model.save_pretrained(tmp_path)
    encoder = HuggingFaceEncoder.from_folder(tmp_path).eval()
    tokens, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool)
    expected = model.eval()(tokens).last_hidden_state
    torch.testing.assert_close(encoder(encoder.embed(tokens), mask), expected)
    again = HuggingFaceEncoder(encoder.config)
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again.eval()(again.embed(tokens), mask), expected)
    with pytest.raises(DataError, match="longer than the 12 positions"):
        encoder(torch.zeros(1, 13, 8), torch.ones(1, 13, dtype=torch.bool))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="no model can be read"):  # pickles are not opened
        HuggingFaceEncoder.from_folder(tmp_path)
    with pytest.raises(DataError, match="no model can be read"):
        HuggingFaceEncoder.from_folder(tmp_path / "none")
    with pytest.raises(ParameterError, match="model_type"):
        HuggingFaceEncoder({})
    with pytest.raises(ParameterError, match="type 'nothing'"):
        HuggingFaceEncoder({"model_type": "nothing"})
