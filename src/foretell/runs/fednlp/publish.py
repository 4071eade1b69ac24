"""The report of a grid of federated trainings, drawn from what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.evaluation.report.fednlp import write_fednlp_report
from foretell.runs.fednlp.recipe import Recipe
from foretell.runs.folder import RunFolder, read_table


def draw(folder: RunFolder, record: Mapping[str, Any]) -> Path:
    """Writes ``report.html``.

    Raises:
        ArtefactError: the curves of the run are missing or damaged.
    """
    curves = read_table(folder.path / "curves.parquet")
    return write_fednlp_report(folder.path / "report.html", record, curves)


def redraw(folder: RunFolder, record: Mapping[str, Any], recipe: Recipe) -> Path:
    """Draws the report anew; it needs nothing but the run's folder."""
    return draw(folder, record)
