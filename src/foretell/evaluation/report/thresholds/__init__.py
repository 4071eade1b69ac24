"""The report of a run about decisions under uncertainty."""

from foretell.evaluation.report.thresholds.content import write_threshold_report

__all__ = ["write_threshold_report"]
