"""The report of a federated run."""

from foretell.evaluation.report.federated.content import write_federated_report

__all__ = ["write_federated_report"]
