"""The report of a run about early warning, drawn from what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.evaluation.report.sepsis import write_sepsis_report
from foretell.runs.folder import RunFolder
from foretell.runs.sepsis.recipe import Recipe


def draw(folder: RunFolder, record: Mapping[str, Any]) -> Path:
    """Writes ``report.html``."""
    return write_sepsis_report(folder.path / "report.html", record)


def redraw(folder: RunFolder, record: Mapping[str, Any], recipe: Recipe) -> Path:
    """Draws the report anew; it needs nothing but the run's folder."""
    return draw(folder, record)
