"""The report of a run about language models and what privacy costs them."""

from foretell.evaluation.report.language.content import write_language_report

__all__ = ["write_language_report"]
