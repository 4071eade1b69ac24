"""The report of a run about decisions, drawn from what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.decisions.thresholds import DecisionSurface
from foretell.evaluation.report.thresholds import write_threshold_report
from foretell.runs.folder import RunFolder
from foretell.runs.rules import surface_file
from foretell.runs.thresholds.recipe import Recipe


def draw(folder: RunFolder, record: Mapping[str, Any]) -> Path:
    """Writes ``report.html``.

    Raises:
        ArtefactError: a surface of the run is damaged.
    """
    surfaces = {
        rule: DecisionSurface.from_json(folder.path / surface_file(rule))
        for rule in record["decision"]["rules"]
    }
    return write_threshold_report(folder.path / "report.html", record, surfaces)


def redraw(folder: RunFolder, record: Mapping[str, Any], recipe: Recipe) -> Path:
    """Draws the report anew; it needs nothing but the run's folder."""
    return draw(folder, record)
