"""What all attacks share: scikit-learn's verbs on signals of shadow models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from foretell.audits.membership.result import AttackResult, attack_result
from foretell.audits.membership.signals import clamp
from foretell.errors import DataError, NotFittedError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class MembershipAttack(BaseEstimator, ABC):
    """Base of the attacks: :meth:`fit` on shadow models, then :meth:`score` a target.

    Attributes:
        flags_: what must be doubted, as sentences; from ``fit``.
        n_shadows_: models it was fitted on.
    """

    needs_shadows: bool = True
    """Whether it can do anything without shadow models."""

    @property
    def name(self) -> str:
        """How tables call it."""
        return type(self).__name__

    def fit(self, shadow_signals: ArrayLike, shadow_membership: ArrayLike) -> Self:
        """Learns what signals of members and of others look like.

        Args:
            shadow_signals: ``(S, N)`` signals of the examples under each shadow model, or
                ``(S, N, Q)`` for several queries an example.
            shadow_membership: ``(S, N)`` whether the model was trained on the example.

        Raises:
            DataError: shapes do not fit.
            ParameterError: a hyper-parameter out of its range.
        """
        signals, count = clamp(shadow_signals, "signals of shadow models")
        member = np.asarray(shadow_membership)
        if signals.ndim not in self._dimensions or member.shape != signals.shape[:2]:
            raise DataError(
                f"shadow signals {signals.shape} and membership {member.shape} do not go "
                "together: rows are shadow models, columns are examples"
            )
        if not np.isin(member, (0, 1)).all():
            raise DataError("membership must be true or false")
        if not len(signals) and self.needs_shadows:
            raise DataError(f"{self.name} needs shadow models", hint="LossThreshold needs none")
        self.n_examples_, self.n_shadows_ = signals.shape[1], len(signals)
        self.flags_: list[str] = []
        if count:
            self.flags_.append(f"{count} signals of shadow models were not finite")
        self._fit(signals, member.astype(bool))
        return self

    def score(self, target_signals: ArrayLike) -> FloatArray:
        """How likely each example was trained on ``(N,)``; only the order counts.

        Args:
            target_signals: ``(N,)`` or ``(N, Q)``, of the same examples in the same order.

        Raises:
            NotFittedError: before ``fit``, where it is needed.
            DataError: shapes do not fit.
        """
        if self.needs_shadows and not hasattr(self, "n_examples_"):
            raise NotFittedError(f"{self.name} is not fitted: call fit(signals, membership) first")
        signals, _ = clamp(target_signals, "signals of the target")
        known = getattr(self, "n_examples_", len(signals))
        if signals.ndim + 1 not in self._dimensions or (self._aligned and len(signals) != known):
            raise DataError(f"the target has signals {signals.shape}; {known} examples are needed")
        return self._score(signals)

    def attack(
        self, target_signals: ArrayLike, membership: ArrayLike, *, name: str | None = None
    ) -> AttackResult:
        """Scores a target and judges the scores by the truth ``(N,)``."""
        values = np.asarray(target_signals, np.float64)
        bad = int((~np.isfinite(values)).sum())
        flags = list(getattr(self, "flags_", ()))
        if bad:
            flags.append(f"{bad} signals of the target were not finite")
        return attack_result(
            self.score(values),
            membership,
            attack=name or self.name,
            guesses=self.guess(values),
            flags=flags,
            n_shadows=getattr(self, "n_shadows_", 0),
        )

    def guess(self, target_signals: ArrayLike) -> BoolArray | None:
        """What the attack calls members at a threshold of its own; None without one."""
        return None

    _dimensions: tuple[int, ...] = (2,)
    _aligned: bool = True

    @abstractmethod
    def _fit(self, signals: FloatArray, membership: BoolArray) -> None:
        """Learns from checked signals."""

    @abstractmethod
    def _score(self, signals: FloatArray) -> FloatArray:
        """Scores checked signals."""


def side_moments(
    signals: FloatArray, rows: BoolArray
) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """Count, mean and sum of squared residuals ``(N,)`` of the rows that are true ``(S, N)``.

    The mean of no row is NaN.
    """
    count = rows.sum(0)
    with np.errstate(invalid="ignore"):
        mean = np.where(rows, signals, 0.0).sum(0) / np.where(count, count, np.nan)
    squares = (np.where(rows, signals - np.nan_to_num(mean), 0.0) ** 2).sum(0)
    return count, mean, squares
