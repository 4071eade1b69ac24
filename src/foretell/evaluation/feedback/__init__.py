"""How good predictions are when labels come late."""

from __future__ import annotations

from foretell.evaluation.feedback.prequential import (
    REFERENCES,
    StreamingClassifier,
    prequential,
)
from foretell.evaluation.feedback.prequential_result import METRICS, PrequentialResult

__all__ = ["METRICS", "REFERENCES", "PrequentialResult", "StreamingClassifier", "prequential"]
