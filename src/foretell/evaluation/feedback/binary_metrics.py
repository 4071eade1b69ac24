"""Scores of probabilities against final binary labels, fast enough for many small buckets."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from foretell.errors import ParameterError

LEAST_PROBABILITY = 1e-7


def negative_log_likelihood(y: ArrayLike, p: ArrayLike) -> float:
    """Mean of ``-y log p - (1 - y) log(1 - p)`` in nats; probabilities are kept off 0 and 1."""
    y, p = _pair(y, p)
    p = np.clip(p, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return float(-np.where(y > 0, np.log(p), np.log1p(-p)).mean()) if len(y) else float("nan")


def bernoulli_divergence(truth: ArrayLike, p: ArrayLike) -> float:
    """Mean ``KL(truth || p)`` of Bernoulli laws in nats: what imperfect probabilities cost."""
    truth, p = _pair(truth, p)
    p = np.clip(p, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    t = np.clip(truth, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    terms = t * np.log(t / p) + (1 - t) * np.log((1 - t) / (1 - p))
    return float(terms.mean()) if len(p) else float("nan")


def area_under_roc(y: ArrayLike, p: ArrayLike) -> float:
    """Probability that a positive outranks a negative, ties one half; NaN with one class only."""
    y, p = _pair(y, p)
    positives = int((y > 0).sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return float("nan")
    total = rankdata(p)[y > 0].sum() - positives * (positives + 1) / 2
    return float(total / (positives * negatives))


def average_precision(y: ArrayLike, p: ArrayLike) -> float:
    """Area under the precision-recall curve as a step function; NaN without a positive."""
    y, p = _pair(y, p)
    if not (y > 0).any():
        return float("nan")
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(y[order] > 0)
    ends = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))  # ties are taken together
    precision = hits[ends] / (ends + 1)
    gained = np.diff(hits[ends], prepend=0)
    return float((precision * gained).sum() / hits[-1])


def calibration_bins(y: ArrayLike, p: ArrayLike, bins: int) -> NDArray[np.float64]:
    """Sums ``(bins, 3)`` of count, probability and label in equal bins of the probability."""
    y, p = _pair(y, p)
    codes = np.minimum((p * bins).astype(np.int64), bins - 1)
    columns = (np.ones_like(p), p, y)
    return np.stack([np.bincount(codes, column, bins) for column in columns], axis=1)


def expected_calibration_error(sums: NDArray[np.float64]) -> float:
    """Mean ``|mean p - mean y|`` over bins, weighted by count, from :func:`calibration_bins`."""
    total = sums[:, 0].sum()
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / total) if total else float("nan")


def _pair(y: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64 vectors of one length."""
    left, right = np.asarray(y, np.float64), np.asarray(p, np.float64)
    if left.ndim != 1 or left.shape != right.shape:
        raise ParameterError(
            f"labels and probabilities must be vectors of one length, not {left.shape} and "
            f"{right.shape}"
        )
    return left, right
