"""What uncertainty is worth to decisions: recall at a precision, surfaces beside one threshold."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.decisions.thresholds import (
    PrecisionRecallFrontier,
    SurfaceWarning,
    clopper_pearson,
    fit_decision_surface,
    precision_recall_frontier,
)
from foretell.errors import ParameterError
from foretell.estimators.uncertainty import Uncertain

MakeProvider = Callable[[int], Any]
"""Seed -> an unfitted provider with ``fit(X, y)``."""

_CURVE_POINTS = 400


@dataclass(frozen=True, eq=False)
class ThresholdData:
    """Rows to train on, rows to choose a surface on, rows to judge it on.

    Attributes:
        name: of the data set.
        train: X ``(n, d)`` and y ``(n,)`` of 0 and 1.
        holdout: the same, disjoint.
        test: the same, disjoint.
    """

    name: str
    train: tuple[Any, NDArray]
    holdout: tuple[Any, NDArray]
    test: tuple[Any, NDArray]

    def describe(self) -> dict[str, Any]:
        """Rows and base rates of the three parts."""
        parts = {"train": self.train, "holdout": self.holdout, "test": self.test}
        facts: dict[str, Any] = {"data": self.name}
        for part, (_, y) in parts.items():
            facts |= {f"{part}_rows": len(y), f"{part}_rate": float(np.mean(y)) if len(y) else None}
        return facts


@dataclass(frozen=True, eq=False)
class ThresholdStudy:
    """Results of :func:`threshold_study`, one table a question.

    Attributes:
        deployed: what a rule that was chosen on the hold-out for a target does on the test rows:
            ``data, provider, seed, method, min_precision, feasible, holdout_precision,
            holdout_recall, precision, precision_low, precision_high, recall, recall_low,
            recall_high, called``. Method ``single`` is one threshold on the score. Intervals are
            Clopper-Pearson.
        matched: recalls where rules have the same precision **on the test rows**, found by sweeping
            the target: ``data, provider, seed, method, precision, single_recall, recall,
            difference, difference_low, difference_high``; a recall is that of the loosest rule with
            this test precision, linear between neighbouring rules of the sweep, null where the
            sweep does not pass it; intervals of the difference are percentiles of a paired
            bootstrap of the test rows.
        reliability: rates of positives on the test rows by third of the uncertainty inside bins of
            the score: ``data, provider, seed, score_low, score_high, rows, rate_low_uncertainty,
            rate_middle, rate_high_uncertainty``.
        quality: of each provider's scores on the test rows: ``data, provider, seed, auc, nll``.
        sizes: rows and base rates of the parts, one row a data set and seed.
    """

    deployed: pl.DataFrame
    matched: pl.DataFrame
    reliability: pl.DataFrame
    quality: pl.DataFrame
    sizes: pl.DataFrame

    def summary(self) -> pl.DataFrame:
        """Means over seeds at matched precision.

        Columns ``data, provider, method, precision, seeds, single_recall, recall, difference,
        difference_low, difference_high``. The interval is the mean difference plus and minus 1.96
        times the larger of two standard errors: of the seeds' mean, and of one seed's bootstrap,
        for the seeds share test rows.
        """
        keys = ["data", "provider", "method", "precision"]
        half = (pl.col("difference_high") - pl.col("difference_low")) / (2 * 1.96)
        between = pl.col("difference").std() / pl.len().sqrt()
        error = pl.max_horizontal(between.fill_null(0.0), half.mean())
        return (
            self.matched.drop_nulls("difference")
            .group_by(keys, maintain_order=True)
            .agg(
                pl.len().alias("seeds"),
                pl.col("single_recall").mean(),
                pl.col("recall").mean(),
                pl.col("difference").mean(),
                error.alias("error"),
            )
            .with_columns(
                (pl.col("difference") - 1.96 * pl.col("error")).alias("difference_low"),
                (pl.col("difference") + 1.96 * pl.col("error")).alias("difference_high"),
            )
            .drop("error")
        )

    def deployed_summary(self) -> pl.DataFrame:
        """Means over seeds of precision and recall of the rules as deployed."""
        keys = ["data", "provider", "method", "min_precision"]
        return self.deployed.group_by(keys, maintain_order=True).agg(
            pl.len().alias("seeds"),
            pl.col("feasible").mean(),
            pl.col("holdout_precision", "precision", "recall").mean(),
            pl.col("precision_low", "precision_high", "recall_low", "recall_high").mean(),
        )

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """All tables as JSON values."""
        named = {
            "sizes": self.sizes,
            "quality": self.quality,
            "matched": self.summary(),
            "deployed": self.deployed_summary(),
            "reliability": self.reliability,
        }
        return {name: table.to_dicts() for name, table in named.items()}

    @classmethod
    def concat(cls, studies: Sequence[ThresholdStudy]) -> ThresholdStudy:
        """Studies of several data sets or seeds below one another."""
        names = ("deployed", "matched", "reliability", "quality", "sizes")
        return cls(*(pl.concat([getattr(s, n) for s in studies], how="diagonal") for n in names))


def threshold_study(
    data: Callable[[int], ThresholdData] | ThresholdData,
    providers: Mapping[str, MakeProvider],
    *,
    min_precisions: Sequence[float],
    methods: Sequence[str] = ("mist", "vw_dp"),
    seeds: Sequence[int] = (0, 1, 2),
    n_levels: int = 4,
    surface_options: Mapping[str, Any] | None = None,
    resamples: int = 300,
    confidence: float = 0.95,
    on_result: Callable[[str], None] | None = None,
) -> ThresholdStudy:
    """Recall at precision of decision surfaces and of one threshold, provider by provider.

    For each seed every provider is fitted on the training rows; surfaces and the single threshold
    are chosen on the hold-out for each target; the test rows judge both. The score is the same for
    all rules of a provider: what differs is whether the uncertainty is used.

    Args:
        data: the three parts, or a function of the seed that splits anew.
        providers: name -> function of the seed that makes an unfitted provider.
        min_precisions: targets, and the test precisions at which recalls are compared.
        methods: of the surfaces; ``single`` is always there.
        seeds: of splits and providers.
        n_levels: uncertainty levels.
        surface_options: ``n_bins``, ``binning``, ``monotone_levels``.
        resamples: of the bootstrap.
        confidence: of all intervals.
        on_result: called with a line for each provider and seed.

    Raises:
        ParameterError: no provider, seed or target.
    """
    if not providers or not seeds or not min_precisions:
        raise ParameterError("a study needs at least one provider, one seed and one min_precision")
    options = {"n_levels": n_levels, **dict(surface_options or {})}
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("deployed", "matched", "reliability", "quality", "sizes")
    }
    for seed in seeds:
        parts = data if isinstance(data, ThresholdData) else data(seed)
        rows["sizes"].append({**parts.describe(), "seed": seed})
        for name, make in providers.items():
            keys = {"data": parts.name, "provider": name, "seed": seed}
            provider = make(seed).fit(*parts.train)
            held, tested = provider(parts.holdout[0]), provider(parts.test[0])
            case = _Case(keys, held, parts.holdout[1], tested, parts.test[1], options, confidence)
            rows["quality"].append({**keys, **_quality(tested.score, parts.test[1])})
            rows["reliability"] += case.reliability()
            rows["deployed"] += case.deployed(["single", *methods], min_precisions)
            matched = case.matched(methods, min_precisions, resamples, seed)
            rows["matched"] += matched
            if on_result is not None:
                auc = rows["quality"][-1]["auc"]
                on_result(f"{parts.name} {name} seed {seed}: AUC {auc:.4f}")
    return ThresholdStudy(**{n: pl.DataFrame(r, infer_schema_length=None) for n, r in rows.items()})


@dataclass(frozen=True, eq=False)
class _Case:
    """One provider, one seed."""

    keys: dict[str, Any]
    held: Uncertain
    held_label: NDArray
    tested: Uncertain
    test_label: NDArray
    options: dict[str, Any]
    confidence: float

    def deployed(self, methods: Sequence[Any], targets: Sequence[float]) -> list[dict[str, Any]]:
        """Rules for each target, on the test rows."""
        rows = []
        for method in methods:
            for target in targets:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", SurfaceWarning)
                    surface = fit_decision_surface(
                        *self.held, self.held_label, min_precision=target, method=method,
                        confidence=self.confidence, **self.options,
                    )  # fmt: skip
                called = surface.predict(*self.tested) == 1
                hits, n = int(self.test_label[called].sum()), int(called.sum())
                positives = int(self.test_label.sum())
                precision = _interval(hits, n, self.confidence)
                recall = _interval(hits, positives, self.confidence)
                names = ("", "_low", "_high")
                rows.append(
                    {
                        **self.keys,
                        "method": method,
                        "min_precision": target,
                        "feasible": surface.feasible_,
                        "holdout_precision": _or_none(surface.precision_),
                        "holdout_recall": _or_none(surface.recall_),
                        **{f"precision{e}": v for e, v in zip(names, precision, strict=True)},
                        **{f"recall{e}": v for e, v in zip(names, recall, strict=True)},
                        "called": n,
                    }
                )
        return rows

    def matched(
        self,
        methods: Sequence[Any],
        targets: Sequence[float],
        resamples: int,
        seed: int,
    ) -> list[dict[str, Any]]:
        """Recalls at equal test precision, with a paired bootstrap of the difference."""
        lowest = min(targets) - 0.1
        single = self._curve("single", lowest)
        weights = np.random.default_rng(seed).multinomial(
            len(self.test_label), np.full(len(self.test_label), 1 / len(self.test_label)),
            size=resamples,
        ).astype(np.float32)  # fmt: skip
        tail = (1 - self.confidence) / 2
        rows = []
        drawn = _moments(single, self.test_label, weights)
        at_once = _moments(single, self.test_label, np.ones((1, len(self.test_label)), np.float32))
        for method in methods:
            curve = self._curve(method, lowest)
            mine = _moments(curve, self.test_label, weights)
            ours = _moments(curve, self.test_label, np.ones((1, len(self.test_label)), np.float32))
            for target in targets:
                base = _recall_at(*at_once, target)[0]
                recall = _recall_at(*ours, target)[0]
                both = _recall_at(*mine, target) - _recall_at(*drawn, target)
                both = both[~np.isnan(both)]
                low, high = (
                    np.quantile(both, [tail, 1 - tail]) if len(both) >= 20 else (np.nan, np.nan)
                )
                rows.append(
                    {
                        **self.keys,
                        "method": method,
                        "precision": target,
                        "single_recall": _or_none(base),
                        "recall": _or_none(recall),
                        "difference": _or_none(recall - base),
                        "difference_low": _or_none(low),
                        "difference_high": _or_none(high),
                    }
                )
        return rows

    def _curve(self, method: Any, lowest: float) -> NDArray[np.bool_]:
        """Decisions ``(n, F)`` on the test rows of the hold-out's rules, strict ones first."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SurfaceWarning)
            frontier: PrecisionRecallFrontier = precision_recall_frontier(
                *self.held, self.held_label, method=method, **self.options
            )
        kept = np.flatnonzero(frontier.precision >= lowest)
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, _CURVE_POINTS).astype(int))]
        # Any of the frontier's surfaces knows the levels of new rows.
        level = frontier.surface(float(np.clip(frontier.precision[0], 0.01, 0.99))).level(
            *self.tested
        )
        thresholds = frontier.thresholds[kept]
        if thresholds.shape[1] == 1:
            level = np.zeros(len(level), np.int32)
        return np.asarray(self.tested.score[:, None] >= thresholds.T[level])

    def reliability(self, bins: int = 8) -> list[dict[str, Any]]:
        """Rates of positives by third of the uncertainty, at the same score."""
        score, uncertainty = self.tested
        edges = np.unique(np.quantile(score, np.linspace(0.2, 1.0, bins + 1)))
        rows = []
        for low, high in pairwise(edges.tolist()):
            inside = np.flatnonzero((score >= low) & (score <= high))
            if len(inside) < 150:
                continue
            thirds = np.array_split(inside[np.argsort(uncertainty[inside], kind="stable")], 3)
            rates = [float(self.test_label[third].mean()) for third in thirds]
            names = ("rate_low_uncertainty", "rate_middle", "rate_high_uncertainty")
            rows.append(
                {
                    **self.keys,
                    "score_low": float(low),
                    "score_high": float(high),
                    "rows": len(inside),
                    **dict(zip(names, rates, strict=True)),
                }
            )
        return rows


def _moments(
    decisions: NDArray[np.bool_], label: NDArray, weights: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall ``(R, F)`` of decisions ``(n, F)`` under weights ``(R, n)``."""
    positive = label == 1
    hits = weights[:, positive] @ decisions[positive].astype(np.float32)
    called = weights @ decisions.astype(np.float32)
    total = weights[:, positive].sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (hits / called).astype(np.float64), (hits / total).astype(np.float64)


def _recall_at(
    precision: NDArray[np.float64], recall: NDArray[np.float64], target: float
) -> NDArray[np.float64]:
    """Recall ``(R,)`` of the loosest rule of a precision; NaN where no two rules bracket it.

    Between neighbouring rules of the sweep ``(R, F)`` recall is linear in precision.
    """
    gap = precision - target
    first, second = gap[:, :-1], gap[:, 1:]
    crossing = (first >= 0) & (second < 0)  # NaN, where nothing is called, is no crossing
    last = crossing.shape[1] - 1 - np.argmax(crossing[:, ::-1], axis=1)
    rows = np.arange(len(precision))
    high, low = first[rows, last], second[rows, last]
    share = high / np.where(crossing[rows, last], high - low, 1.0)
    found = recall[rows, last] + share * (recall[rows, last + 1] - recall[rows, last])
    return np.where(crossing.any(axis=1), found, np.nan)


def _interval(hits: int, n: int, confidence: float) -> tuple[float | None, ...]:
    if n == 0:
        return None, None, None
    low, high = clopper_pearson(np.array([hits]), np.array([n]), confidence)
    return hits / n, float(low[0]), float(high[0])


def _quality(score: NDArray[np.float64], label: NDArray) -> dict[str, float]:
    from sklearn.metrics import log_loss, roc_auc_score

    clipped = np.clip(score, 1e-6, 1 - 1e-6)
    return {
        "auc": float(roc_auc_score(label, score)),
        "nll": float(log_loss(label, clipped, labels=[0, 1])),
    }


def _or_none(value: float) -> float | None:
    return None if value != value else float(value)
