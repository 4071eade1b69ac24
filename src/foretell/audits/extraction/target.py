"""The attacked model: losses of made-up utterances, from words or from vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.audits.extraction.suite import Canary
from foretell.errors import ParameterError
from foretell.learners.language import IGNORED, JointLearner, TextReader

Scorer = Callable[[list[list[str]], str | None, tuple[str, ...] | None], NDArray[np.floating]]
"""Losses ``(n,)`` of n utterances that have one intent and one row of tags."""


class VectorTarget:
    """A joint model that takes words as vectors, so that gradients reach them.

    Args:
        learner: the model; it is put in evaluation mode.
        reader: its codes.
    """

    differentiable = True

    def __init__(self, learner: JointLearner, reader: TextReader) -> None:
        self.learner, self.reader = learner.eval(), reader
        self.device = next(learner.parameters()).device

    def missing(self, words: Sequence[str]) -> tuple[str, ...]:
        """Words that the model does not know, which it can give away no more than any other.

        A model of pieces does not know words with an unknown piece, one that reads characters alone
        those with an unknown character.
        """
        reader = self.reader
        if reader.pieces is not None:
            unknown = reader.pieces.unknown
            cut = reader.pieces.encode(list(words))
            return tuple(w for w, own in zip(words, cut, strict=True) if not own or unknown in own)
        if self.spelled:
            letters = reader.characters or ()
            return tuple(w for w in words if any(c not in letters for c in w[: reader.word_length]))
        return tuple(word for word in words if word not in reader.words)

    @property
    def spelled(self) -> bool:
        """Whether words are read by their characters alone."""
        return self.learner.embedding is not None and self.learner.embedding.words is None

    def counts(self, words: Sequence[str]) -> list[int]:
        """Places that each word takes: its pieces, or one."""
        if self.reader.pieces is None:
            return [1] * len(words)
        return [len(own) for own in self.reader.pieces.encode(list(words))]

    @property
    def intents(self) -> tuple[str, ...]:
        """Labels there are."""
        return self.reader.intents

    def vectors(self, words: Sequence[str]) -> Tensor:
        """What the model reads of the words, ``(places, E)``, characters included."""
        reader = self.reader
        if reader.pieces is None:
            codes = reader.words.encode(words).tolist()
        else:
            codes = [c + reader.shift for own in reader.pieces.encode(list(words)) for c in own]
        spelling = None if reader.characters is None else reader.spell(list(words))
        if not words:
            return self._embedded([0], None if spelling is None else reader.spell([""]))[:0]
        return self._embedded(codes, spelling)

    def marks(self) -> tuple[Tensor, Tensor]:
        """Vectors of what stands before and after every utterance ``(places, E)``, often none."""
        pieces, shift = self.reader.pieces, self.reader.shift
        if pieces is None:
            nothing = self.vectors(())
            return nothing, nothing
        before, after = (
            self._embedded([code + shift for code in own], None)
            for own in (pieces.prefix, pieces.suffix)
        )
        return before, after

    def _embedded(self, codes: list[int], spelling: NDArray[np.int64] | None) -> Tensor:
        batch = {"tokens": torch.tensor([codes], dtype=torch.int64, device=self.device)}
        if self.reader.characters is not None and spelling is not None:
            batch["characters"] = torch.from_numpy(spelling)[None].to(self.device)
        with torch.no_grad():
            embedded: Tensor = self.learner.embed(batch)
        return embedded[0]

    def losses(
        self, embedded: Tensor, intent: str | None, tags: tuple[str | None, ...] | None
    ) -> Tensor:
        """Losses ``(B,)`` of utterances as vectors ``(B, T, E)``, with their graph.

        An intent or tag that the model does not know has no part in the loss, nor has a place
        without a tag.
        """
        size, length, _ = embedded.shape
        mask = torch.ones((size, length), dtype=torch.bool, device=embedded.device)
        output = self.learner.forward_from_embeddings(embedded, mask)
        batch = {"mask": mask}
        if self.reader.intents:
            code = IGNORED if intent is None else _code(intent, self.reader.intents)
            batch["intent"] = torch.full((size,), code, device=embedded.device)
        if self.reader.slots:
            codes = [IGNORED] * length
            if tags is not None:
                codes = [_code(tag, self.reader.slots) for tag in tags]
            batch["slots"] = torch.tensor(codes, device=embedded.device).expand(size, -1)
        return self.learner.score(output, batch)


class ScoredTarget:
    """A model of which only losses of whole utterances can be had.

    Args:
        scorer: losses ``(n,)`` of n utterances with one intent and one row of tags.
        intents: labels there are.
    """

    differentiable = False

    def __init__(self, scorer: Scorer, intents: Sequence[str] = ()) -> None:
        self.scorer, self.intents = scorer, tuple(intents)

    def missing(self, words: Sequence[str]) -> tuple[str, ...]:
        """Nothing is known of its vocabulary."""
        return ()


Target = VectorTarget | ScoredTarget


def as_target(model: Any) -> Target:
    """A model as the attack sees it.

    Args:
        model: a fitted :class:`~foretell.estimators.NLU`, a pair ``(JointLearner, TextReader)``, a
            target, or a function as :data:`Scorer` says.

    Raises:
        ParameterError: anything else.
    """
    if isinstance(model, VectorTarget | ScoredTarget):
        return model
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], JointLearner):
        return VectorTarget(*model)
    learner, reader = getattr(model, "learner_", None), getattr(model, "reader_", None)
    if isinstance(learner, JointLearner) and isinstance(reader, TextReader):
        return VectorTarget(learner, reader)
    if callable(model):
        return ScoredTarget(model)
    raise ParameterError(
        f"a {type(model).__name__} cannot be attacked: give a fitted NLU, a pair of JointLearner "
        "and TextReader, or a function that scores utterances"
    )


class Problem:
    """One canary of one model: the losses of its completions.

    Args:
        target: the model.
        canary: the secret to find.
        vocabulary: words that secrets are made of.
        labels: intents to try; the canary's own alone where the attacker knows it.
        tags: whether the attacker knows the tags.

    Raises:
        ParameterError: an utterance longer than the model reads.
    """

    def __init__(
        self,
        target: Target,
        canary: Canary,
        vocabulary: Sequence[str],
        labels: Sequence[str | None],
        tags: bool = True,
    ) -> None:
        self.target, self.canary = target, canary
        self.vocabulary, self.labels = tuple(vocabulary), tuple(labels)
        self.tags = canary.tags if tags else None
        self.n = len(canary.secret)
        places = {word: place for place, word in enumerate(self.vocabulary)}
        self.secret = np.array([places.get(word, -1) for word in canary.secret])
        self.control = np.array([places.get(word, -1) for word in canary.control])
        if isinstance(target, VectorTarget):
            self._lay_out(target)

    def _lay_out(self, target: VectorTarget) -> None:
        """Places of the utterance: marks, the prefix, the secret's words, marks.

        A word that is cut into pieces takes a place for each; all words of secrets must take
        equally many, since it is words that are chosen, and the places have to stay.
        """
        prefix, secret = self.canary.prefix, self.canary.secret
        counts = target.counts(self.vocabulary)
        if len(set(counts)) > 1:
            few, many = (self.vocabulary[counts.index(f(counts))] for f in (min, max))
            raise ParameterError(
                f"the tokenizer cuts {few!r} into {min(counts)} and {many!r} into {max(counts)} "
                "pieces: give a vocabulary of secrets whose words are cut into equally many"
            )
        before, after = target.marks()
        own = [*target.counts(prefix), *counts[:1] * len(secret)]
        length = len(before) + sum(own) + len(after)
        for longest in (getattr(target.learner, "max_length", None), target.reader.max_length):
            if longest is not None and length > longest:
                raise ParameterError(
                    f"the prefix {' '.join(prefix)!r} and {self.n} words of secret are longer than "
                    f"the {longest} words that the model reads"
                )
        self.prefix_vectors = torch.cat([before, target.vectors(prefix)])
        self.suffix_vectors = after
        self.places = counts[0]
        self.word_vectors = target.vectors(self.vocabulary).reshape(len(self.vocabulary), -1)
        self.place_tags: tuple[str | None, ...] | None = None
        if self.tags is not None:
            tags: list[str | None] = [None] * len(before)
            for tag, count in zip(self.tags, own, strict=True):
                tags += [tag, *[None] * (count - 1)]
            self.place_tags = (*tags, *[None] * len(after))

    @property
    def space(self) -> int:
        """Completions there are."""
        return len(self.vocabulary) ** self.n

    def index(self, choice: NDArray[np.int64]) -> int:
        """Number of a completion ``(n,)`` in the order of :meth:`all`."""
        number = 0
        for place in choice.tolist():
            number = number * len(self.vocabulary) + place
        return number

    def all(self, begin: int, end: int) -> NDArray[np.int64]:
        """Completions ``(end - begin, n)`` by number."""
        shape = (len(self.vocabulary),) * self.n
        return np.stack(np.unravel_index(np.arange(begin, end), shape), -1)

    def losses(self, choices: NDArray[np.int64], at_once: int = 4096) -> NDArray[np.float64]:
        """True losses ``(m,)`` of completions ``(m, n)``, of the label that fits best."""
        found = []
        for begin in range(0, len(choices), at_once):
            part = choices[begin : begin + at_once]
            each = [self._losses(part, label) for label in self.labels]
            found.append(np.minimum.reduce(each))
        return np.concatenate(found)

    def _losses(self, choices: NDArray[np.int64], label: str | None) -> NDArray[np.float64]:
        if isinstance(self.target, ScoredTarget):
            words = [
                [*self.canary.prefix, *(self.vocabulary[place] for place in row)]
                for row in choices.tolist()
            ]
            return np.asarray(self.target.scorer(words, label, self.tags), np.float64)
        with torch.inference_mode():
            places = torch.from_numpy(choices).to(self.target.device)
            return self.relaxed(self.word_vectors[places], label).double().cpu().numpy()

    def relaxed(self, vectors: Tensor, label: str | None) -> Tensor:
        """Losses ``(B,)`` where the secret's words are any vectors ``(B, n, places * E)``."""
        assert isinstance(self.target, VectorTarget)
        size = len(vectors)
        prefix, suffix = (
            v.expand(size, -1, -1) for v in (self.prefix_vectors, self.suffix_vectors)
        )
        middle = vectors.reshape(size, self.n * self.places, -1)
        return self.target.losses(torch.cat([prefix, middle, suffix], 1), label, self.place_tags)


def _code(name: str | None, names: tuple[str, ...]) -> int:
    return names.index(name) if name is not None and name in names else IGNORED
