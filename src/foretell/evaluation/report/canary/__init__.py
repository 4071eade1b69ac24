"""The report of a run about canaries."""

from foretell.evaluation.report.canary.content import write_canary_report

__all__ = ["write_canary_report"]
