"""The report of a late-labels run, drawn from what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from foretell.decisions.thresholds import DecisionSurface
from foretell.evaluation.report.feedback import FeedbackReport, write_feedback_report
from foretell.runs.feedback.recipe import Recipe
from foretell.runs.folder import RunFolder, read_table
from foretell.runs.rules import surface_file


def draw(folder: RunFolder, record: Mapping[str, Any]) -> Path:
    """Writes ``report.html``.

    Raises:
        ArtefactError: a table or a surface of the run is damaged.
    """
    surfaces = {
        rule: DecisionSurface.from_json(folder.path / surface_file(rule))
        for rule in (record.get("decision") or {}).get("rules") or {}
    }
    return write_feedback_report(
        folder.path / "report.html",
        FeedbackReport(
            run=record,
            predictions=_table(folder.path / "predictions.parquet"),
            surfaces=surfaces,
            stream=_table(folder.path / "stream.parquet"),
        ),
    )


def redraw(folder: RunFolder, record: Mapping[str, Any], recipe: Recipe) -> Path:
    """Draws the report anew; it needs nothing but the run's folder."""
    return draw(folder, record)


def _table(file: Path) -> pl.DataFrame | None:
    return read_table(file) if file.is_file() else None
