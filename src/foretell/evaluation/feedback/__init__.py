"""How good predictions are when labels come late."""

from __future__ import annotations

from foretell.evaluation.feedback.audit import FeedbackAudit, feedback_audit
from foretell.evaluation.feedback.paired_scores import compare_probabilities
from foretell.evaluation.feedback.prequential import (
    REFERENCES,
    StreamingClassifier,
    prequential,
)
from foretell.evaluation.feedback.prequential_result import METRICS, PrequentialResult
from foretell.evaluation.feedback.snapshot_protocols import (
    StudyProtocol,
    bookings_protocol,
    coupons_protocol,
    offers_protocol,
)
from foretell.evaluation.feedback.snapshot_study import (
    Snapshot,
    SnapshotStudy,
    snapshot_methods,
    snapshot_study,
)

__all__ = [
    "METRICS",
    "REFERENCES",
    "FeedbackAudit",
    "PrequentialResult",
    "Snapshot",
    "SnapshotStudy",
    "StreamingClassifier",
    "StudyProtocol",
    "bookings_protocol",
    "compare_probabilities",
    "coupons_protocol",
    "feedback_audit",
    "offers_protocol",
    "prequential",
    "snapshot_methods",
    "snapshot_study",
]
