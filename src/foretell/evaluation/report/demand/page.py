"""From what a demand run found to its page."""

from __future__ import annotations

from pathlib import Path

from foretell.evaluation.report.demand.content import build
from foretell.evaluation.report.demand.inputs import ReportInput
from foretell.evaluation.report.render import render_page, write_page


def write_report(path: str | Path, data: ReportInput) -> Path:
    """Writes the page in one step; missing folders are made.

    Args:
        path: the HTML file.
        data: what to show.

    Returns:
        The path.
    """
    return write_page(path, render_report(data))


def render_report(data: ReportInput) -> str:
    """The page as text; see :func:`foretell.evaluation.report.render.render_page`."""
    context = build(data)
    figures, payload = context.pop("figures"), context.pop("payload")
    return render_page("demand.html.j2", context, figures, payload, scripts=("demand.js",))
