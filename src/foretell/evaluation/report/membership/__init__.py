"""The report of a membership audit."""

from foretell.evaluation.report.membership.content import (
    THREATS,
    attack_rows,
    mia_report,
    points_text,
    write_audit_report,
)

__all__ = ["THREATS", "attack_rows", "mia_report", "points_text", "write_audit_report"]
