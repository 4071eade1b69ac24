"""The report: one self-contained HTML page that says how good forecasts and orders are."""

from foretell.evaluation.report.effects import legacy_effects
from foretell.evaluation.report.inputs import ReportInput
from foretell.evaluation.report.render import render_report, write_report

__all__ = ["ReportInput", "legacy_effects", "render_report", "write_report"]
