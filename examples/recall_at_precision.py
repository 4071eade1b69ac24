"""Equal scores, unequal evidence: a threshold for each uncertainty level, and a guarantee.

    python examples/recall_at_precision.py

Cells of known truth were learned from few or from many examples. One threshold on the score must be
strict enough for the least certain of them; a surface is strict only where it has to be.
"""

from __future__ import annotations

from typing import Any

from foretell.data.simulators import evidence_cells
from foretell.decisions.thresholds import fit_decision_surface

TARGET = 0.7


def main(cells: int = 40_000) -> dict[str, tuple[float, float]]:
    """Returns precision and recall on the test rows of each rule."""
    hold_out, test = evidence_cells(cells=cells, seed=0)
    rules: dict[str, dict[str, Any]] = {
        "one threshold": {"method": "single"},
        "surface": {"n_levels": 3},
        "guaranteed": {"n_levels": 3, "guarantee": "ltt", "delta": 0.1},
    }
    found = {}
    for name, options in rules.items():
        surface = fit_decision_surface(
            hold_out.score, hold_out.uncertainty, hold_out.y, min_precision=TARGET, **options
        )
        achieved = surface.report(test.score, test.uncertainty, test.y)
        found[name] = (achieved.precision, achieved.recall)
    return found


if __name__ == "__main__":
    for rule, (precision, recall) in main().items():
        print(f"{rule:14} precision {precision:.3f}, recall {recall:.3f}")
