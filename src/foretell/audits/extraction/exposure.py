"""Exposure: by how many bits a secret stands out among all it could be."""

from __future__ import annotations

import math

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from foretell.errors import ParameterError


def rank_of(losses: NDArray[np.floating], true_index: int) -> float:
    """Place of one loss among all, from 1; equal ones share the middle of their places.

    Args:
        losses: ``(S,)`` loss of each possible secret.
        true_index: position of the one that was planted.

    Raises:
        ParameterError: no loss, a position that there is not, or losses that are not finite.
    """
    losses = np.asarray(losses)
    if losses.ndim != 1 or not 0 <= true_index < len(losses):
        raise ParameterError(
            f"true_index must be a position in losses (S,), not {true_index} in {losses.shape}"
        )
    if not np.isfinite(losses).all():
        raise ParameterError("losses must be finite to be ranked")
    own = losses[true_index]
    return 1.0 + float((losses < own).sum()) + (float((losses == own).sum()) - 1) / 2


def exposure(losses: NDArray[np.floating], true_index: int) -> float:
    """Bits by which a secret stands out: ``log2 S - log2 rank`` (Carlini et al. 2019, section 4.3).

    A secret that was never seen has 1.44 bits on average, by chance; the most is ``log2 S``.
    """
    return math.log2(len(losses)) - math.log2(rank_of(losses, true_index))


def estimated_exposure(sample: NDArray[np.floating], loss: float) -> float:
    """Exposure where there are too many secrets to look at all of them.

    Losses of random secrets are taken to be skew-normal, and the share of those below the true
    secret's is read off the fit (Carlini et al. 2019, section 4.4). Beyond what the sample holds
    this is an extrapolation.

    Args:
        sample: ``(n,)`` losses of random secrets.
        loss: of the secret that was planted.

    Raises:
        ParameterError: fewer than 100 losses, or values that are not finite.
    """
    sample = np.asarray(sample, np.float64)
    if sample.ndim != 1 or len(sample) < 100:
        raise ParameterError(f"100 random secrets at least are needed, not {sample.shape}")
    if not (np.isfinite(sample).all() and math.isfinite(loss)):
        raise ParameterError("losses must be finite to be ranked")
    spread = float(sample.std())
    if spread == 0:
        return 1.0 if loss == sample[0] else (math.log2(len(sample)) if loss < sample[0] else 0.0)
    # Without units, or the fit stops early on losses of a millionth of a nat.
    scaled = (sample - sample.mean()) / spread
    shape, place, scale = scipy.stats.skewnorm.fit(scaled)
    at = (loss - float(sample.mean())) / spread
    logarithm = float(scipy.stats.skewnorm.logcdf(at, shape, place, scale))
    if not math.isfinite(logarithm):
        # Below the support of the fit in floating point: the sample bounds it from below.
        return math.log2(len(sample))
    return -logarithm / math.log(2)
