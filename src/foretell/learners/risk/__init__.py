"""Risk hour by hour: early-warning scores that need no training."""

from foretell.learners.risk.scores import (
    SCORES,
    EarlyWarning,
    EarlyWarningScore,
    news2,
    qsofa,
    sirs,
)

__all__ = ["SCORES", "EarlyWarning", "EarlyWarningScore", "news2", "qsofa", "sirs"]
