"""Intervals for NLL, AUC and calibration ratio of several methods on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from foretell.errors import ParameterError
from foretell.evaluation.bootstrap import cluster_bootstrap
from foretell.evaluation.feedback.binary_metrics import LEAST_PROBABILITY

FloatArray = NDArray[np.float64]

PAIRED_METRICS = ("nll", "auc", "ratio")
_SHARED = 3  # rows, positives, negatives
_EACH = 4  # nll, p, placements of positives, placements of negatives


def compare_probabilities(
    y: ArrayLike,
    probabilities: Mapping[str, ArrayLike],
    *,
    clusters: ArrayLike | None = None,
    groups: Sequence[Any] | NDArray | None = None,
    references: Sequence[str] = (),
    gap: tuple[str, str] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pl.DataFrame:
    """Scores of each method and their differences, with percentile intervals of one bootstrap.

    Resampled are clusters of rows, the same for all methods, so that differences are paired. The
    AUC of a resample is its first-order expansion: mean placement of positives plus mean placement
    of negatives (DeLong et al., Biometrics 1988), so that every score is a function of sums.

    Metrics:
        ``nll``: mean negative log likelihood, nats. ``auc``: area under the ROC curve.
        ``ratio``: mean probability / mean label. ``gap_closed``: share of the difference in NLL
        between the two methods of ``gap`` that a method removes; NaN where the best is not better.

    Args:
        y: final labels (n,).
        probabilities: method -> (n,), or (S, n) of S seeds, whose scores are averaged.
        clusters: (n,) who is resampled together; rows alone where None.
        groups: (n,) parts of the data with scores of their own. Scores of ``"all"`` are the means
            over the parts.
        references: methods whose scores are subtracted from those of the others.
        gap: the worst and the best method, e.g. ``("naive", "oracle")``.
        resamples: of clusters.
        confidence: share of the resamples inside an interval.
        seed: of the resamples.

    Returns:
        Columns group, method, versus (null for a score itself), metric, estimate, lower, upper.

    Raises:
        ParameterError: lengths differ, a method is unknown, or a label or probability is no number.
    """
    label, values = _checked(y, probabilities)
    n = len(label)
    for name in (*references, *(gap or ())):
        if name not in values:
            raise ParameterError(f"{name!r} is not among the methods {list(values)}")
    owner = _codes(np.arange(n) if clusters is None else np.asarray(clusters), n, "clusters")[1]
    names, part = _codes(
        np.zeros(n, np.int64) if groups is None else np.asarray(groups), n, "groups"
    )
    columns = _SHARED + _EACH * len(values)
    sums = np.zeros((owner.max() + 1, len(names) * columns))
    for g in range(len(names)):
        rows = np.flatnonzero(part == g)
        terms = _terms(label[rows], {k: v[:, rows] for k, v in values.items()})
        for c in range(columns):
            at = g * columns + c
            sums[:, at] = np.bincount(owner[rows], terms[:, c], minlength=len(sums))
    methods = list(values)
    titles, statistic = _statistic(sums.sum(0), methods, names, columns, references, gap)
    found = cluster_bootstrap(
        sums, statistic, resamples=resamples, confidence=confidence, seed=seed
    )
    table = pl.DataFrame(
        titles,
        schema={"group": pl.String, "method": pl.String, "versus": pl.String, "metric": pl.String},
        orient="row",
    )
    return table.with_columns(
        pl.Series("estimate", found.estimate),
        pl.Series("lower", found.lower),
        pl.Series("upper", found.upper),
    )


def _checked(
    y: ArrayLike, probabilities: Mapping[str, ArrayLike]
) -> tuple[FloatArray, dict[str, FloatArray]]:
    label = np.asarray(y, np.float64)
    if label.ndim != 1 or not len(label) or not np.isin(label, (0, 1)).all():
        raise ParameterError("y must be a vector of labels 0 and 1 with at least one row")
    if not probabilities:
        raise ParameterError("there is no method to compare")
    values = {}
    for name, given in probabilities.items():
        p = np.atleast_2d(np.asarray(given, np.float64))
        if p.ndim != 2 or p.shape[1] != len(label):
            raise ParameterError(f"{name!r} has {p.shape[-1]} probabilities for {len(label)} rows")
        if not np.all((p >= 0) & (p <= 1)):
            raise ParameterError(f"{name!r} holds values that are no probabilities")
        values[str(name)] = p
    return label, values


def _codes(values: NDArray, n: int, name: str) -> tuple[list[str], NDArray[np.int64]]:
    if values.shape != (n,):
        raise ParameterError(f"{name} must have one value a row, {n}, not {values.shape}")
    found: dict[Any, int] = {}
    codes = np.fromiter((found.setdefault(v, len(found)) for v in values.tolist()), np.int64, n)
    return [str(v) for v in found], codes


def _terms(y: FloatArray, values: Mapping[str, FloatArray]) -> FloatArray:
    """What each row adds to each sum (n, columns)."""
    columns = [np.ones_like(y), y, 1 - y]
    for p in values.values():
        safe = np.clip(p, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        columns.append(-np.where(y > 0, np.log(safe), np.log1p(-safe)).mean(axis=0))
        columns.append(p.mean(axis=0))
        placed = np.mean([_placements(y, one) for one in p], axis=0)
        columns += [placed * y, placed * (1 - y)]
    return np.stack(columns, axis=1)


def _placements(y: FloatArray, p: FloatArray) -> FloatArray:
    """Share (n,) of the other class on the right side of each row, ties one half."""
    positive = y > 0
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return np.full(len(y), np.nan)
    ranks = rankdata(p)
    within = np.empty(len(y))
    within[positive], within[~positive] = rankdata(p[positive]), rankdata(p[~positive])
    others = ranks - within  # of the other class below
    return np.where(positive, others / zeros, 1 - others / ones)


def _statistic(
    totals: FloatArray,
    methods: list[str],
    names: list[str],
    columns: int,
    references: Sequence[str],
    gap: tuple[str, str] | None,
) -> tuple[list[tuple[str, str, str | None, str]], Any]:
    """Titles (S,) and the function from sums (R, C) to statistics (R, S)."""
    full = totals.reshape(len(names), columns)
    centre = np.array(
        [[full[g, _SHARED + _EACH * m + 2] / max(full[g, 1], 1) for m in range(len(methods))]
         for g in range(len(names))]
    )  # fmt: skip
    groups = [*names, "all"] if len(names) > 1 else ["all"]
    titles: list[tuple[str, str, str | None, str]] = []
    for group in groups:
        titles += [(group, m, None, metric) for m in methods for metric in PAIRED_METRICS]
        for reference in references:
            others = [m for m in methods if m != reference]
            titles += [(group, m, reference, metric) for m in others for metric in PAIRED_METRICS]
        if gap is not None:
            titles += [(group, m, None, "gap_closed") for m in methods if m not in gap]

    # Where the best is not better, there is no gap of which a share could be closed.
    open_ = [True] * len(groups)

    def statistic(sums: FloatArray) -> FloatArray:
        cells = sums.reshape(len(sums), len(names), columns)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.empty((len(sums), len(names), len(methods), 3))
            for m in range(len(methods)):
                at = _SHARED + _EACH * m
                scores[:, :, m, 0] = cells[:, :, at] / cells[:, :, 0]
                up, down = (
                    cells[:, :, at + 2] / cells[:, :, 1],
                    cells[:, :, at + 3] / cells[:, :, 2],
                )
                scores[:, :, m, 1] = up + down - centre[None, :, m]
                scores[:, :, m, 2] = cells[:, :, at + 1] / cells[:, :, 1]
            if len(names) > 1:
                scores = np.concatenate([scores, scores.mean(axis=1, keepdims=True)], axis=1)
            result = []
            for g in range(len(groups)):
                own = scores[:, g]
                result.append(own.reshape(len(sums), -1))
                for reference in references:
                    r = methods.index(reference)
                    rest = [m for m in range(len(methods)) if m != r]
                    result.append((own[:, rest] - own[:, [r]]).reshape(len(sums), -1))
                if gap is not None:
                    worst, best = (own[:, methods.index(name), 0] for name in gap)
                    rest = [m for m in range(len(methods)) if methods[m] not in gap]
                    share = (worst[:, None] - own[:, rest, 0]) / (worst - best)[:, None]
                    result.append(share if open_[g] else np.full_like(share, np.nan))
        return np.concatenate(result, axis=1)

    if gap is not None:
        whole = statistic(totals[None, :])[0]
        for g, group in enumerate(groups):
            worst, best = (
                whole[titles.index((group, name, None, "nll"))] for name in (gap[0], gap[1])
            )
            open_[g] = bool(worst > best)
    return titles, statistic
