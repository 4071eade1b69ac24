"""How a method of learning from delayed feedback is declared, and found by name.

A method is one small class: which rows it trains on (a protocol of
:meth:`foretell.data.EventLog.emit`), what it predicts (a learner), which auxiliary nets it needs,
which strategies weigh its rows, and how its prediction is served. Everything else - features,
pre-training, updates, auxiliary nets, saving - is the same for all and lives in
:class:`~foretell.estimators.feedback.DelayedFeedbackClassifier`. ``@register`` makes it known.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foretell.data.events import Emission, EventLog
from foretell.errors import ParameterError
from foretell.learners.contract import Learner
from foretell.learners.tabular import ResponseNet
from foretell.training import Strategy

Mode = Literal["self", "frozen", "refresh"]
Form = Literal["exact", "published"]
Columns = dict[str, Tensor]
"""Batch keys of rows, rows first, next to their features."""


class MakeTrunk(Protocol):
    """Makes a new trunk with an attribute ``out``; ``extra`` inputs have the key ``extra``."""

    def __call__(self, extra: int = 0) -> nn.Module:
        """A new trunk."""
        ...


@dataclass(frozen=True)
class Setting:
    """What a method is told.

    Attributes:
        waiting_time: e, in the log's unit.
        window: attribution window W, in the log's unit.
        mode: where auxiliary quantities come from: ``self`` (own prediction and delays), or
            auxiliary nets that stay as they are or go on learning.
        weights: exact or published.
        engagement: kinds of engagement of a funnel.
        strict: whether a conversion implies engagement.
        seed: of everything random that the method does.
    """

    waiting_time: float
    window: float
    mode: Mode = "self"
    weights: Form = "exact"
    engagement: tuple[str, ...] = ()
    strict: bool = True
    seed: int = 0


@dataclass(frozen=True)
class AuxiliaryExamples:
    """What an auxiliary net learns from.

    Attributes:
        entity: (m,) positions in the log that was asked.
        target: (m, H) 0/1.
        known: (m, H) where the target counts.
        extra: (m, E) further inputs, or None.
    """

    entity: NDArray[np.int64]
    target: NDArray[np.float32]
    known: NDArray[np.float32]
    extra: NDArray[np.float32] | None = None


class Auxiliary:
    """A net of yes-or-no events that a method needs beside its own prediction.

    Sub-classes say what it learns from matured entities and what of it stands in the batch.

    Attributes:
        name: under which it is saved.
        events: names of the H events.
        extra: number of further inputs next to the features.
        pooled: numbers of the events that fall back to their mean when one outcome is rare.
        delays: whether it learns about delays only, so that it may be used in mode ``self``, and
            is not refreshed there.
    """

    name: str
    events: tuple[str, ...]
    extra: int = 0
    pooled: tuple[int, ...] = ()
    delays: bool = False

    @abstractmethod
    def examples(self, matured: EventLog, rng: np.random.Generator) -> AuxiliaryExamples:
        """Examples of entities whose windows are over; ``matured`` holds no others."""

    def inputs(self, rows: Emission) -> NDArray[np.float32] | None:
        """The further inputs ``(m, extra)`` of emitted rows."""
        return None

    @abstractmethod
    def columns(self, probabilities: Tensor) -> Columns:
        """Batch keys made of the net's probabilities ``(m, H)`` for emitted rows."""


class FeedbackMethod:
    """Base of the methods. The defaults are those of plain training on binary labels.

    Attributes:
        name: how users call it.
        protocol: whose rows it is trained on.
        modes: those it works in; the first is what ``auxiliary="auto"`` means.
    """

    name: ClassVar[str]
    protocol: ClassVar[str]
    modes: ClassVar[tuple[Mode, ...]] = ("self", "frozen", "refresh")

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @property
    def ages(self) -> tuple[float, ...]:
        """Further ages at which it sees every entity, with the protocol ``ages``."""
        return ()

    @property
    def labels(self) -> int:
        """Number of labels of the main learner."""
        return 2

    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """The auxiliary nets it needs, new objects."""
        return ()

    def learner(self, trunk: MakeTrunk) -> Learner:
        """An untrained learner."""
        return ResponseNet(trunk(), self.labels)

    def history(self, matured: EventLog) -> Columns:
        """Batch keys ``label`` and what else pre-training on final labels needs: entities first."""
        return {"label": torch.from_numpy(matured.label().astype(np.int64))}

    def history_strategies(self) -> tuple[Strategy, ...]:
        """Strategies of pre-training on final labels."""
        return ()

    def array_labels(self, y: NDArray[np.int64]) -> Columns:
        """The same for final labels (n,) 0/1 without a log: what ``fit(X, y)`` trains on."""
        return {"label": torch.from_numpy(np.asarray(y, np.int64))}

    def select(self, rows: Emission) -> Emission:
        """The rows it is trained on, of those its protocol emits."""
        return rows

    def columns(self, rows: Emission) -> Columns:
        """Batch keys of emitted rows."""
        return {
            "label": torch.from_numpy(rows.label.astype(np.int64)),
            "copied": torch.from_numpy((rows.stage == 1).astype(np.float32)),
            "second": torch.from_numpy((rows.stage == 2).astype(np.float32)),
        }

    def strategies(self) -> tuple[Strategy, ...]:
        """Strategies of the updates; the same objects serve all of them."""
        return ()

    def serve(self, output: NamedOutput, columns: Columns) -> Tensor:
        """``P(Y = 1 | x)`` ``(n,)`` of the learner's output.

        ``columns`` holds what the auxiliary nets that need no further inputs say of the entities.
        """
        probabilities: Tensor = output.log_probabilities.exp()
        return probabilities[:, 1]

    def state(self) -> dict[str, float]:
        """Numbers of its own that must be saved."""
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """Takes back what :meth:`state` gave."""


class NamedOutput(Protocol):
    """What learners return here: at least log-probabilities of labels ``(n, K)``."""

    log_probabilities: Tensor


METHODS: dict[str, type[FeedbackMethod]] = {}
"""Methods by name."""

_Kind = TypeVar("_Kind", bound=type[FeedbackMethod])


def register(kind: _Kind) -> _Kind:
    """Class decorator: makes a method known under its name."""
    METHODS[kind.name] = kind
    return kind


def get_method(name: str) -> type[FeedbackMethod]:
    """The class of a method.

    Raises:
        ParameterError: there is none of that name.
    """
    if name not in METHODS:
        raise ParameterError(f"unknown method {name!r}: one of {', '.join(sorted(METHODS))}")
    return METHODS[name]
