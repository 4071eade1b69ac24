"""ModIvA: completing an utterance by inverting the model that was trained on it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.audits.extraction.exposure import estimated_exposure, exposure, rank_of
from foretell.audits.extraction.report import ExtractionReport, ExtractionRow
from foretell.audits.extraction.suite import Canary, PlantedCanaries
from foretell.audits.extraction.target import Problem, Target, VectorTarget, as_target
from foretell.errors import DataError, ParameterError

Method = Literal["gumbel", "exhaustive", "embedding"]
_LARGEST_SPACE = 1_000_000
_PROJECT_EVERY = 10
_MOST_PAIRS = 5_000


class ModelInversionAttack:
    """Reconstructs secret words from a model's weights and a known prefix (Parikh et al. 2022).

    ``"gumbel"`` seeks the words that the model's loss likes best with gradients, through a softmax
    over the possible words that is cooled until it chooses one; ``"exhaustive"`` tries all
    secrets, which is the best any such attack can do and tells "the search failed" from "the model
    did not memorise"; ``"embedding"`` moves free vectors and takes the nearest words, the baseline.

    Meant for the owner of a model who wants to know what it gives away before others do.

    Args:
        method: see above.
        restarts: searches from different beginnings, at once; the first has no Gumbel noise.
        steps: of each search.
        learning_rate: of Adam.
        entropy_weight: weight of the mean entropy of the choices at the end; it grows from 0.
        refine: whether the found words are changed, one by one and in pairs, as long as the loss
            falls.
        know_label: whether the attacker knows the intent; else all are tried.
        know_tags: whether the attacker knows the tags.
        ranks: ``"exact"`` looks at all secrets, ``"estimate"`` fits random ones, ``"auto"`` is
            exact up to a million secrets.
        sample: random secrets that the estimate looks at.
        seed: of everything that is random.

    Raises:
        ParameterError: values out of range.
    """

    def __init__(
        self,
        method: Method = "gumbel",
        *,
        restarts: int = 8,
        steps: int = 100,
        learning_rate: float = 0.5,
        entropy_weight: float = 0.1,
        refine: bool = True,
        know_label: bool = True,
        know_tags: bool = True,
        ranks: Literal["auto", "exact", "estimate"] = "auto",
        sample: int = 10_000,
        seed: int = 0,
    ) -> None:
        if method not in get_args(Method):
            raise ParameterError(
                f"method must be one of {', '.join(get_args(Method))}, not {method!r}"
            )
        if ranks not in ("auto", "exact", "estimate"):
            raise ParameterError(f"ranks must be 'auto', 'exact' or 'estimate', not {ranks!r}")
        if restarts < 1 or steps < 1 or sample < 100:
            raise ParameterError(
                "restarts and steps must be at least 1 and sample at least 100, not "
                f"{restarts}, {steps} and {sample}"
            )
        if not learning_rate > 0 or entropy_weight < 0:
            raise ParameterError(
                "learning_rate must be positive and entropy_weight not negative, not "
                f"{learning_rate} and {entropy_weight}"
            )
        self.method, self.restarts, self.steps = method, restarts, steps
        self.learning_rate, self.entropy_weight = learning_rate, entropy_weight
        self.refine, self.know_label, self.know_tags = refine, know_label, know_tags
        self.ranks, self.sample, self.seed = ranks, sample, seed

    def run(
        self,
        model: Any,
        planted: PlantedCanaries | Sequence[Canary],
        vocabulary: Sequence[str] | None = None,
    ) -> ExtractionReport:
        """Attacks a model.

        Args:
            model: see :func:`~foretell.audits.extraction.target.as_target`.
            planted: what was planted, or canaries, with the vocabulary of their secrets.
            vocabulary: words that secrets are made of, where canaries are given.

        Raises:
            ParameterError: a model without vectors of words, which can only be attacked
                exhaustively; or too many secrets for that.
            DataError: no canary.
        """
        target = as_target(model)
        if isinstance(planted, PlantedCanaries):
            canaries, words = planted.canaries, planted.vocabulary
        else:
            canaries, words = tuple(planted), tuple(vocabulary or ())
        if not canaries or not words:
            raise DataError("there is no canary to look for, or no word that it could be made of")
        if self.method != "exhaustive" and not target.differentiable:
            raise ParameterError(
                f"method {self.method!r} needs a model that reads words as vectors; of this one "
                "only losses can be had: take method='exhaustive'"
            )
        missing = target.missing(words)
        known = tuple(word for word in words if word not in missing)
        rows = [
            self._attack(target, canary, known, missing, number)
            for number, canary in enumerate(canaries)
        ]
        return ExtractionReport(
            tuple(rows), self.method, len(words), len(canaries[0].secret), missing
        )

    def _attack(
        self, target: Target, canary: Canary, known: tuple[str, ...], missing: tuple[str, ...],
        number: int,
    ) -> ExtractionRow:  # fmt: skip
        if not known or any(word in missing for word in canary.secret):
            return ExtractionRow(number, canary, None, None, None, None, None, None, None)
        labels: tuple[str | None, ...] = (canary.intent,)
        if not self.know_label and target.intents:
            labels = target.intents
        problem = Problem(target, canary, known, labels, self.know_tags)
        exact = self.ranks == "exact" or (self.ranks == "auto" and problem.space <= _LARGEST_SPACE)
        if problem.space > _LARGEST_SPACE and (exact or self.method == "exhaustive"):
            raise ParameterError(
                f"{problem.space:,} secrets are too many to look at all of them (at most "
                f"{_LARGEST_SPACE:,}): take method='gumbel' and ranks='estimate'"
            )
        everything = None
        if exact or self.method == "exhaustive":
            everything = problem.losses(problem.all(0, problem.space))
        if self.method == "exhaustive":
            assert everything is not None
            best = int(everything.argmin())
            found, loss = problem.all(best, best + 1)[0], float(everything[best])
        else:
            rng = np.random.default_rng([self.seed, number])
            starts = self._search(problem, rng)
            found, loss = self._refined(problem, starts) if self.refine else _best(problem, starts)
        own = float(problem.losses(problem.secret[None])[0])
        rank: float | None = None
        control: float | None = None
        has_control = bool((problem.control >= 0).all())
        if everything is not None:
            place = problem.index(problem.secret)
            rank, bits = rank_of(everything, place), exposure(everything, place)
            if has_control:
                control = exposure(everything, problem.index(problem.control))
        else:
            rng = np.random.default_rng([self.seed, number, 1])
            drawn = rng.integers(len(known), size=(self.sample, problem.n))
            sample = problem.losses(drawn)
            most = math.log2(problem.space)  # beyond the sample the fit knows no end
            bits = min(most, estimated_exposure(sample, own))
            if has_control:
                other = float(problem.losses(problem.control[None])[0])
                control = min(most, estimated_exposure(sample, other))
        optimum = None if everything is None else float(everything.min())
        words = tuple(known[place] for place in found.tolist())
        return ExtractionRow(number, canary, words, loss, own, optimum, rank, bits, control)

    def _search(self, problem: Problem, rng: np.random.Generator) -> NDArray[np.int64]:
        """Completions ``(m, n)`` that the searches came by, the ends of all restarts among them."""
        found = [self._descend(problem, label, rng) for label in problem.labels]
        return np.unique(np.concatenate(found), axis=0)

    def _descend(
        self, problem: Problem, label: str | None, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        assert isinstance(problem.target, VectorTarget)
        vectors = problem.word_vectors
        generator = torch.Generator(vectors.device).manual_seed(int(rng.integers(2**62)))

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=vectors.device)

        shape = (self.restarts, problem.n, len(vectors))
        noisy = (torch.arange(self.restarts, device=vectors.device) > 0)[:, None, None]
        if self.method == "gumbel":
            free = (0.2 * uniform(*shape) - 0.1).to(vectors.dtype).requires_grad_(True)
        else:
            mixture = uniform(*shape).softmax(-1).to(vectors.dtype)
            free = (mixture @ vectors).requires_grad_(True)
        optimizer = torch.optim.Adam([free], lr=self.learning_rate)
        found = []
        for step in range(self.steps):
            optimizer.zero_grad(set_to_none=True)
            entropy: Tensor | float = 0.0
            if self.method == "gumbel":
                temperature = max(0.1, 0.96**step)
                # Two small numbers keep both logarithms finite.
                gumbel = -torch.log(-torch.log(uniform(*shape) + 1e-20) + 1e-20)
                logits = (free + noisy * gumbel.to(free.dtype)) / temperature
                weights = logits.softmax(-1)
                entropy = -(weights * logits.log_softmax(-1)).sum(-1).mean(-1)
                inputs = weights @ vectors
            else:
                inputs = free
            share = step / max(1, self.steps - 1)
            losses = problem.relaxed(inputs, label) + self.entropy_weight * share * entropy
            (free.grad,) = torch.autograd.grad(losses.sum(), [free])
            optimizer.step()
            if (step + 1) % _PROJECT_EVERY == 0 or step + 1 == self.steps:
                with torch.no_grad():
                    if self.method == "gumbel":
                        choice = free.argmax(-1)
                    else:
                        choice = torch.cdist(free, vectors.expand(len(free), -1, -1)).argmin(-1)
                        free.copy_(vectors[choice])
                found.append(choice.cpu().numpy())
        return np.unique(np.concatenate(found), axis=0)

    def _refined(
        self, problem: Problem, starts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], float]:
        """Changes words from the best ends on, until no change lowers the loss.

        One word at a time; where that ends, two at a time if those are few enough, since the words
        of a secret are remembered together.
        """
        losses = problem.losses(starts)
        kept = np.argsort(losses, kind="stable")[: self.restarts]
        current, values = starts[kept], losses[kept]
        steps = [_changes(problem, 1)]
        if math.comb(problem.n, 2) * len(problem.vocabulary) ** 2 <= _MOST_PAIRS:
            steps.append(_changes(problem, 2))
        level = 0
        while level < len(steps):
            if level:  # pairs are many: from the best end alone
                at = int(values.argmin())
                current, values = current[at : at + 1], values[at : at + 1]
            places, words = steps[level]
            others = np.repeat(current[:, None], len(places), 1)
            np.put_along_axis(others, np.broadcast_to(places, (len(current), *places.shape)),
                              np.broadcast_to(words, (len(current), *words.shape)), 2)  # fmt: skip
            tried = problem.losses(others.reshape(-1, problem.n)).reshape(len(current), -1)
            best = tried.argmin(1)
            rows = np.arange(len(current))
            better = tried[rows, best] < values - 1e-12
            if not better.any():
                level += 1
                continue
            current = np.where(better[:, None], others[rows, best], current)
            values = np.where(better, tried[rows, best], values)
            current, first = np.unique(current, axis=0, return_index=True)
            values, level = values[first], 0
        at = int(values.argmin())
        return current[at], float(values[at])


def _changes(problem: Problem, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ways to set so many words anew: their places ``(c, size)`` and words ``(c, size)``."""
    size = min(size, problem.n)
    places = list(itertools.combinations(range(problem.n), size))
    words = list(itertools.product(range(len(problem.vocabulary)), repeat=size))
    return (
        np.repeat(np.array(places, np.int64), len(words), 0),
        np.tile(np.array(words, np.int64), (len(places), 1)),
    )


def _best(problem: Problem, choices: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
    losses = problem.losses(choices)
    at = int(losses.argmin())
    return choices[at], float(losses[at])
