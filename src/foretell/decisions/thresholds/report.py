"""What a surface achieves on labelled rows, beside the single threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from foretell.decisions.thresholds.build import level_figures, overall
from foretell.decisions.thresholds.candidates import Goals, LevelCurves
from foretell.decisions.thresholds.figures import Achieved
from foretell.decisions.thresholds.holdout import check_labels, check_weights, numbers
from foretell.decisions.thresholds.surface import DecisionSurface


@dataclass(frozen=True, eq=False)
class SurfaceReport:
    """Figures of a surface on labelled rows, as they are (no shift of the base rate).

    Args:
        surface: what the surface achieves.
        single: what the single threshold of the same hold-out achieves.
        levels: one row a level: ``level, rows, positives, called, true_positives, precision,
            precision_low, precision_high, recall``.
        abstained: weight of the rows left to somebody else.
        n_clipped: rows whose uncertainty is beyond the hold-out's range.
        min_precision: the target.
    """

    surface: Achieved
    single: Achieved
    levels: pl.DataFrame
    abstained: float
    n_clipped: int
    min_precision: float | None

    @property
    def precision(self) -> float:
        """Precision of the surface; NaN where nothing is called."""
        return self.surface.precision

    @property
    def recall(self) -> float:
        """Recall of the surface."""
        return self.surface.recall

    def to_frame(self) -> pl.DataFrame:
        """Two rows, ``rule`` "surface" and "single", and the columns of `Achieved`."""
        rules = {"surface": self.surface, "single": self.single}
        return pl.DataFrame([{"rule": rule, **vars(each)} for rule, each in rules.items()])

    def __str__(self) -> str:
        lines = []
        for rule, a in (("surface", self.surface), ("single threshold", self.single)):
            lines.append(
                f"{rule}: precision {a.precision:.3f} [{a.precision_low:.3f}, "
                f"{a.precision_high:.3f}], recall {a.recall:.3f} [{a.recall_low:.3f}, "
                f"{a.recall_high:.3f}], {a.called:g} of {a.rows:g} rows called"
            )
        if self.abstained:
            lines.append(f"abstained: {self.abstained:g} rows")
        if self.n_clipped:
            lines.append(f"uncertainty beyond the hold-out's range: {self.n_clipped} rows")
        return "\n".join(lines)


def surface_report(
    surface: DecisionSurface,
    score: ArrayLike,
    uncertainty: ArrayLike | None,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> SurfaceReport:
    """Figures of ``surface`` on labelled rows; one class only is no error here.

    Args:
        surface: the surface.
        score: (n,) scores.
        uncertainty: (n,) uncertainties; None where the surface has one level.
        y: (n,) labels 0 and 1.
        sample_weight: (n,) weights.

    Raises:
        DataError: a column that cannot be used.
    """
    s = numbers(score, "score")
    n = len(s)
    low, high = surface.uncertainty_range
    u = np.full(n, low) if uncertainty is None else numbers(uncertainty, "uncertainty", n)
    level = surface.level(s, None if uncertainty is None else u)
    label = check_labels(y, n)
    weight = np.ones(n) if sample_weight is None else check_weights(sample_weight, n)
    goals = Goals(surface.min_precision)
    curves = LevelCurves.of(s, label, weight, level, surface.n_levels)
    flat = LevelCurves.of(s, label, weight, np.zeros(n, np.int32), 1)
    figures = level_figures(curves, surface.thresholds, goals, surface.confidence)
    from_floor = overall(curves, surface.floors, goals, surface.confidence)
    achieved = overall(curves, surface.thresholds, goals, surface.confidence)
    return SurfaceReport(
        surface=achieved,
        single=overall(flat, np.array([surface.baseline.threshold]), goals, surface.confidence),
        levels=pl.DataFrame({"level": np.arange(surface.n_levels, dtype=np.int32), **figures}),
        abstained=from_floor.called - achieved.called,
        n_clipped=int(np.count_nonzero((u < low) | (u > high))),
        min_precision=surface.min_precision,
    )
