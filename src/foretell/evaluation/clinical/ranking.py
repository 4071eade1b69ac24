"""Areas under the ROC and precision-recall curves of hours, with intervals over patients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from foretell.errors import DataError
from foretell.evaluation.bootstrap import (
    Interval,
    check_bootstrap,
    cluster_weights,
    percentile_interval,
)
from foretell.evaluation.clinical.checks import binary, row_values
from foretell.evaluation.clinical.kernels import ranking


class RankingMetrics(NamedTuple):
    """AUROC and AUPRC (average precision) of rows, each with its interval."""

    auroc: Interval
    auprc: Interval


def ranking_metrics(
    scores: ArrayLike,
    label: ArrayLike,
    patients: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankingMetrics:
    """How well scores rank hours; hours of one patient are resampled together.

    Ties count half for the AUROC, and as one step for the average precision.

    Args:
        scores: (R,) higher is riskier.
        label: (R,) 0 or 1.
        patients: (R,) whom each row belongs to: numbers or names.
        rows: (R,) mask of the rows that count, such as those at risk.
        resamples: of the bootstrap; 0 gives no interval.
        confidence: of the percentile intervals.
        seed: of the bootstrap.

    Raises:
        DataError: sizes do not fit, a score that counts is not finite, or a class is missing.
    """
    check_bootstrap(resamples, confidence, least=0)
    size = len(np.asarray(label))
    wanted = np.ones(size, bool) if rows is None else binary("rows", rows, size)
    values = row_values("score", scores, size, finite=False)[wanted]
    row_values("score", values, len(values))
    positive = binary("label", np.asarray(label)[wanted], len(values))
    if not positive.any() or positive.all():
        raise DataError("all rows have the same label", hint="Ranking needs both classes")
    owner = row_values("patients", patients, size, finite=False)[wanted]
    if owner.dtype == object:
        owner = owner.astype(str)
    names, cluster = np.unique(owner, return_inverse=True)
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    sorted_label, sorted_cluster = positive[order], cluster[order]
    estimate = ranking(last, sorted_label, sorted_cluster, np.ones((1, len(names))))[0]
    draws = [
        ranking(last, sorted_label, sorted_cluster, weights)
        for weights in (cluster_weights(len(names), resamples, seed) if resamples else ())
    ]
    found = percentile_interval(estimate, np.concatenate([np.zeros((0, 2)), *draws]), confidence)
    return RankingMetrics(
        *(Interval(np.asarray(found.estimate[k]), found.lower[k], found.upper[k]) for k in range(2))
    )
