"""The report of a demand run: how good forecasts and orders are."""

from foretell.evaluation.report.demand.effects import legacy_effects
from foretell.evaluation.report.demand.inputs import ReportInput
from foretell.evaluation.report.demand.page import render_report, write_report

__all__ = ["ReportInput", "legacy_effects", "render_report", "write_report"]
