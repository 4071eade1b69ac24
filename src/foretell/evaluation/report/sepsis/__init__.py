"""The report of a run about early warning."""

from foretell.evaluation.report.sepsis.content import write_sepsis_report

__all__ = ["write_sepsis_report"]
