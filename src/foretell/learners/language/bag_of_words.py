"""Softmax regression on hashed bags of words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from foretell.data.text import HashingVocabulary, TextSet
from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.learners.language.joint import JointOutput
from foretell.learners.language.reader import IGNORED, identify, label_codes


@dataclass(frozen=True)
class BagReader:
    """Turns texts into hashed tf-idf features of norm 1.

    The value of a word that occurs n times is ``(1 + log n) idf``, with
    ``idf = log((1 + N) / (1 + N_word)) + 1`` of the texts it was learned from.

    Args:
        vocabulary: which bucket a word falls into.
        intents: labels by code.
        idf: of each bucket; None for 1, where nothing may be learned of the texts.
    """

    vocabulary: HashingVocabulary
    intents: tuple[str, ...]
    idf: tuple[float, ...] | None = None

    @property
    def slots(self) -> tuple[str, ...]:
        """No tags: a bag has no order."""
        return ()

    @classmethod
    def learn(
        cls,
        text: TextSet,
        *,
        features: int = 8_192,
        seed: int = 0,
        idf: bool = True,
        intents: tuple[str, ...] | None = None,
    ) -> BagReader:
        """Labels and idf of a training part.

        Args:
            text: the training part.
            features: number of buckets.
            seed: of the hash.
            idf: whether counts of texts are used, which pools them; no federation or private
                training needs it.
            intents: labels to use instead of those of the text.
        """
        vocabulary = HashingVocabulary(features, seed)
        labels = text.intent_names if intents is None else tuple(intents)
        if not idf:
            return cls(vocabulary, labels)
        _, codes, _ = _counts(text, vocabulary)
        having = np.bincount(codes, minlength=features)
        values = np.log((1 + len(text)) / (1 + having)) + 1
        return cls(vocabulary, labels, tuple(values.round(6).tolist()))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "buckets": self.vocabulary.buckets,
            "seed": self.vocabulary.seed,
            "intents": list(self.intents),
            "idf": None if self.idf is None else list(self.idf),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BagReader:
        """The inverse of :meth:`to_dict`."""
        idf = values["idf"]
        vocabulary = HashingVocabulary(values["buckets"], values["seed"])
        return cls(vocabulary, tuple(values["intents"]), None if idf is None else tuple(idf))


def _counts(
    text: TextSet, vocabulary: HashingVocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where each text begins ``(n + 1,)``; bucket and count of each of its features."""
    flat = text.frame["tokens"].explode()
    different = flat.unique(maintain_order=True)
    codes = vocabulary.encode(different) - 2
    at = flat.replace_strict(different, codes, return_dtype=None).to_numpy()
    rows = np.repeat(np.arange(len(text)), text.lengths)
    places, counts = np.unique(rows * vocabulary.buckets + at, return_counts=True)
    rows, features = np.divmod(places, vocabulary.buckets)
    begins = np.searchsorted(rows, np.arange(len(text) + 1))
    return begins, features, counts


class BagExamples:
    """Texts as examples for a :class:`BagOfWordsLearner`.

    Args:
        text: texts; labels that the reader does not know have no part in the loss.
        reader: buckets, idf and labels.
    """

    def __init__(self, text: TextSet, reader: BagReader) -> None:
        self.reader, self._source = reader, text
        self.rows = np.arange(len(text))
        begins, self._features, counts = _counts(text, reader.vocabulary)
        values = 1 + np.log(counts)
        if reader.idf is not None:
            values *= np.asarray(reader.idf)[self._features]
        norms = np.sqrt(np.add.reduceat(values**2, begins[:-1]))
        self._lengths = np.diff(begins)
        self._begins = begins[:-1]
        self._values = (values / np.repeat(norms, self._lengths)).astype(np.float32)
        self.intents: NDArray[np.int64] | None = None
        if text.has_intents and reader.intents:
            self.intents = label_codes(text.frame["intent"], reader.intents)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the texts and what is read of them, for resuming."""
        return identify(self._source, self.reader.to_dict())

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """``features (B, F)`` and, where there are labels, ``intent (B,)``."""
        indices = np.asarray(indices, np.int64)
        lengths = self._lengths[indices]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1] if len(ends) else 0)
        places += np.repeat(self._begins[indices] - (ends - lengths), lengths)
        rows = np.repeat(np.arange(len(indices)), lengths)
        features = np.zeros((len(indices), self.reader.vocabulary.buckets), np.float32)
        features[rows, self._features[places]] = self._values[places]
        batch = {"features": torch.from_numpy(features)}
        if self.intents is not None:
            batch["intent"] = torch.from_numpy(self.intents[indices])
        return batch


class BagOfWordsLearner(Learner):
    """Softmax regression: the scores of the labels are linear in the features.

    Args:
        features: F.
        intents: number of labels.

    Raises:
        ParameterError: no features, or fewer than two labels.
    """

    def __init__(self, features: int, intents: int) -> None:
        super().__init__()
        if features < 1 or intents < 2:
            raise ParameterError(
                f"softmax regression needs features and two labels or more, not {features} and "
                f"{intents}"
            )
        self.intent = nn.Linear(features, intents)
        nn.init.zeros_(self.intent.weight)  # the problem is convex: no symmetry needs breaking
        nn.init.zeros_(self.intent.bias)

    def encode(self, batch: Batch) -> Tensor:
        """The features ``(B, F)``."""
        return batch["features"]

    def decode(self, encoding: Tensor, batch: Batch) -> JointOutput:
        """Scores of the labels; no tags."""
        return JointOutput(self.intent(encoding), encoding.new_zeros((len(encoding), 0, 0)))

    def score(self, output: JointOutput, batch: Batch) -> Tensor:
        """Cross-entropy ``(B,)``."""
        return F.cross_entropy(
            output.intent, batch["intent"], reduction="none", ignore_index=IGNORED
        )
