"""Maps of probabilities learned on labels that are final: a logit shift, or an isotonic one."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from foretell.errors import ParameterError

FloatArray = NDArray[np.float64]
Recalibration = Literal["shift", "isotonic"]

_MOST = 10.0
_EDGE = 1e-6


class LogitShift:
    """``p -> sigmoid(logit p + shift)``, with the shift that makes mean p equal to mean y.

    This is the maximum likelihood of the intercept with slope 1: a calibration in the large.
    """

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    @classmethod
    def fit(cls, p: ArrayLike, y: ArrayLike) -> LogitShift:
        """The shift of probabilities (n,) towards labels (n,); at most 10 in size."""
        scores, y = _logits(p), np.asarray(y, np.float64)

        def excess(shift: float) -> float:
            return float((expit(scores + shift) - y).sum())

        if excess(-_MOST) >= 0:
            return cls(-_MOST)
        if excess(_MOST) <= 0:
            return cls(_MOST)
        return cls(float(brentq(excess, -_MOST, _MOST)))

    def __call__(self, p: ArrayLike) -> FloatArray:
        """Mapped probabilities (n,)."""
        return expit(_logits(p) + self.shift)

    def describe(self) -> dict[str, object]:
        """For a model card."""
        return {"recalibration": "shift", "shift": self.shift}


class IsotonicMap:
    """The monotone map that fits the labels best, by pooling adjacent violators."""

    def __init__(self, x: FloatArray, y: FloatArray) -> None:
        self.x, self.y = x, y

    @classmethod
    def fit(cls, p: ArrayLike, y: ArrayLike) -> IsotonicMap:
        """The map of probabilities (n,) to labels (n,)."""
        model = IsotonicRegression(out_of_bounds="clip", y_min=_EDGE, y_max=1 - _EDGE)
        model.fit(np.asarray(p, np.float64), np.asarray(y, np.float64))
        return cls(model.X_thresholds_, model.y_thresholds_)

    def __call__(self, p: ArrayLike) -> FloatArray:
        """Mapped probabilities (n,)."""
        return np.interp(np.asarray(p, np.float64), self.x, self.y)

    def describe(self) -> dict[str, object]:
        """For a model card."""
        return {
            "recalibration": "isotonic",
            "shift": None,
            "isotonic": [self.x.tolist(), self.y.tolist()],
        }


def fit_recalibration(kind: str, p: ArrayLike, y: ArrayLike) -> LogitShift | IsotonicMap:
    """The map of the named kind.

    Raises:
        ParameterError: the kind is unknown.
    """
    if kind == "shift":
        return LogitShift.fit(p, y)
    if kind == "isotonic":
        return IsotonicMap.fit(p, y)
    raise ParameterError(f"recalibration must be 'shift', 'isotonic' or None, not {kind!r}")


def _logits(p: ArrayLike) -> FloatArray:
    return logit(np.clip(np.asarray(p, np.float64), _EDGE, 1 - _EDGE))
