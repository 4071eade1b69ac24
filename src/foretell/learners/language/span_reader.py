"""Turns questions and their contexts into numbers."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.text import PADDING, QuestionSet, TextSet
from foretell.data.text.words import split_words
from foretell.errors import DataError
from foretell.learners.language.reader import IGNORED, TextReader, identify


def as_utterances(questions: QuestionSet, *, lowercase: bool = True) -> TextSet:
    """The words of all questions and different contexts, for a reader to learn from."""
    texts = [*questions.frame["question"], *questions.frame["context"].unique(maintain_order=True)]
    tokens = [_words(text, lowercase) or ["?"] for text in texts]
    return TextSet(pl.DataFrame([pl.Series("tokens", tokens, pl.List(pl.String))]))


def _words(text: str, lowercase: bool) -> list[str]:
    return [(w.text.lower() if lowercase else w.text) for w in split_words(text)]


class SpanExamples:
    """Questions as examples: question and context one after another.

    Args:
        questions: with answers or without.
        reader: codes of words, characters or pieces; its ``max_length`` is that of the whole.
        lowercase: whether words are read in lower case.
        answerable: leave out questions whose answer lies beyond ``max_length``, as training must;
            kept otherwise, with both ends ignored, to be counted as wrong.
        question_length: words of a question that are read at most.

    Raises:
        DataError: training without a single answer that can be read.
    """

    def __init__(
        self,
        questions: QuestionSet,
        reader: TextReader,
        *,
        lowercase: bool = True,
        answerable: bool = False,
        question_length: int = 64,
    ) -> None:
        self.reader, self._source = reader, questions
        self._settings = (lowercase, answerable, question_length)
        frame = questions.frame
        known = questions.has_answers
        prefix, middle, suffix = _marks(reader)
        self.contexts: list[str] = frame["context"].to_list()
        texts = pl.concat([frame["context"], frame["question"]]).unique(maintain_order=True)
        cut = _Cut(texts.to_list(), reader, lowercase)
        rows: list[dict[str, Any]] = []
        self.rows_left_out = 0
        # Training and evaluation in the form of SQuAD differ: the first answer is what is learned.
        answers: list[tuple[str, int] | None] = [None] * len(frame)
        if known:
            both = zip(frame["answers"].list.first(), frame["starts"].list.first(), strict=True)
            answers = [(text, int(start)) for text, start in both]
        for row, (context, question, answer) in enumerate(
            zip(frame["context"], frame["question"], answers, strict=True)
        ):
            asked, told = cut(question), cut(context)
            if not told.words:
                raise DataError("a context has no word", column="context", row=row)
            head = asked.codes[: asked.begins[min(question_length, len(asked.words))]]
            room = len(told.codes)
            if reader.max_length is not None:
                around = len(prefix) + len(head) + len(middle) + len(suffix)
                room = max(1, min(room, reader.max_length - around))
            body = told.codes[:room]
            before = len(prefix) + len(head) + len(middle)
            codes = np.concatenate([prefix, head, middle, body, suffix]).astype(np.int64)
            segment = np.zeros(len(codes), np.int64)
            segment[before:] = 1
            words = np.searchsorted(told.begins, np.arange(room), side="right") - 1
            read = int(words[-1]) + 1
            said = set(asked.lowered)
            known_words = np.array([w in said for w in told.lowered[:read]], bool)
            match = np.zeros(len(codes), np.float32)
            match[before : before + room] = known_words[words]
            word = np.full(len(codes), -1)
            first = np.isin(np.arange(room), told.begins[:-1])
            word[before : before + room] = np.where(first, words, -1)
            start = end = IGNORED
            if answer is not None:
                found = told.span(answer[1], answer[1] + len(answer[0]))
                if found is not None and found[1] < read:
                    start, end = (before + int(told.begins[w]) for w in found)
            if answerable and start == IGNORED:
                self.rows_left_out += 1
                continue
            source = np.full(len(codes), -1)
            if reader.characters is not None:
                source[len(prefix) : len(prefix) + len(head)] = asked.spelled[: len(head)]
                source[before : before + room] = told.spelled[:room]
            rows.append(
                {"row": row, "codes": codes, "segment": segment, "match": match, "word": word,
                 "start": start, "end": end, "source": source, "offsets": told.offsets}
            )  # fmt: skip
        if not rows:
            raise DataError(
                "no question has an answer within what is read", column="answers",
                hint="Raise max_length",
            )  # fmt: skip
        rows.sort(key=lambda given: len(given["codes"]))
        self._rows, self._spelling = rows, cut.spelling
        self.rows = np.array([given["row"] for given in rows])
        self.lengths = np.array([len(given["codes"]) for given in rows])

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the questions and what is read of them, for resuming."""
        return identify(self._source, self.reader.to_dict(), self._settings)

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Tensors of some questions.

        Returns:
            ``tokens``, ``mask``, ``segment`` (0 question, 1 context), ``match`` (the word occurs in
            the question), ``candidates`` (first pieces of the context's words), all ``(B, T)``;
            ``characters (B, T, W)`` where read; ``start`` and ``end`` ``(B,)``.
        """
        rows = [self._rows[i] for i in np.asarray(indices)]
        size = (len(rows), max(len(row["codes"]) for row in rows))
        tokens, segment = np.full(size, PADDING), np.zeros(size, np.int64)
        mask, candidates = np.zeros(size, bool), np.zeros(size, bool)
        match, source = np.zeros(size, np.float32), np.full(size, -1)
        for i, row in enumerate(rows):
            own = (i, slice(len(row["codes"])))
            tokens[own], segment[own], mask[own] = row["codes"], row["segment"], True
            match[own], candidates[own], source[own] = row["match"], row["word"] >= 0, row["source"]
        arrays = {"tokens": tokens, "mask": mask, "segment": segment, "match": match,
                  "candidates": candidates,
                  "start": np.array([row["start"] for row in rows]),
                  "end": np.array([row["end"] for row in rows])}  # fmt: skip
        if self._spelling is not None:
            letters = np.where((source >= 0)[:, :, None], self._spelling[source], PADDING)
            longest = int((letters != PADDING).any((0, 1)).sum()) or 1
            arrays["characters"] = np.ascontiguousarray(letters[..., :longest])
        return {name: torch.from_numpy(values) for name, values in arrays.items()}

    def answer(self, index: int, first: int, last: int) -> tuple[str, int]:
        """Text and first character of an example's span of tokens."""
        row = self._rows[index]
        begin = int(row["offsets"][row["word"][first]][0])
        end = int(row["offsets"][row["word"][last]][1])
        return self.contexts[row["row"]][begin:end], begin


def _marks(reader: TextReader) -> tuple[list[int], list[int], list[int]]:
    """Codes before, between and after the two texts."""
    if reader.pieces is None:
        return [], [], []
    parts = (reader.pieces.prefix, reader.pieces.middle, reader.pieces.suffix)
    first, second, third = ([code + reader.shift for code in part] for part in parts)
    return first, second, third


class _Text:
    """A text that was cut: words, pieces, places."""

    def __init__(
        self,
        words: list[Any],
        codes: NDArray[np.int64],
        counts: NDArray[np.int64],
        spelled: NDArray[np.int64],
    ) -> None:
        self.words, self.codes, self.spelled = words, codes, spelled
        self.begins = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.lowered = [word.text.lower() for word in words]
        self.offsets = np.array([word[1:] for word in words], np.int64).reshape(-1, 2)

    def span(self, begin: int, end: int) -> tuple[int, int] | None:
        """First and last word that share a character with a stretch of text."""
        inside = np.flatnonzero((self.offsets[:, 1] > begin) & (self.offsets[:, 0] < end))
        return (int(inside[0]), int(inside[-1])) if len(inside) else None


class _Cut:
    """Cuts different texts once, all words together."""

    def __init__(self, texts: list[str], reader: TextReader, lowercase: bool) -> None:
        words = [split_words(text) for text in texts]
        names = [(w.text.lower() if lowercase else w.text) for own in words for w in own]
        flat = pl.Series("tokens", names, pl.String)
        codes, counts = reader.cut(flat)
        self.spelling: NDArray[np.int64] | None = None
        spelled = np.full(len(flat), -1)
        if reader.characters is not None:
            different = flat.unique(maintain_order=True)
            at = pl.Series(np.arange(len(different)))
            spelled = flat.replace_strict(different, at).to_numpy()
            self.spelling = reader.spell(different.to_list())
        ends = np.cumsum([len(own) for own in words])
        places = np.concatenate([[0], np.cumsum(counts)])
        self._texts = {}
        for text, own, end in zip(texts, words, ends, strict=True):
            at_words = slice(end - len(own), end)
            at_codes = slice(places[end - len(own)], places[end])
            self._texts[text] = _Text(own, codes[at_codes], counts[at_words], spelled[at_words])

    def __call__(self, text: str) -> _Text:
        return self._texts[text]
