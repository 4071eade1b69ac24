"""The report of a run about late labels: delays, corrections, and the decision that follows."""

from foretell.evaluation.report.feedback.content import FeedbackReport, write_feedback_report

__all__ = ["FeedbackReport", "write_feedback_report"]
