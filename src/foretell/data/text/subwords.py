"""Pieces of words, by the package ``tokenizers``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from foretell.data.text.text_set import TextSet
from foretell.errors import DataError, ParameterError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PADDINGS = ("[PAD]", "<pad>", "<|padding|>")
_UNKNOWNS = ("[UNK]", "<unk>", "<|endoftext|>")


class SubwordTokenizer:
    """Cuts words into pieces that are always known; what a ``tokenizer.json`` describes.

    Words are cut one by one, so that tags of words stay tags of their first pieces.

    Args:
        document: the text of a ``tokenizer.json``.

    Raises:
        DataError: the text is none.
        ImportError: the package ``tokenizers`` is not there: install ``foretell[language]``.
    """

    def __init__(self, document: str) -> None:
        tokenizer = _package().Tokenizer
        try:
            self._tokenizer = tokenizer.from_str(document)
            self._by_spaces = "ByteLevel" in json.dumps(json.loads(document)["pre_tokenizer"])
        except Exception as error:  # the package raises bare exceptions
            raise DataError(f"this is no tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.document = document
        self.size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        # Codes before, between and after one text or two, as the model expects them.
        codes = [self._tokenizer.encode(*pair) for pair in (("a",), ("a", "a"))]
        inner = len(self._tokenizer.encode("a", add_special_tokens=False).ids)
        one, two = codes[0].ids, codes[1].ids
        special = codes[0].special_tokens_mask
        begin = special.index(0) if 0 in special else 0
        self.prefix = tuple(one[:begin])
        self.suffix = tuple(one[begin + inner :])
        self.middle = tuple(two[begin + inner : len(two) - inner - len(self.suffix)])

    @classmethod
    def train(
        cls,
        text: TextSet | Iterable[str],
        *,
        kind: Literal["bpe", "wordpiece"] = "wordpiece",
        size: int = 4_000,
        lowercase: bool = True,
    ) -> SubwordTokenizer:
        """Learns pieces from a training part, or from public text where training is private.

        Args:
            text: utterances, or strings.
            kind: byte-pair encoding (Sennrich et al. 2016) or word pieces (Wu et al. 2016).
            size: number of pieces at most.
            lowercase: whether capitals and accents are dropped.

        Raises:
            ParameterError: another kind, or a size that leaves no room for pieces.
        """
        if kind not in ("bpe", "wordpiece") or size < 2 * len(_SPECIAL):
            raise ParameterError(
                f"kind must be 'bpe' or 'wordpiece' and size at least {2 * len(_SPECIAL)}, not "
                f"{kind!r} and {size}"
            )
        package = _package()
        bpe = kind == "bpe"
        model, trainer = (
            (package.models.BPE(unk_token="[UNK]"), package.trainers.BpeTrainer)
            if bpe
            else (package.models.WordPiece(unk_token="[UNK]"), package.trainers.WordPieceTrainer)
        )
        tokenizer = package.Tokenizer(model)
        steps = [package.normalizers.NFD(), package.normalizers.StripAccents()]
        tokenizer.normalizer = package.normalizers.Sequence(
            [*steps, package.normalizers.Lowercase()] if lowercase else [package.normalizers.NFC()]
        )
        tokenizer.pre_tokenizer = package.pre_tokenizers.BertPreTokenizer()
        rows = (" ".join(t) for t in text.tokens) if isinstance(text, TextSet) else text
        tokenizer.train_from_iterator(
            rows,
            trainer(vocab_size=size, special_tokens=list(_SPECIAL), show_progress=False),
        )
        tokenizer.post_processor = package.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )
        return cls(tokenizer.to_str())

    @classmethod
    def from_folder(cls, folder: str | Path) -> SubwordTokenizer:
        """Reads ``tokenizer.json`` of a folder.

        Raises:
            DataError: there is none, or it is none.
        """
        file = Path(folder) / "tokenizer.json"
        try:
            document = file.read_text("utf-8")
        except OSError as error:
            raise DataError(
                f"there is no readable tokenizer.json: {error}", file=str(file),
                hint="Save the model's tokenizer there in the form of the package tokenizers",
            ) from error  # fmt: skip
        try:
            return cls(document)
        except DataError as error:
            raise DataError(error.problem, file=str(file)) from error

    def save(self, folder: str | Path) -> None:
        """Writes ``tokenizer.json`` into a folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / "tokenizer.json").write_text(self.document, "utf-8")

    def __len__(self) -> int:
        """Number of codes."""
        return self.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubwordTokenizer) and self.document == other.document

    def __hash__(self) -> int:
        return hash(self.document)

    def __repr__(self) -> str:
        return f"SubwordTokenizer({self.size:,} pieces)"

    @property
    def unknown(self) -> int:
        """Code of what has no pieces."""
        found = (self._tokenizer.token_to_id(name) for name in _UNKNOWNS)
        return next((code for code in found if code is not None), 0)

    @property
    def padding(self) -> int:
        """Code that stands in the padding."""
        found = (self._tokenizer.token_to_id(name) for name in _PADDINGS)
        return next((code for code in found if code is not None), 0)

    def encode(self, words: Sequence[str]) -> list[list[int]]:
        """Codes of the pieces of each word, one piece at least."""
        given = [f" {word}" for word in words] if self._by_spaces else list(words)
        found = self._tokenizer.encode_batch(given, add_special_tokens=False)
        return [encoding.ids or [self.unknown] for encoding in found]

    def pieces(self, codes: Iterable[int]) -> list[str]:
        """Names of codes."""
        return [self._tokenizer.id_to_token(int(code)) for code in codes]


def _package() -> Any:
    """The package with its modules; imported when first asked for."""
    try:
        import tokenizers
        from tokenizers import models, normalizers, pre_tokenizers, processors, trainers  # noqa
    except ImportError as error:
        raise ImportError(
            "pieces of words need the package tokenizers: pip install 'foretell[language]'"
        ) from error
    return tokenizers
