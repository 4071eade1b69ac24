"""Continual methods: what is done before and after each task of a sequence.

A method looks after a learner that is trained on one task after another by the ordinary loop. It
brings the strategies for the next task and keeps what it needs when a task is done. All of them
work on any :class:`~foretell.learners.contract.Learner`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretell.errors import ParameterError
from foretell.learners.contract import Learner
from foretell.training.continual.fisher import Outcomes, diagonal_fisher
from foretell.training.continual.memory import (
    Concatenation,
    Subset,
    exemplars,
    outputs,
    representations,
)
from foretell.training.continual.rehearsal import (
    AveragedGradientMemory,
    DarkReplay,
    Distance,
    Distillation,
    GradientEpisodicMemory,
    Replay,
    RepresentationReplay,
    squared_distance,
)
from foretell.training.continual.synaptic import SynapticIntelligence
from foretell.training.examples import Examples
from foretell.training.penalty import ParameterPenalty
from foretell.training.strategy import Strategy

Labels = Callable[[Examples], Any]
"""Labels ``(n,)`` of examples, to keep more of the rare class; None draws evenly."""


class ContinualMethod:
    """Base of all methods, and by itself the naive one: fine-tuning, with nothing kept.

    Attributes:
        keeps: what of earlier tasks this method needs: ``"nothing"``, ``"parameters"``,
            ``"representations"``, ``"raw examples"`` or ``"all data"``.
    """

    keeps = "nothing"

    def examples(self, task: Examples) -> Examples:
        """What the next task is trained on."""
        return task

    def begin(self, learner: Learner) -> list[Strategy]:
        """Readies the learner for the next task; the strategies to train it with."""
        return []

    def end(self, learner: Learner, task: Examples) -> None:
        """Keeps what later tasks need of a task that was just trained."""

    @property
    def name(self) -> str:
        """How tables call it."""
        return type(self).__name__


class Naive(ContinualMethod):
    """Fine-tuning: the lower bound."""


class Joint(ContinualMethod):
    """Trains on all data of all tasks so far: the upper bound, which needs them in one place."""

    keeps = "all data"

    def __init__(self) -> None:
        self.seen: list[Examples] = []

    def examples(self, task: Examples) -> Examples:
        """All tasks so far as one."""
        return Concatenation([*self.seen, task]) if self.seen else task

    def end(self, learner: Learner, task: Examples) -> None:
        """Keeps the task's data."""
        self.seen.append(task)


class ElasticWeightConsolidation(ContinualMethod):
    """Holds parameters near where earlier tasks left them, by their Fisher information.

    ``L + strength / 2 * sum_i F_i (theta_i - theta*_i)^2`` (Kirkpatrick et al. 2017, eq. 3), one
    such term a task, or with ``online`` one in all whose precision is ``gamma F_old + F_new`` and
    whose anchor is the latest optimum (Schwarz et al. 2018).

    Args:
        strength: in units of the mean Fisher information of one example.
        online: one running precision.
        gamma: how much of the older precision is kept.
        fisher_examples: examples from which the Fisher information is estimated.
        outcomes: for the exact expectation over labels; see
            :func:`~foretell.training.continual.diagonal_fisher`.
        random_state: of the draw of examples.
    """

    keeps = "parameters"

    def __init__(
        self,
        strength: float = 3000.0,
        *,
        online: bool = False,
        gamma: float = 1.0,
        fisher_examples: int = 5000,
        outcomes: Outcomes | None = None,
        random_state: int = 0,
    ) -> None:
        if not 0 <= gamma <= 1:
            raise ParameterError(f"gamma must lie in [0, 1], not {gamma}")
        self.strength, self.online, self.gamma = strength, online, gamma
        self.fisher_examples, self.outcomes = fisher_examples, outcomes
        self.random_state = random_state
        self.held: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self.not_finite = 0

    @property
    def name(self) -> str:
        """Online or not."""
        return ("Online" if self.online else "") + type(self).__name__

    def begin(self, learner: Learner) -> list[Strategy]:
        """One penalty with the gradient of those of all tasks so far.

        A sum of squares around several anchors is, but for a constant, one square around their
        mean, weighted by precision.
        """
        if not self.held:
            return []
        anchor, precision = {}, {}
        for name, latest in self.held[-1][0].items():
            parts = [(a[name], f[name]) for a, f in self.held]
            total = torch.stack([f for _, f in parts]).sum(0)
            mean = torch.stack([f * a for a, f in parts]).sum(0) / total.clamp(min=1e-30)
            anchor[name], precision[name] = torch.where(total > 0, mean, latest), total
        return [ParameterPenalty(anchor, precision, self.strength)]

    def end(self, learner: Learner, task: Examples) -> None:
        """Measures what the task has pinned down."""
        rng = np.random.default_rng((self.random_state, len(self.held)))
        some = Subset(task, exemplars(self.fisher_examples, rng, of=len(task)))
        found = diagonal_fisher(learner, some, outcomes=self.outcomes)
        self.not_finite += found.not_finite
        anchor = {n: p.detach().clone() for n, p in learner.named_parameters() if n in found.values}
        precision = found.values
        if self.online and self.held:
            earlier = self.held.pop()[1]
            precision = {n: v + self.gamma * earlier.get(n, 0.0) for n, v in precision.items()}
        self.held.append((anchor, precision))


class SI(ContinualMethod):
    """Synaptic intelligence; see :class:`SynapticIntelligence`.

    Args:
        strength: factor on the penalty.
        xi: damping.
    """

    keeps = "parameters"

    def __init__(self, strength: float = 1.0, *, xi: float = 1e-3) -> None:
        self.strength, self.xi = strength, xi
        self.held: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self._now: SynapticIntelligence | None = None

    def begin(self, learner: Learner) -> list[Strategy]:
        """The penalty, which also measures the next task."""
        self._now = SynapticIntelligence(*self.held, strength=self.strength, xi=self.xi)
        return [self._now]

    def end(self, learner: Learner, task: Examples) -> None:
        """Takes the path's importance; the anchor is where the learner really ended."""
        assert self._now is not None
        _, omega = self._now.consolidated()
        anchor = {n: p.detach().clone() for n, p in learner.named_parameters() if n in omega}
        self.held = (anchor, omega)


class _Rehearsing(ContinualMethod):
    """Keeps exemplars of each task, and rehearses them from the second task on."""

    keeps = "raw examples"

    def __init__(
        self,
        memory: int = 1000,
        *,
        batch_size: int = 256,
        labels: Labels | None = None,
        positives: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.memory, self.labels, self.positives = memory, labels, positives
        self.batch_size, self.random_state = batch_size, random_state
        self.kept: list[Examples] = []

    def begin(self, learner: Learner) -> list[Strategy]:
        """The rehearsal, from the second task on."""
        return [self._rehearsal()] if self.kept else []

    def _rehearsal(self) -> Strategy:
        """Of what is kept."""
        raise NotImplementedError

    def _choose(self, task: Examples) -> Subset:
        rng = np.random.default_rng((self.random_state, len(self.kept)))
        if self.labels is None:
            return Subset(task, exemplars(self.memory, rng, of=len(task)))
        labels = self.labels(task)
        chosen = exemplars(self.memory, rng, labels=labels, positives=self.positives)
        return Subset(task, chosen)

    def end(self, learner: Learner, task: Examples) -> None:
        """Keeps the task's exemplars."""
        self.kept.append(self._choose(task))


class ExperienceReplay(_Rehearsing):
    """Rehearses raw exemplars of earlier tasks; see :class:`Replay`.

    Args:
        memory: examples kept a task.
        weight: on the rehearsed loss.
        batch_size: examples drawn of each task a step.
        labels: to keep more of the rare class.
        positives: kept of it at most, half the memory by default.
        random_state: of the choice.
    """

    def __init__(
        self,
        memory: int = 1000,
        *,
        weight: float = 1.0,
        batch_size: int = 128,
        labels: Labels | None = None,
        positives: int | None = None,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            memory, batch_size=batch_size, labels=labels, positives=positives,
            random_state=random_state,
        )  # fmt: skip
        self.weight = weight

    def _rehearsal(self) -> Strategy:
        return Replay(self.kept, weight=self.weight, batch_size=self.batch_size)


class AGEM(_Rehearsing):
    """Projects gradients that oppose those of earlier exemplars; see
    :class:`AveragedGradientMemory`.

    Args:
        memory: examples kept a task.
        batch_size: examples of the reference gradient.
        labels: to keep more of the rare class.
        positives: kept of it at most.
        random_state: of the choice.
    """  # noqa: D205

    def _rehearsal(self) -> Strategy:
        return AveragedGradientMemory(Concatenation(self.kept), batch_size=self.batch_size)


class GEM(_Rehearsing):
    """Projects gradients that oppose those of any earlier task's exemplars; see
    :class:`GradientEpisodicMemory`.

    Args:
        memory: examples kept a task.
        margin: least multiplier of a task in steps that are projected.
        batch_size: examples of each task's gradient.
        labels: to keep more of the rare class.
        positives: kept of it at most.
        random_state: of the choice.
    """  # noqa: D205

    def __init__(
        self,
        memory: int = 1000,
        *,
        margin: float = 0.5,
        batch_size: int = 256,
        labels: Labels | None = None,
        positives: int | None = None,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            memory, batch_size=batch_size, labels=labels, positives=positives,
            random_state=random_state,
        )  # fmt: skip
        self.margin = margin

    def _rehearsal(self) -> Strategy:
        return GradientEpisodicMemory(self.kept, margin=self.margin, batch_size=self.batch_size)


class DERpp(_Rehearsing):
    """Rehearses exemplars and what the model once said of them; see :class:`DarkReplay`.

    Args:
        memory: examples kept a task.
        alpha: on the distance of outputs.
        beta: on the loss.
        batch_size: examples of each draw.
        distance: between outputs.
        labels: to keep more of the rare class.
        positives: kept of it at most.
        random_state: of the choice.
    """

    def __init__(
        self,
        memory: int = 1000,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        batch_size: int = 128,
        distance: Distance = squared_distance,
        labels: Labels | None = None,
        positives: int | None = None,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            memory, batch_size=batch_size, labels=labels, positives=positives,
            random_state=random_state,
        )  # fmt: skip
        self.alpha, self.beta, self.distance = alpha, beta, distance
        self.said: list[list[Tensor]] = []

    def _rehearsal(self) -> Strategy:
        stored = [torch.cat(parts) for parts in zip(*self.said, strict=True)]
        return DarkReplay(
            Concatenation(self.kept), stored, alpha=self.alpha, beta=self.beta,
            batch_size=self.batch_size, distance=self.distance,
        )  # fmt: skip

    def end(self, learner: Learner, task: Examples) -> None:
        """Keeps exemplars and what the learner says of them now."""
        super().end(learner, task)
        self.said.append(outputs(learner, self.kept[-1]))


class LwF(ContinualMethod):
    """Learning without forgetting; see :class:`Distillation`.

    Args:
        weight: on the distance to the old model's outputs.
        distance: between outputs.
    """

    keeps = "parameters"

    def __init__(self, weight: float = 1.0, *, distance: Distance = squared_distance) -> None:
        self.weight, self.distance = weight, distance
        self.teacher: Learner | None = None

    def begin(self, learner: Learner) -> list[Strategy]:
        """The distillation, from the second task on."""
        if self.teacher is None:
            return []
        return [Distillation(self.teacher, weight=self.weight, distance=self.distance)]

    def end(self, learner: Learner, task: Examples) -> None:
        """Keeps a copy of the learner."""
        self.teacher = copy.deepcopy(learner).eval().requires_grad_(False)


class WeightUncertaintyReplay(_Rehearsing):
    """WUPERR: weight-uncertainty propagation and episodic representation replay.

    After the first task the layers below the representation are frozen for good. Later tasks
    train the layers above it with an elastic penalty, whose precision is propagated
    (``Omega_n = gamma Omega_{n-1} + F_n``), and rehearse stored representations (Amrollahi,
    Shashikumar, Holder and Nemati, Scientific Reports 12:8380, 2022). No raw example is kept.

    Args:
        frozen: beginnings of the names of the parameters that compute the representation.
        strength: on the elastic penalty, lambda, in units of the mean Fisher information of one
            example; 0 leaves the replay alone.
        replay_weight: on the rehearsed loss, rho; 0 leaves the penalty alone.
        memory: representations kept a task.
        positives: of the rare class at most.
        labels: to keep more of the rare class.
        keys: of a batch that decoding and scoring need.
        gamma: how much of the older precision is kept.
        batch_size: representations drawn of each task a step.
        fisher_examples: examples from which the Fisher information is estimated.
        outcomes: for the exact expectation over labels.
        release: changes representations once before they are stored: noise.
        freeze: False is an ablation, whose stored representations grow stale.
        random_state: of draws.
    """

    keeps = "representations"

    def __init__(
        self,
        frozen: Sequence[str],
        *,
        strength: float = 30.0,
        replay_weight: float = 0.5,
        memory: int = 5000,
        positives: int | None = 1000,
        labels: Labels | None = None,
        keys: Sequence[str] = ("label",),
        gamma: float = 1.0,
        batch_size: int = 512,
        fisher_examples: int = 5000,
        outcomes: Outcomes | None = None,
        release: Callable[[Tensor], Tensor] | None = None,
        freeze: bool = True,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            memory, batch_size=batch_size, labels=labels, positives=positives,
            random_state=random_state,
        )  # fmt: skip
        if not frozen:
            raise ParameterError("name the parameters that compute the representation: frozen=")
        if not 0 <= gamma <= 1:
            raise ParameterError(f"gamma must lie in [0, 1], not {gamma}")
        if not (strength >= 0 and replay_weight >= 0):
            raise ParameterError(
                f"strength {strength} and replay_weight {replay_weight} must not be negative"
            )
        self.frozen, self.freeze = tuple(frozen), freeze
        self.strength, self.gamma = strength, gamma
        self.replay_weight = replay_weight
        self.keys, self.release = tuple(keys), release
        self.fisher_examples, self.outcomes = fisher_examples, outcomes
        self.anchor: dict[str, Tensor] = {}
        self.precision: dict[str, Tensor] = {}
        self.not_finite = 0

    def is_frozen(self, name: str) -> bool:
        """Whether a parameter computes the representation."""
        return any(name == p or name.startswith(f"{p}.") for p in self.frozen)

    def begin(self, learner: Learner) -> list[Strategy]:
        """Freezes the representation and brings penalty and rehearsal, from the second task on."""
        if not self.kept:
            return []
        if self.freeze:
            for name, parameter in learner.named_parameters():
                if self.is_frozen(name):
                    parameter.requires_grad_(False)
        strategies: list[Strategy] = []
        if self.strength > 0:
            strategies.append(ParameterPenalty(self.anchor, self.precision, self.strength))
        if self.replay_weight > 0:
            strategies.append(self._rehearsal())
        return strategies

    def _rehearsal(self) -> Strategy:
        return RepresentationReplay(
            self.kept, weight=self.replay_weight, batch_size=self.batch_size
        )

    def end(self, learner: Learner, task: Examples) -> None:
        """Stores representations, propagates the precision of the upper layers."""
        if not any(self.is_frozen(name) for name, _ in learner.named_parameters()):
            raise ParameterError(
                f"no parameter begins with {', '.join(self.frozen)}: nothing would be frozen"
            )
        chosen = self._choose(task)
        rng = np.random.default_rng((self.random_state, 1 + len(self.kept)))
        some = Subset(task, exemplars(self.fisher_examples, rng, of=len(task)))
        upper = [n for n, _ in learner.named_parameters() if not self.is_frozen(n)]
        names = upper if self.freeze else [n for n, _ in learner.named_parameters()]
        found = diagonal_fisher(learner, some, names=names, outcomes=self.outcomes)
        self.not_finite += found.not_finite
        self.precision = {
            n: v + self.gamma * self.precision.get(n, torch.zeros_like(v))
            for n, v in found.values.items()
        }
        parameters = dict(learner.named_parameters())
        self.anchor = {n: parameters[n].detach().clone() for n in names}
        self.kept.append(representations(learner, chosen, self.keys, release=self.release))
