"""Canaries: made-up secrets that are planted in training data, to be looked for afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from foretell.data.panel import DataNote
from foretell.data.text import TextSet
from foretell.errors import DataError, ParameterError

_TRIES = 1000


@dataclass(frozen=True)
class Canary:
    """A secret behind a prefix that the attacker knows.

    Attributes:
        prefix: known words, in front.
        secret: words to be found.
        intent: label of the utterance; None where the data have none.
        tags: tags of prefix and secret; None where the data have none.
        control: a secret of the same form that was never planted.
    """

    prefix: tuple[str, ...]
    secret: tuple[str, ...]
    intent: str | None
    tags: tuple[str, ...] | None
    control: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The whole utterance."""
        return self.prefix + self.secret

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "prefix": list(self.prefix),
            "secret": list(self.secret),
            "intent": self.intent,
            "tags": None if self.tags is None else list(self.tags),
            "control": list(self.control),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Canary:
        """The inverse of :meth:`to_dict`."""
        tags = values["tags"]
        return cls(
            tuple(values["prefix"]), tuple(values["secret"]), values["intent"],
            None if tags is None else tuple(tags), tuple(values["control"]),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class PlantedCanaries:
    """A text with canaries in it, and what was planted.

    Attributes:
        text: the real utterances, followed by the copies of each canary.
        canaries: what was planted, one each.
        vocabulary: words that secrets are made of.
        repetitions: copies of each canary; 0 for a text without any, to compare with.
        notes: what was unusual: secrets that were drawn anew, words that the real text lacks.
    """

    text: TextSet
    canaries: tuple[Canary, ...]
    vocabulary: tuple[str, ...]
    repetitions: int
    notes: tuple[DataNote, ...] = ()


@dataclass(frozen=True)
class CanarySuite:
    """Secrets to plant: each behind its own prefix, with a label by chance.

    A secret's words are drawn without repetition, since repeated words are hit by chance more
    often. Judge by all canaries of a suite, never by one.

    Args:
        templates: prefixes, ``"my pin code is"``; each is used once, so that no two secrets
            stand behind the same words.
        vocabulary: words that secrets are made of.
        n_tokens: words of a secret.
        repetitions: copies of each in the training data; 0 for none.
        labels: intents to draw from; none for those of the text.
        slot: tag of secret words, ``B-slot``; None for ``O``.
        count: canaries; None for one a template.
        seed: of secrets, labels and controls.

    Raises:
        ParameterError: values out of range, or a word twice.
    """

    templates: Sequence[str]
    vocabulary: Sequence[str]
    n_tokens: int = 4
    repetitions: int = 1
    labels: Sequence[str] = ()
    slot: str | None = "secret"
    count: int | None = None
    seed: int = 0
    size: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        for name in ("templates", "vocabulary", "labels"):
            values = tuple(getattr(self, name))
            if isinstance(getattr(self, name), str) or len(set(values)) != len(values):
                raise ParameterError(f"{name} must be different strings, not {values}")
            object.__setattr__(self, name, values)
        if not self.templates or any(not template.split() for template in self.templates):
            raise ParameterError("templates must be prefixes of one word at least")
        if any(len(word.split()) != 1 for word in self.vocabulary):
            raise ParameterError("the vocabulary of secrets must be single words")
        if not 1 <= self.n_tokens <= len(self.vocabulary):
            raise ParameterError(
                f"n_tokens must lie between 1 and the {len(self.vocabulary)} words of the "
                f"vocabulary, for no word comes twice, not {self.n_tokens}"
            )
        if self.repetitions < 0:
            raise ParameterError(f"repetitions must not be negative, not {self.repetitions}")
        size = len(self.templates) if self.count is None else self.count
        if not 1 <= size <= len(self.templates):
            raise ParameterError(
                f"count must lie between 1 and the {len(self.templates)} templates, not {size}"
            )
        object.__setattr__(self, "size", size)

    @property
    def space(self) -> int:
        """Secrets there could be, those with repeated words included: ``|vocabulary|^n``."""
        return len(self.vocabulary) ** self.n_tokens

    def insert(self, text: TextSet) -> PlantedCanaries:
        """Plants the canaries in a text.

        A secret that makes an utterance of the real text, or another canary's control, is drawn
        anew and counted.

        Raises:
            DataError: no secret is free, or a label that the text does not have.
        """
        intents = tuple(self.labels) or text.intent_names
        unknown = [name for name in intents if name not in text.intent_names]
        if unknown:
            raise DataError(
                f"the text has no intent {unknown[0]!r}",
                hint=f"It has {', '.join(text.intent_names) or 'no intents'}",
            )
        rng = np.random.default_rng(self.seed)
        chosen = rng.permutation(len(self.templates))[: self.size]
        real = {tuple(tokens) for tokens in text.tokens}
        canaries, redrawn = [], 0
        for number in sorted(chosen.tolist()):
            prefix = tuple(self.templates[number].split())
            intent = str(rng.choice(intents)) if intents else None
            secret, again = self._draw(rng, prefix, real)
            control, more = self._draw(rng, prefix, real | {prefix + secret})
            redrawn += again + more
            tags = None
            if text.has_slots:
                last = "O" if self.slot is None else f"B-{self.slot}"
                tags = ("O",) * len(prefix) + (last,) * self.n_tokens
            canaries.append(Canary(prefix, secret, intent, tags, control))
        notes = []
        if redrawn:
            message = f"{redrawn} secrets were in the real text and were drawn anew"
            notes.append(DataNote("canary_collision", message, redrawn))
        return PlantedCanaries(
            _with_copies(text, canaries, self.repetitions), tuple(canaries), tuple(self.vocabulary),
            self.repetitions, tuple(notes),
        )  # fmt: skip

    def _draw(
        self, rng: np.random.Generator, prefix: tuple[str, ...], taken: set[tuple[str, ...]]
    ) -> tuple[tuple[str, ...], int]:
        """A secret that is not taken, and how many were."""
        for again in range(_TRIES):
            places = rng.choice(len(self.vocabulary), self.n_tokens, replace=False)
            secret = tuple(self.vocabulary[place] for place in places)
            if prefix + secret not in taken:
                return secret, again
        raise DataError(
            f"nearly all secrets behind {' '.join(prefix)!r} are in the text already",
            hint="Take a larger vocabulary, longer secrets or another prefix",
        )


def _with_copies(text: TextSet, canaries: Sequence[Canary], repetitions: int) -> TextSet:
    """The text, followed by so many copies of each canary."""
    if not repetitions:
        return text
    columns: dict[str, Any] = {"tokens": [list(canary.words) for canary in canaries]}
    if text.has_slots:
        columns["slots"] = [list(canary.tags or ()) for canary in canaries]
    if text.has_intents:
        columns["intent"] = [canary.intent for canary in canaries]
    planted = pl.DataFrame(columns, schema={name: text.frame.schema[name] for name in columns})
    if len(text.splits) == 1:
        planted = planted.with_columns(split=pl.lit(text.splits[0]))
    copies = pl.concat([planted] * repetitions)
    return TextSet(pl.concat([text.frame, copies], how="diagonal"), text.notes)
