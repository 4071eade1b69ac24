"""The report of a grid of federated trainings on language."""

from foretell.evaluation.report.fednlp.content import write_fednlp_report

__all__ = ["write_fednlp_report"]
