"""The whole precision-recall frontier of score x uncertainty surfaces, from one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.thresholds.binning import Binning
from foretell.decisions.thresholds.build import assemble, baseline
from foretell.decisions.thresholds.candidates import Candidates, Goals, LevelCurves
from foretell.decisions.thresholds.holdout import HoldOut, hold_out
from foretell.decisions.thresholds.intervals import clopper_pearson, effective_counts
from foretell.decisions.thresholds.planning import make_plan
from foretell.decisions.thresholds.proposal import Plan, Proposal, propose
from foretell.decisions.thresholds.surface import DecisionSurface
from foretell.errors import ParameterError

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class PrecisionRecallFrontier:
    """F surfaces of which none beats another in both precision and recall, strict ones first.

    Args:
        method: how they were found.
        precision: (F,) on the hold-out, not rising.
        recall: (F,) on the hold-out, rising.
        called: (F,) weight called positive.
        true_positives: (F,) positive weight among it.
        thresholds: (F, K) score thresholds; +inf is "never".
    """

    method: str
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    called: NDArray[np.float64]
    true_positives: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    _rows: HoldOut
    _plan: Plan
    _proposal: Proposal
    _notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.precision)

    def to_frame(self) -> pl.DataFrame:
        """One row a surface.

        Columns ``precision, precision_low, precision_high`` (95 % Clopper-Pearson, of weighted
        rows at their effective number), ``recall, called, true_positives, threshold_0`` to
        ``threshold_{K-1}`` (null is "never").
        """
        curves = self._proposal.curves
        squares = np.zeros(len(self))
        for k, each in enumerate(curves.squares):
            squares += each[curves.at(k, self.thresholds[:, k])]
        low, high = clopper_pearson(*effective_counts(self.true_positives, self.called, squares))
        columns = {
            "precision": self.precision,
            "precision_low": low,
            "precision_high": high,
            "recall": self.recall,
            "called": self.called,
            "true_positives": self.true_positives,
        }
        never = np.where(np.isinf(self.thresholds), np.nan, self.thresholds)
        levels = {f"threshold_{k}": never[:, k] for k in range(never.shape[1])}
        return pl.DataFrame(columns | levels).with_columns(pl.col(list(levels)).fill_nan(None))

    def position(self, min_precision: float) -> int | None:
        """The surface with most recall among those of this precision or more, or None."""
        there = np.flatnonzero(self.precision >= min_precision * (1 - 1e-12))
        return int(there[-1]) if len(there) else None

    def surface(self, min_precision: float, confidence: float = 0.95) -> DecisionSurface:
        """The surface for a target precision, without solving anything again."""
        goals = Goals(min_precision)
        goals.check()
        at = self.position(min_precision)
        cells = self._proposal.partition
        return assemble(
            method=self.method,
            binning=self._plan.binning,
            partition=cells,
            thresholds=np.full(cells.n_levels, np.inf)
            if at is None
            else self.thresholds[at].copy(),
            floors=None,
            rows=self._rows,
            judged=self._rows,
            goals=goals,
            best_precision=float(self.precision.max(initial=0.0)),
            reference=baseline(self._rows, goals, confidence),
            guarantee=None,
            base_rates=(self._base_rate, self._base_rate),
            confidence=confidence,
            notes=self._notes,
        )

    @property
    def _base_rate(self) -> float:
        return self._rows.positives / float(self._rows.weight.sum())

    def evaluate(
        self, score: ArrayLike, uncertainty: ArrayLike | None, y: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision (NaN where nothing is called) and recall (F,) of all surfaces on other rows.

        Raises:
            DataError: missing uncertainties where the frontier has no level for them.
        """
        cells = self._proposal.partition
        rows = hold_out(score, uncertainty, y, missing="level" if cells.missing else "error")
        level = cells.locate(rows.score, rows.uncertainty)[1]
        curves = LevelCurves.of(rows.score, rows.label, rows.weight, level, cells.n_levels)
        tp, n = curves.totals(self.thresholds)
        with np.errstate(invalid="ignore"):
            return tp / n, tp / rows.positives

    def plot(self) -> go.Figure:
        """Precision over recall."""
        import plotly.graph_objects as go

        figure = go.Figure(go.Scatter(x=self.recall, y=self.precision, mode="lines"))
        figure.update_layout(
            xaxis={"title": {"text": "recall"}},
            yaxis={"title": {"text": "precision"}},
            margin={"l": 56, "r": 12, "t": 12, "b": 44},
            height=340,
        )
        return figure


def precision_recall_frontier(
    score: ArrayLike,
    uncertainty: ArrayLike | None,
    y: ArrayLike,
    *,
    method: Literal["mist", "ew_dp", "vw_dp", "single"] = "vw_dp",
    n_levels: int = 4,
    n_bins: int | None = None,
    binning: Binning = "score_then_uncertainty",
    sample_weight: ArrayLike | None = None,
    monotone_levels: bool = False,
    ties: Literal["merge", "jitter"] = "merge",
    missing: Literal["error", "level"] = "error",
    random_state: int = 0,
) -> PrecisionRecallFrontier:
    """Every attainable trade of precision against recall, with its threshold vector.

    The dynamic programmes hold the optimum for every target precision at once; "mist" gives the
    corners of the frontier's concave hull, "single" the one-threshold frontier.

    Args:
        score: (n,) hold-out scores.
        uncertainty: (n,) uncertainties.
        y: (n,) labels 0 and 1.
        method: as in `fit_decision_surface`; "milp" solves for one precision at a time and has no
            frontier.
        n_levels: uncertainty levels.
        n_bins: score bins.
        binning: order of the binning.
        sample_weight: (n,) weights.
        monotone_levels: thresholds may not fall with the uncertainty.
        ties: as in `fit_decision_surface`.
        missing: as in `fit_decision_surface`.
        random_state: seed of the jitter.

    Raises:
        DataError: a column that cannot be used.
        ParameterError: ``method="milp"`` or an option out of range.
    """
    if str(method) == "milp":
        raise ParameterError('method="milp" has no frontier: use "vw_dp", which is exact too')
    rows = hold_out(score, uncertainty, y, sample_weight, missing=missing)
    plan, notes = make_plan(
        rows, method, n_levels, n_bins, binning, ties, monotone_levels, missing, random_state
    )
    proposal = propose(rows, plan)
    family: Candidates = proposal.candidates.pareto()
    thresholds = family.thresholds()
    thresholds[:, [len(s) == 0 for s in proposal.curves.scores]] = np.inf
    return PrecisionRecallFrontier(
        method=plan.method,
        precision=family.tp / family.n,
        recall=family.tp / rows.positives,
        called=family.n,
        true_positives=family.tp,
        thresholds=thresholds,
        _rows=rows,
        _plan=plan,
        _proposal=proposal,
        _notes=(*notes, *proposal.notes),
    )
