"""The attack without any shadow model: members have small losses (Yeom et al. 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.audits.membership.attack import BoolArray, FloatArray, MembershipAttack
from foretell.audits.membership.signals import Kind, check_kind, clamp, log_likelihood


class LossThreshold(MembershipAttack):
    """Calls a member whose loss is below the mean loss of the training (Yeom et al. 2018, adv. 1).

    The score is minus the loss, of which a signal is a monotone function; the threshold is only
    for :meth:`guess`.

    Args:
        signal: what the signals are; see :data:`foretell.audits.membership.Kind`.
        mean_training_loss: the threshold, if it is known (trainings often tell it); else the mean
            loss of the shadow models' members; without both there is no guess.

    Example:
        >>> LossThreshold().score([2.0, -1.0]).tolist()
        [-0.1269..., -1.3132...]
    """

    needs_shadows = False
    _aligned = False

    def __init__(self, signal: Kind = "logit", mean_training_loss: float | None = None) -> None:
        self.signal = signal
        self.mean_training_loss = mean_training_loss

    def _fit(self, signals: FloatArray, membership: BoolArray) -> None:
        check_kind(self.signal)
        self.threshold_ = None
        if membership.any():
            self.threshold_ = float(-log_likelihood(signals[membership], self.signal).mean())

    def _score(self, signals: FloatArray) -> FloatArray:
        check_kind(self.signal)
        return log_likelihood(signals, self.signal)

    def guess(self, target_signals: ArrayLike) -> NDArray[np.bool_] | None:
        """Whether the loss is at most the mean loss of training ``(N,)``."""
        threshold = self.mean_training_loss
        if threshold is None:
            threshold = getattr(self, "threshold_", None)
        if threshold is None:
            return None
        signals, _ = clamp(target_signals)
        return np.asarray(-log_likelihood(signals, self.signal) <= threshold)
