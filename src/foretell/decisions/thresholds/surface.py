"""The decision surface: one score threshold for each uncertainty level, ready to decide."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.thresholds import kernels
from foretell.decisions.thresholds.binning import Partition
from foretell.decisions.thresholds.figures import Achieved, Baseline, Guarantee
from foretell.decisions.thresholds.holdout import check_scores, check_uncertainties, numbers
from foretell.errors import DataError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from foretell.decisions.thresholds.report import SurfaceReport

ABSTAIN = -1
NEVER = float("inf")


@dataclass(frozen=True, eq=False)
class DecisionSurface:
    """A score threshold for each of K uncertainty levels.

    A pair (score, uncertainty) belongs to a score region (one of R) and, by the uncertainty edges
    of that region, to a level; it is called positive iff its score is at or above the level's
    threshold; with abstention, -1 from the level's floor up to its threshold. Within a level a
    higher score never turns a decision back. Use `fit_decision_surface`.

    Args:
        method: how the thresholds were found: "single", "mist", "ew_dp", "vw_dp" or "milp".
        min_precision: the target, or None where recall led.
        binning: how levels were formed.
        partition: regions and levels.
        thresholds: (K,) scores; +inf is "never".
        floors: (K,) scores from which a row below the threshold is left to somebody else (-1);
            equal to ``thresholds`` without abstention.
        uncertainty_range: least and greatest uncertainty of the hold-out.
        probability_scores: K ascending arrays, scores where the calibrated rate steps up.
        probability_values: K arrays, P(y = 1 | score, level) from each such score up.
        cut: calibrated probability that divides positive from negative decisions.
        feasible_: whether a surface meets the goals. If not, nothing is called positive.
        achieved: precision and recall with intervals. On the rows that chose the surface, so
            optimistic, or on the test rows where there is a guarantee.
        best_precision_: the greatest precision that any surface of the method attains there.
        baseline: the best single threshold.
        level_table: columns of K values: see `levels`.
        cell_table: columns of the picture's cells: see `to_frame`.
        guarantee: the finite-sample guarantee or None.
        base_rates: base rate of the hold-out and the one the surface is made for.
        confidence: of the intervals.
        notes: what was changed on the way and why.
    """

    method: str
    min_precision: float | None
    binning: str
    partition: Partition
    thresholds: NDArray[np.float64]
    floors: NDArray[np.float64]
    uncertainty_range: tuple[float, float]
    probability_scores: tuple[NDArray[np.float64], ...]
    probability_values: tuple[NDArray[np.float64], ...]
    cut: float
    feasible_: bool
    achieved: Achieved
    best_precision_: float
    baseline: Baseline
    level_table: Mapping[str, NDArray[Any]]
    cell_table: Mapping[str, NDArray[Any]]
    base_rates: tuple[float, float]
    guarantee: Guarantee | None = None
    confidence: float = 0.95
    notes: tuple[str, ...] = ()
    _live: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # what the single-pair path reads: plain Python numbers, never changed afterwards
        self._live.update(
            lock=threading.Lock(),
            clipped=0,
            score_edges=self.partition.score_edges.tolist(),
            level_edges=self.partition.level_edges.tolist(),
            rules=list(zip(self.thresholds.tolist(), self.floors.tolist(), strict=True)),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init} | {
            "n_clipped": self.n_clipped
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        clipped = state.pop("n_clipped")
        for name, value in state.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_live", {})
        self.__post_init__()
        self._live["clipped"] = clipped

    @property
    def n_levels(self) -> int:
        """Levels K, the one of missing uncertainties included."""
        return len(self.thresholds)

    @property
    def precision_(self) -> float:
        """Precision of the surface, see ``achieved``; NaN where nothing is called."""
        return self.achieved.precision

    @property
    def recall_(self) -> float:
        """Recall of the surface, see ``achieved``."""
        return self.achieved.recall

    @property
    def precision_interval_(self) -> tuple[float, float]:
        """Clopper-Pearson interval of the precision."""
        return self.achieved.precision_low, self.achieved.precision_high

    @property
    def recall_interval_(self) -> tuple[float, float]:
        """Clopper-Pearson interval of the recall."""
        return self.achieved.recall_low, self.achieved.recall_high

    @property
    def n_clipped(self) -> int:
        """Pairs decided so far whose uncertainty was beyond the hold-out's range.

        They are decided by the extreme level that they are nearest to.
        """
        with self._live["lock"]:
            return int(self._live["clipped"])

    def _count_clipped(self, more: int) -> None:
        if more:
            with self._live["lock"]:
                self._live["clipped"] += more

    def _pairs(
        self, score: ArrayLike, uncertainty: ArrayLike | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        s = numbers(score, "score")
        if uncertainty is None:
            if self.n_levels > 1:
                raise DataError(
                    f"the surface has {self.n_levels} uncertainty levels",
                    column="uncertainty",
                    hint="give the uncertainty of each score",
                )
            return s, np.full(len(s), self.uncertainty_range[0])
        return s, numbers(uncertainty, "uncertainty", len(s))

    def _refuse(self, s: NDArray[np.float64], u: NDArray[np.float64]) -> None:
        if np.isnan(s).any():
            check_scores(np.where(np.isinf(s), 0.0, s))
        missing = "level" if self.partition.missing else "error"
        check_uncertainties(u, missing, infinite=True)

    def predict(self, score: ArrayLike, uncertainty: ArrayLike | None = None) -> NDArray[np.int8]:
        """Decisions (n,): 1 positive, 0 negative, -1 abstain. Safe to call from many threads.

        Args:
            score: (n,) scores.
            uncertainty: (n,) uncertainties; may be left out where there is one level.

        Raises:
            DataError: NaN scores, or NaN uncertainties and no level for them.
        """
        s, u = self._pairs(score, uncertainty)
        decisions = np.empty(len(s), np.int8)
        clipped, missing, undefined = kernels.decide(
            s,
            u,
            self.partition.score_edges,
            self.partition.level_edges,
            self.thresholds,
            self.floors,
            *self.uncertainty_range,
            decisions,
        )
        if undefined or (missing and not self.partition.missing):
            self._refuse(s, u)
        self._count_clipped(int(clipped))
        return decisions

    def decide(self, score: float, uncertainty: float | None = None) -> int:
        """The decision of one pair, in about a microsecond: 1, 0 or -1.

        ``uncertainty`` may be left out where there is one level.

        Raises:
            DataError: a NaN score, or a NaN uncertainty and no level for it.
        """
        live = self._live
        if uncertainty is None or uncertainty != uncertainty or score != score:
            given = None if uncertainty is None else [uncertainty]
            return int(self.predict([score], given)[0])
        edges = live["level_edges"][bisect_right(live["score_edges"], score)]
        threshold, floor = live["rules"][bisect_right(edges, uncertainty)]
        low, high = self.uncertainty_range
        if not low <= uncertainty <= high:
            self._count_clipped(1)
        if score >= threshold and threshold < NEVER:
            return 1
        return -1 if score >= floor and floor < NEVER else 0

    def level(self, score: ArrayLike, uncertainty: ArrayLike | None = None) -> NDArray[np.int32]:
        """Uncertainty level (n,) of each pair, 0 the most certain."""
        s, u = self._pairs(score, uncertainty)
        self._refuse(s, u)
        return self.partition.locate(s, u)[1]

    def probability(
        self, score: ArrayLike, uncertainty: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Calibrated P(y = 1 | score, uncertainty), (n,): isotonic in the score in each level."""
        s, u = self._pairs(score, uncertainty)
        self._refuse(s, u)
        level = self.partition.locate(s, u)[1]
        p = np.empty(len(s))
        for k in range(self.n_levels):
            rows = np.flatnonzero(level == k)
            at = np.searchsorted(self.probability_scores[k], s[rows], side="right") - 1
            p[rows] = self.probability_values[k][np.maximum(at, 0)]
        return p

    def predict_proba(
        self, score: ArrayLike, uncertainty: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Calibrated probabilities of class 0 and 1, (n, 2), as scikit-learn has them."""
        p = self.probability(score, uncertainty)
        return np.column_stack([1 - p, p])

    def decision_function(
        self, score: ArrayLike, uncertainty: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Calibrated probability less the cut, (n,): above 0 exactly where `predict` gives 1."""
        s, u = self._pairs(score, uncertainty)
        margin = self.probability(s, u) - self.cut
        threshold = self.thresholds[self.partition.locate(s, u)[1]]
        positive = (s >= threshold) & (threshold < NEVER)
        tiny = np.finfo(float).tiny
        return np.where(positive, np.maximum(margin, tiny), np.minimum(margin, 0.0))

    def report(
        self,
        score: ArrayLike,
        uncertainty: ArrayLike | None,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> SurfaceReport:
        """Precision and recall on labelled rows, level by level and beside the single threshold."""
        from foretell.decisions.thresholds.report import surface_report

        return surface_report(self, score, uncertainty, y, sample_weight)

    def estimate_base_rate(self, score: ArrayLike, uncertainty: ArrayLike | None = None) -> float:
        """Base rate of rows without labels, if only the base rate has changed.

        By expectation-maximisation over the surface's calibrated probabilities (Saerens et al.
        2002). Fit again with ``target_base_rate`` where it has moved.
        """
        from foretell.decisions.thresholds.prior_shift import estimate_base_rate

        return estimate_base_rate(self.probability(score, uncertainty), self.base_rates[1])

    def levels(self) -> pl.DataFrame:
        """One row a level, on the hold-out.

        Columns ``level, threshold, floor`` (null is "never"), ``rows, positives, called,
        true_positives, precision, precision_low, precision_high, recall``.
        """
        frame = pl.DataFrame({name: list(column) for name, column in self.level_table.items()})
        return frame.select(
            pl.Series("level", np.arange(self.n_levels, dtype=np.int32)),
            _finite_or_null("threshold", self.thresholds),
            _finite_or_null("floor", self.floors),
            pl.all(),
        )

    def to_frame(self) -> pl.DataFrame:
        """What a picture needs: one row for each cell of score bin and level with hold-out rows.

        Columns ``level, threshold, score_low, score_high, uncertainty_low, uncertainty_high, rows,
        positives, rate, rate_low, rate_high`` (observed positive rate and its interval), ``called``
        (share of the cell that the surface calls positive).
        """
        cells = {name: np.asarray(column) for name, column in self.cell_table.items()}
        frame = pl.DataFrame(cells).with_columns(
            _finite_or_null("threshold", self.thresholds[cells["level"].astype(int)])
        )
        return frame.select("level", "threshold", pl.exclude("level", "threshold"))

    def plot(self) -> go.Figure:
        """The surface as a picture: positive rate of each cell, thresholds as a line."""
        from foretell.decisions.thresholds.picture import surface_figure

        return surface_figure(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """The surface as JSON text, also written to ``path`` where one is given."""
        from foretell.decisions.thresholds.exchange import to_json

        text = to_json(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> DecisionSurface:
        """A surface from JSON text or from a file of it.

        Raises:
            ArtefactError: not a surface, damaged, or written by a newer version.
        """
        from foretell.decisions.thresholds.exchange import from_json

        return from_json(source)

    def __str__(self) -> str:
        if not self.feasible_:
            return (
                f"DecisionSurface({self.method}): infeasible, nothing is called positive; best "
                f"attainable precision {self.best_precision_:.3f}"
            )
        a = self.achieved
        promise = ""
        if self.guarantee is not None:
            g = self.guarantee
            promise = (
                f"; precision guaranteed with probability {1 - g.delta:g} at a price: "
                f"{g.price:.0%} of the recall without guarantee"
            )
        return (
            f"DecisionSurface({self.method}, {self.n_levels} levels): precision {a.precision:.3f} "
            f"[{a.precision_low:.3f}, {a.precision_high:.3f}], recall {a.recall:.3f} "
            f"[{a.recall_low:.3f}, {a.recall_high:.3f}]; single threshold: recall "
            f"{self.baseline.achieved.recall:.3f}{promise}"
        )


def _finite_or_null(name: str, values: NDArray[np.float64]) -> pl.Series:
    return pl.Series(name, np.where(np.isinf(values), np.nan, values)).fill_nan(None)
