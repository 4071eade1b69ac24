"""The robust membership inference attack (Zarifzadeh et al. 2024)."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from foretell.audits.membership.attack import BoolArray, FloatArray, MembershipAttack
from foretell.audits.membership.curve import auc
from foretell.audits.membership.signals import Kind, check_kind, clamp, log_likelihood
from foretell.errors import DataError, ParameterError

Mode = Literal["online", "offline"]
OFFLINE_A = tuple(round(0.1 * step, 1) for step in range(11))


class RMIA(MembershipAttack):
    """How often an example's likelihood gained more by this model than others' did.

    With ``r(x) = p(x | target) / p(x)`` the score of x is the share of a population z with
    ``r(x) / r(z) > gamma`` (Zarifzadeh et al. 2024, equations 2 to 4). ``p(x)`` is the mean over
    reference models, half of which saw x: online both halves are asked; offline, only models that
    did not, and the missing half is replaced by ``(1 + a) / 2 mean_out + (1 - a) / 2``.

    Args:
        mode: ``"online"`` or ``"offline"``.
        gamma: how much more it must have gained.
        offline_a: ``a``; ``"tune"`` takes the best of 0, 0.1, ..., 1 for one of the reference
            models, which then plays the target.
        signal: what the signals are; minus a loss is read as a log-likelihood.

    Attributes:
        offline_a_: the ``a`` used.
    """

    def __init__(
        self,
        mode: Mode = "online",
        gamma: float = 1.0,
        offline_a: float | Literal["tune"] = "tune",
        signal: Kind = "logit",
    ) -> None:
        self.mode = mode
        self.gamma = gamma
        self.offline_a = offline_a
        self.signal = signal

    @property
    def name(self) -> str:
        """The mode with it."""
        return f"RMIA {self.mode}"

    def fit(
        self,
        shadow_signals: ArrayLike,
        shadow_membership: ArrayLike,
        *,
        population: ArrayLike | None = None,
    ) -> Self:
        """Learns each example's ordinary likelihood; see :meth:`MembershipAttack.fit`.

        Args:
            shadow_signals: ``(S, N)``.
            shadow_membership: ``(S, N)``.
            population: ``(S, Z)`` signals of other examples, seen by none of the models, to compare
                with (their signals under the target go to :meth:`set_population`); the N examples
                themselves when None.
        """
        self._population = None
        self._population_ratio: FloatArray | None = None
        if population is not None:
            values, _ = clamp(population, "signals of the population")
            if values.ndim != 2 or len(values) != len(np.asarray(shadow_signals)):
                raise DataError(f"the population {values.shape} needs a row for each shadow model")
            self._population = values
        return super().fit(shadow_signals, shadow_membership)

    def set_population(self, target_signals: ArrayLike) -> Self:
        """Takes the population's signals ``(Z,)`` under the target.

        Raises:
            DataError: ``fit`` was given no population, or one of another size.
        """
        values, _ = clamp(target_signals, "signals of the population")
        if self._population is None or values.shape != self._population.shape[1:]:
            raise DataError("the population under the target is not the one of fit")
        outside = np.zeros(self._population.shape, bool)
        usual = self._usual(log_likelihood(self._population, self.signal), outside, True)
        self._population_ratio = np.sort(log_likelihood(values, self.signal) - usual)
        return self

    def _fit(self, signals: FloatArray, membership: BoolArray) -> None:
        check_kind(self.signal)
        if self.mode not in ("online", "offline"):
            raise ParameterError(f"mode must be 'online' or 'offline', not {self.mode!r}")
        if not self.gamma > 0:
            raise ParameterError(f"gamma must be positive, not {self.gamma}")
        if self.offline_a != "tune" and not 0 <= self.offline_a <= 1:
            raise ParameterError(f"offline_a must lie in [0, 1] or be 'tune', not {self.offline_a}")
        values = log_likelihood(signals, self.signal)
        inside, outside = membership.sum(0), (~membership).sum(0)
        short = (outside == 0) if self.mode == "offline" else (inside == 0) | (outside == 0)
        self.fallback_ = short
        if short.any():
            self.flags_.append(
                f"{int(short.sum())} of {len(short)} examples have no reference model on one side: "
                "their usual likelihood is that of the other, corrected as offline where it can be"
            )
        self.offline_a_ = 0.3 if self.offline_a == "tune" else float(self.offline_a)
        needed = self.mode == "offline" or bool(short.any())
        if needed and self.offline_a == "tune":
            self.offline_a_ = self._tune(values, membership)
        self.usual_ = self._usual(values, membership, self.mode == "offline")

    def _tune(self, values: FloatArray, membership: BoolArray) -> float:
        """The ``a`` that finds the members of the first reference model best, by the others."""
        if len(values) < 2 or membership[0].all() or not membership[0].any():
            self.flags_.append("offline_a is 0.3: there are too few reference models to tune it")
            return 0.3
        best, found = 0.3, -1.0
        kept = self.offline_a_
        for a in OFFLINE_A:
            self.offline_a_ = a
            usual = self._usual(values[1:], membership[1:], True)
            reached = auc(values[0] - usual, membership[0])
            if reached > found + 1e-12:
                best, found = a, reached
        self.offline_a_ = kept
        return best

    def _usual(self, values: FloatArray, membership: BoolArray, offline: bool) -> FloatArray:
        """``log p(x)`` ``(N,)``: log of mean likelihoods over reference models."""
        inside, outside = _log_mean(values, membership), _log_mean(values, ~membership)
        a = self.offline_a_
        with np.errstate(divide="ignore", invalid="ignore"):
            corrected = np.logaddexp(np.log((1 + a) / 2) + outside, np.log((1 - a) / 2))
            both = np.logaddexp(inside, outside) - np.log(2.0)
        usual = corrected if offline else np.where(np.isnan(inside), corrected, both)
        # Where every model saw it, these are all there is.
        return np.asarray(np.where(np.isnan(outside), inside, usual))

    def _score(self, signals: FloatArray) -> FloatArray:
        ratio = log_likelihood(signals, self.signal) - self.usual_
        others = np.sort(ratio) if self._population_ratio is None else self._population_ratio
        below = np.searchsorted(others, ratio - np.log(self.gamma), side="left")
        return below / len(others)


def _log_mean(values: FloatArray, rows: BoolArray) -> FloatArray:
    """Log of the mean of ``exp(values)`` ``(N,)`` over the rows that are true; NaN for none."""
    count = rows.sum(0)
    masked = np.where(rows, values, -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.logaddexp.reduce(masked, axis=0)
        return np.asarray(np.where(count > 0, total - np.log(np.maximum(count, 1)), np.nan))
