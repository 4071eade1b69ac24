"""The report of a run about canaries, drawn from what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.evaluation.report.canary import write_canary_report
from foretell.runs.canary.recipe import Recipe
from foretell.runs.folder import RunFolder, read_table


def draw(folder: RunFolder, record: Mapping[str, Any]) -> Path:
    """Writes ``report.html``.

    Raises:
        ArtefactError: the table of canaries is gone or damaged.
    """
    table = read_table(folder.path / "canaries.parquet")
    return write_canary_report(folder.path / "report.html", record, table)


def redraw(folder: RunFolder, record: Mapping[str, Any], recipe: Recipe) -> Path:
    """Draws the report anew; it needs nothing but the run's folder."""
    return draw(folder, record)
