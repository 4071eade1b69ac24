"""The report of a run: one self-contained HTML page, a folder for each kind of run."""

from foretell.evaluation.report.demand import (
    ReportInput,
    legacy_effects,
    render_report,
    write_report,
)

__all__ = ["ReportInput", "legacy_effects", "render_report", "write_report"]
