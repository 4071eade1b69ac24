"""The likelihood-ratio attack (Carlini et al. 2022), with honest variances."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy import special, stats

from foretell.audits.membership.attack import (
    BoolArray,
    FloatArray,
    MembershipAttack,
    side_moments,
)
from foretell.audits.membership.normal_inverse_gamma import (
    Prior,
    predictive_log_density,
    variance_prior,
)
from foretell.errors import ParameterError

Mode = Literal["online", "offline"]
Variance = Literal["auto", "per_example", "global", "nig"]

_MANY = 64
_FLOOR = 1e-12


class LiRA(MembershipAttack):
    """Likelihood ratio of an example's signal with and without it in training.

    Online, normal distributions are fitted to the signals of the shadow models that did and did
    not see the example, and the score is the difference of their log densities. Offline, only
    models that did not see it are needed, and the score is how improbably high the signal is.

    An example with too few shadow models on one side is scored by the offline formula of the other
    side, on the same scale, and counted in ``flags_``.

    Args:
        mode: ``"online"`` or ``"offline"``.
        variance: ``"per_example"``: of each example; ``"global"``: one a side, of the residuals of
            all examples; ``"nig"``: each example's with a prior learned from all (normal inverse
            gamma, so that densities are Student's t), which needs no fallback; ``"auto"``: per
            example with 64 shadow models and more, else global.

    Attributes:
        fallback_: ``(N,)`` examples that were scored by one side.
    """

    def __init__(self, mode: Mode = "online", variance: Variance = "auto") -> None:
        self.mode = mode
        self.variance = variance

    @property
    def name(self) -> str:
        """Mode and variance with it."""
        return f"LiRA {self.mode}" + ("" if self.variance == "auto" else f" ({self.variance})")

    def _fit(self, signals: FloatArray, membership: BoolArray) -> None:
        if self.mode not in get_args(Mode):
            raise ParameterError(f"mode must be 'online' or 'offline', not {self.mode!r}")
        if self.variance not in get_args(Variance):
            raise ParameterError(
                f"variance must be one of {', '.join(get_args(Variance))}, not {self.variance!r}"
            )
        self.in_ = side_moments(signals, membership)
        self.out_ = side_moments(signals, ~membership)
        self.variance_ = self.variance
        if self.variance == "auto":
            self.variance_ = "per_example" if len(signals) >= _MANY else "global"
        sides = (self.in_, self.out_)
        self._usable = [count >= 2 for count, _, _ in sides]
        if self.variance_ == "nig":
            self._usable = [np.ones(signals.shape[1], bool)] * 2
            self._priors = self._learn_priors()
        elif self.variance_ == "per_example":
            self._deviations = [
                np.sqrt(np.maximum(squares / np.maximum(count - 1, 1), _FLOOR))
                for count, _, squares in sides
            ]
        else:
            self._deviations = []
            for count, _, squares in sides:
                freedom = float(np.maximum(count - 1, 0).sum())
                pooled = squares.sum() / freedom if freedom else np.nan
                self._deviations.append(np.full(len(count), np.sqrt(max(pooled, _FLOOR))))
            # A side of which no example has two models has no variance: it takes the other's.
            first, second = self._deviations
            self._deviations = [
                np.where(np.isnan(first), second, first),
                np.where(np.isnan(second), first, second),
            ]
        with_in, with_out = self._usable
        self.fallback_ = ~with_out if self.mode == "offline" else ~(with_in & with_out)
        short = int(self.fallback_.sum())
        if short:
            side = "without it" if self.mode == "offline" else "on one side"
            self.flags_.append(
                f"{short} of {signals.shape[1]} examples have fewer than 2 shadow models {side}: "
                "they are scored by the offline formula of what there is"
            )

    def _learn_priors(self) -> tuple[Prior, Prior]:
        """Priors of both sides; where an example stands is first told by the other side."""
        priors = []
        means = [side[1] for side in (self.in_, self.out_)]
        both = ~np.isnan(means[0]) & ~np.isnan(means[1])
        gain = float(np.mean(means[0][both] - means[1][both])) if both.any() else 0.0
        for own, other, shift in ((self.in_, self.out_, gain), (self.out_, self.in_, -gain)):
            count, mean, squares = own
            shape, rate = variance_prior(count, squares)
            typical = rate / shape
            seen = count > 0
            centre = float(mean[seen].mean()) if seen.any() else float(other[1].mean()) + shift
            location = np.where(np.isnan(other[1]), centre, other[1] + shift)
            # How far the means lie from where they were expected, beyond their own noise.
            gaps = (mean - location)[seen & (other[0] > 0)]
            noise = typical / np.maximum(count[seen & (other[0] > 0)], 1)
            between = float(np.mean(gaps**2) - noise.mean()) if gaps.size else typical
            strength = typical / max(between, typical * 1e-3)
            priors.append(Prior(location, float(np.clip(strength, 1e-3, 1e3)), shape, rate))
        return priors[0], priors[1]

    def _score(self, signals: FloatArray) -> FloatArray:
        if self.variance_ == "nig" and self.mode == "online":
            inside, outside = (
                predictive_log_density(signals, *side, prior)
                for side, prior in zip((self.in_, self.out_), self._priors, strict=True)
            )
            return inside - outside
        if self.variance_ == "nig":
            return self._nig_offline(signals)
        (_, mean_in, _), (_, mean_out, _) = self.in_, self.out_
        dev_in, dev_out = self._deviations
        with_in, with_out = self._usable
        rare = _surprise((signals - mean_out) / dev_out)
        usual = -_surprise((mean_in - signals) / dev_in)
        fallback = np.where(with_out, rare, np.where(with_in, usual, 0.0))
        if self.mode == "offline":
            return fallback
        ratio = stats.norm.logpdf(signals, mean_in, dev_in)
        ratio = ratio - stats.norm.logpdf(signals, mean_out, dev_out)
        return np.asarray(np.where(with_in & with_out, ratio, fallback))

    def _nig_offline(self, signals: FloatArray) -> FloatArray:
        """Minus the log of the upper tail of the predictive distribution without the example."""
        count, mean, squares = self.out_
        known = count > 0
        # Offline there are no models with the example, whose side must then not be asked.
        shape, rate = variance_prior(count, squares)
        centre = float(mean[known].mean()) if known.any() else 0.0
        spread = float(np.var(mean[known])) if known.any() else 1.0
        strength = float(np.clip(rate / shape / max(spread, _FLOOR), 1e-3, 1e3))
        mean = np.where(known, mean, centre)
        total = strength + count
        location = (strength * centre + count * mean) / total
        shapes = shape + count / 2
        rates = rate + squares / 2 + strength * count * (mean - centre) ** 2 / (2 * total)
        scale = np.sqrt(rates * (total + 1) / (shapes * total))
        return _tail_surprise((signals - location) / scale, 2 * shapes)


def _tail_surprise(z: FloatArray, freedom: FloatArray) -> FloatArray:
    """``-log`` of Student's upper tail, finite where the tail itself is too small for a float."""
    found = -stats.t.logsf(z, freedom)
    far = np.where(z > 1, z, 1.0)
    # The tail beyond z is the density there by the rate at which it falls.
    tail = stats.t.logpdf(far, freedom) + np.log((freedom + far**2) / ((freedom + 1) * far))
    return np.asarray(np.where(np.isfinite(found), found, -tail))


def _surprise(z: FloatArray) -> FloatArray:
    """``-log(2 (1 - Phi(z)))``: a monotone function of Phi(z) that does not end at 1.

    0 at the mean, and of the size of a log ratio above it.
    """
    return np.asarray(-special.log_ndtr(-np.nan_to_num(z)) - np.log(2.0))
