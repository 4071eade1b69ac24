"""The report of a run about leakage."""

from foretell.evaluation.report.leakage.content import write_leakage_report

__all__ = ["write_leakage_report"]
