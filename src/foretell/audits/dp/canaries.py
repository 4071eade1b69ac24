"""Canaries for audits: examples made to be recognised, each put in by the flip of a coin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from foretell.audits.extraction import CanarySuite
from foretell.data.text import TextSet
from foretell.errors import DataError, ParameterError
from foretell.training import Examples


def flip(count: int, seed: int = 0) -> NDArray[np.bool_]:
    """Fair coins ``(count,)``: which canaries are put in."""
    return np.random.default_rng([seed, count]).random(count) < 0.5


@dataclass(frozen=True, eq=False)
class TextCanaries:
    """Utterances to plant, and which of them were.

    Attributes:
        text: all canaries ``(m)``.
        included: ``(m,)`` coins.
        reserved: words that the model's vocabulary must hold beside those of the text.
    """

    text: TextSet
    included: NDArray[np.bool_]
    reserved: tuple[str, ...] = ()

    def plant(self, text: TextSet) -> TextSet:
        """The text, followed by the canaries that are in."""
        chosen = self.text.select(self.included).frame
        kept = chosen.select([c for c in chosen.columns if c in text.frame.columns])
        if len(text.splits) == 1:
            kept = kept.with_columns(split=pl.lit(text.splits[0]))
        return TextSet(pl.concat([text.frame, kept], how="diagonal"), text.notes)


def dirac_gradient(text: TextSet, count: int, seed: int = 0) -> TextCanaries:
    """Utterances of one reserved word each, which no real utterance uses.

    The gradient of a word's vector comes from its own canary alone: after clipping it is as large
    as anything may be and nothing else disturbs it, which makes it the sharpest canary. The model
    must be told the words (``NLU(vocabulary=[*words, *canaries.reserved])``).

    Args:
        text: the real utterances, whose labels are used.
        count: m.
        seed: of coins and labels.

    Raises:
        DataError: the text uses a reserved word.
    """
    words = tuple(f"<canary-{number}>" for number in range(_count(count)))
    taken = set(text.frame["tokens"].explode()) & set(words)
    if taken:
        raise DataError(f"the text uses the reserved word {min(taken)!r}", column="tokens")
    rng = np.random.default_rng([seed, count, 1])
    intents = rng.choice(text.intent_names, count).tolist() if text.has_intents else None
    slots = [["O"]] * count if text.has_slots else None
    made = TextSet.from_texts([[word] for word in words], intents, slots)
    return TextCanaries(made, flip(count, seed), words)


def mislabelled(pool: TextSet, count: int, seed: int = 0) -> TextCanaries:
    """Real utterances with a wrong intent, chosen by chance: unlikely enough to be remembered.

    Args:
        pool: utterances that are **not** in the training part.
        count: m, of different utterances.
        seed: of choice, coins and labels.

    Raises:
        DataError: too few utterances or intents.
    """
    chosen, rng = _choose(pool, count, seed)
    names = np.array(pool.intent_names)
    if len(names) < 2:
        raise DataError("a wrong intent needs two intents at least", column="intent")
    codes = np.searchsorted(names, chosen.intents)
    wrong = (codes + rng.integers(1, len(names), count)) % len(names)
    frame = chosen.frame.with_columns(intent=pl.Series(names[wrong].tolist(), dtype=pl.String))
    return TextCanaries(TextSet(frame), flip(count, seed))


def in_distribution(pool: TextSet, count: int, seed: int = 0) -> TextCanaries:
    """Real utterances as they are: what an ordinary user's data give away.

    Args:
        pool: utterances that are **not** in the training part.
        count: m, of different utterances.
        seed: of choice and coins.

    Raises:
        DataError: too few utterances.
    """
    return TextCanaries(_choose(pool, count, seed)[0], flip(count, seed))


def crafted_utterance(
    text: TextSet, templates: Sequence[str], vocabulary: Sequence[str], count: int,
    n_tokens: int = 4, seed: int = 0,
) -> TextCanaries:  # fmt: skip
    """Secrets of words by chance behind prefixes, as extraction seeks them.

    Args:
        text: the real utterances, whose labels are used, and which no canary repeats.
        templates: prefixes; several canaries share one.
        vocabulary: words that secrets are made of.
        count: m.
        n_tokens: words of a secret.
        seed: of secrets, labels and coins.

    Raises:
        ParameterError: too few words for a secret.
        DataError: nearly all secrets are in the text.
    """
    made: dict[tuple[str, ...], tuple[str | None, tuple[str, ...] | None]] = {}
    for number in range(1000):
        suite = CanarySuite(
            templates, vocabulary, n_tokens, 0, slot=None, seed=seed + 7919 * number
        )
        for canary in suite.insert(text).canaries:
            made.setdefault(canary.words, (canary.intent, canary.tags))
        if len(made) >= _count(count):
            break
    else:
        raise DataError(
            f"{len(made)} different secrets could be made, not {count}",
            hint="Take more templates, a larger vocabulary or longer secrets",
        )
    kept = list(made.items())[:count]
    intents = [str(intent) for _, (intent, _) in kept] if text.has_intents else None
    slots = [list(tags or ()) for _, (_, tags) in kept] if text.has_slots else None
    return TextCanaries(
        TextSet.from_texts([list(words) for words, _ in kept], intents, slots), flip(count, seed)
    )


def dirac_features(
    features: int, count: int, labels: int, *, key: str = "features", label: str = "intent",
    size: float = 1.0, seed: int = 0,
) -> tuple[dict[str, Tensor], NDArray[np.bool_]]:  # fmt: skip
    """Dirac canaries of models of features: each has one feature that no real example has.

    Args:
        features: F of the real examples; the canaries' own follow them.
        count: m.
        labels: number of labels, drawn by chance.
        key: batch key of the features.
        label: batch key of the labels.
        size: value of the feature.
        seed: of coins and labels.

    Returns:
        Tensors ``(m, F + m)`` and ``(m,)``, and the coins ``(m,)``.
    """
    values = torch.zeros(_count(count), features + count)
    values[torch.arange(count), features + torch.arange(count)] = size
    drawn = np.random.default_rng([seed, count, 1]).integers(labels, size=count)
    return {key: values, label: torch.from_numpy(drawn)}, flip(count, seed)


class WithCanaries:
    """Examples, followed by the canaries that are in.

    Tensors of the real examples are padded with zeros to the width of the canaries'.

    Args:
        examples: real ones.
        canaries: tensors ``(m, ...)`` by the same keys.
        included: ``(m,)`` coins.

    Raises:
        ParameterError: lengths that differ.
    """

    def __init__(
        self, examples: Examples, canaries: Mapping[str, Tensor], included: NDArray[np.bool_]
    ) -> None:
        lengths = {key: len(value) for key, value in canaries.items()}
        if set(lengths.values()) != {len(included)}:
            raise ParameterError(f"canaries have lengths {lengths}, coins {len(included)}")
        self.examples = examples
        rows = torch.from_numpy(np.flatnonzero(included))
        self.canaries = {key: value[rows] for key, value in canaries.items()}
        self.planted = int(included.sum())

    def __len__(self) -> int:
        """Number of examples, canaries included."""
        return len(self.examples) + self.planted

    @cached_property
    def fingerprint(self) -> str:
        """Identifies examples and canaries, for resuming."""
        own = getattr(self.examples, "fingerprint", "")
        sums = [f"{key}:{float(value.double().sum())!r}" for key, value in self.canaries.items()]
        return "|".join([str(own), str(self.planted), *sums])

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        """Tensors of some examples, in the order of the indices."""
        indices = np.asarray(indices, np.int64)
        real = indices < len(self.examples)
        first = self.examples.batch(indices[real], rng)
        rows = torch.from_numpy(indices[~real] - len(self.examples))
        back = torch.from_numpy(np.argsort(np.argsort(~real, kind="stable"), kind="stable"))
        found = {}
        for key, value in first.items():
            other = self.canaries[key][rows]
            widths = [b - a for a, b in zip(value.shape[1:], other.shape[1:], strict=True)]
            padding = [size for width in reversed(widths) for size in (0, max(0, width))]
            other_padding = [size for width in reversed(widths) for size in (0, max(0, -width))]
            both = [F.pad(value, padding), F.pad(other.to(value.dtype), other_padding)]
            found[key] = torch.cat(both)[back]
        return found


def _choose(pool: TextSet, count: int, seed: int) -> tuple[TextSet, Any]:
    if _count(count) > len(pool):
        raise DataError(f"{count} canaries of {len(pool)} utterances cannot be chosen")
    rng = np.random.default_rng([seed, count, 1])
    return pool.select(np.sort(rng.permutation(len(pool))[:count])), rng


def _count(count: int) -> int:
    if count < 1:
        raise ParameterError(f"there must be one canary at least, not {count}")
    return count
