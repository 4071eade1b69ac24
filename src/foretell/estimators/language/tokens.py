"""What estimators over the tokens of a text share: words, pieces, encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foretell.data.text import HashingVocabulary, SubwordTokenizer, TextSet, Vocabulary
from foretell.errors import ParameterError
from foretell.estimators.language.base import LanguageEstimator
from foretell.learners.language.encoders import ENCODERS
from foretell.learners.language.hugging_face import NAME, HuggingFaceEncoder
from foretell.learners.language.reader import TextReader

ONLY = "only"
"""For ``characters``: letters instead of words."""

PUBLIC_WORDS = "the vocabulary is public, although it was read off the training part"
PUBLIC_CHARACTERS = "the list of characters is public, although it was read off the training part"
PUBLIC_PIECES = "the tokenizer is public"
PUBLIC_WEIGHTS = "the weights of the pretrained model are public"


@dataclass(eq=False, repr=False, kw_only=True)
class TokenEstimator(LanguageEstimator):
    """An estimator whose learner encodes tokens.

    Args:
        encoder: ``"bilstm"``, ``"transformer"`` (pre-norm) or ``"hugging_face"``.
        embedding: dimensions of a word.
        hidden: units of each direction of the LSTM, or width of the transformer.
        layers: of the encoder.
        heads: of the transformer.
        characters: whether words are also read letter by letter, by a convolution; ``"only"`` for
            letters instead of words: no word has a vector of its own then, and none is saved.
        dropout: share of embedded and encoded values dropped.
        unknown_rate: share of words hidden in training, so that unknown ones can be read.
        min_count: occurrences that a word of the training part needs to be known.
        vocabulary: to use instead of the words of the training part, a public one if training is
            private; a number for so many hashed codes, for which no text is read.
        tokenizer: cuts words into pieces: a :class:`~foretell.data.text.SubwordTokenizer` or a
            folder with ``tokenizer.json``; the folder of ``pretrained`` by default.
        pretrained: folder of a Hugging Face model, or what its ``config.json`` says, for random
            weights; for the encoder ``"hugging_face"``.
        max_length: words or pieces that are read.
    """

    encoder: str = "bilstm"
    embedding: int = 64
    hidden: int = 128
    layers: int = 1
    heads: int = 4
    characters: bool | Literal["only"] = False
    dropout: float = 0.0
    unknown_rate: float = 0.0
    min_count: int = 1
    vocabulary: Sequence[str] | int | None = None
    tokenizer: SubwordTokenizer | str | None = None
    pretrained: Mapping[str, Any] | str | None = None
    max_length: int | None = None

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "embedding", "hidden", "layers", "heads")

    def _shares(self) -> tuple[str, ...]:
        return ("dropout", "unknown_rate")

    def _encoders(self) -> tuple[str, ...]:
        return (*ENCODERS, NAME)

    def _check(self) -> None:
        if self.encoder not in self._encoders():
            raise ParameterError(
                f"encoder must be one of {', '.join(self._encoders())}, not {self.encoder!r}"
            )
        super()._check()
        if (self.encoder == NAME) != (self.pretrained is not None):
            raise ParameterError(f"the encoder {NAME!r} and pretrained go together: give both")
        if self.characters not in (None, False, True, ONLY):
            raise ParameterError(
                f"characters must be True, False or {ONLY!r}, not {self.characters!r}"
            )
        if self.characters == ONLY:
            if self.tokenizer is not None or self.encoder == NAME:
                raise ParameterError(
                    f"characters={ONLY!r} reads whole words: take it without a tokenizer and with "
                    "an encoder of our own"
                )
            if self.unknown_rate:
                raise ParameterError(
                    f"with characters={ONLY!r} no word is unknown: leave unknown_rate at 0"
                )
        if self.max_length is not None and self.max_length < 1:
            raise ParameterError(f"max_length must be positive, not {self.max_length}")

    def _learn_words(self, text: TextSet) -> TextReader:
        vocabulary: Vocabulary | HashingVocabulary | None = None
        if isinstance(self.vocabulary, int):
            vocabulary = HashingVocabulary(self.vocabulary)
        elif self.vocabulary is not None:
            vocabulary = Vocabulary(self.vocabulary)
        return TextReader.learn(
            text, vocabulary=vocabulary, min_count=self.min_count, characters=self._letters(),
            pieces=self._pieces(), shift=0 if self.encoder == NAME else 2,
            max_length=self.max_length,
        )  # fmt: skip

    def _letters(self) -> bool | Literal["only"]:
        """Whether words are read letter by letter, too or only."""
        return self.characters

    def _pieces(self) -> SubwordTokenizer | None:
        if isinstance(self.tokenizer, SubwordTokenizer):
            return self.tokenizer
        if self.tokenizer is not None:
            return SubwordTokenizer.from_folder(self.tokenizer)
        if isinstance(self.pretrained, (str, Path)):
            return SubwordTokenizer.from_folder(self.pretrained)
        if self.encoder == NAME:
            raise ParameterError("a model with random weights needs a tokenizer: give one")
        return None

    def _published(self) -> list[str]:
        found = super()._published()
        if self.reader_.pieces is not None:
            found.append(PUBLIC_PIECES)
        elif self.vocabulary is None:
            found.append(PUBLIC_CHARACTERS if self.characters == ONLY else PUBLIC_WORDS)
        if isinstance(self.pretrained, (str, Path)):
            found.append(PUBLIC_WEIGHTS)
        return found

    def _encoder(self, trained: bool) -> HuggingFaceEncoder | None:
        """The Hugging Face encoder, if there is one; ``pretrained_`` becomes its description."""
        if self.encoder != NAME:
            return None
        if trained:
            return HuggingFaceEncoder(self.pretrained_)
        assert self.pretrained is not None
        encoder = (
            HuggingFaceEncoder(self.pretrained)
            if isinstance(self.pretrained, Mapping)
            else HuggingFaceEncoder.from_folder(self.pretrained)
        )
        self.pretrained_: dict[str, Any] = encoder.config
        return encoder

    def _widths(self) -> dict[str, Any]:
        """Arguments of a shape."""
        reader: TextReader = self.reader_
        only = self.characters == ONLY
        return {
            "words": 0 if only else reader.codes, "encoder": self.encoder,
            "embedding": self.embedding, "hidden": self.hidden, "layers": self.layers,
            "heads": self.heads,
            "dropout": self.dropout,
            "characters": 0 if reader.characters is None else len(reader.characters),
            "pretrained": getattr(self, "pretrained_", None),
            **({"character_filters": self.embedding} if only else {}),
        }  # fmt: skip

    def _parameters(self) -> dict[str, Any]:
        parameters = super()._parameters()
        # The document of the tokenizer is in the reader.
        parameters["tokenizer"] = self.tokenizer if isinstance(self.tokenizer, str) else None
        given = self.pretrained
        parameters["pretrained"] = dict(given) if isinstance(given, Mapping) else given
        if isinstance(given, Path):
            parameters["pretrained"] = str(given)
        return parameters

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        return {**state, "pretrained": getattr(self, "pretrained_", None)}

    def _restore(self, config: dict[str, Any]) -> None:
        self.reader_ = TextReader.from_dict(config["reader"])
        if self.encoder == NAME:
            self.pretrained_ = dict(config["pretrained"])
