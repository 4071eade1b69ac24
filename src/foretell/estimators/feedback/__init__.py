"""Classifiers for labels that arrive late."""

from foretell.estimators.feedback.delayed_feedback import DelayedFeedbackClassifier
from foretell.estimators.feedback.method import METHODS, FeedbackMethod, register
from foretell.estimators.feedback.snapshot import SNAPSHOT_METHODS, SnapshotClassifier
from foretell.estimators.feedback.snapshot_corrector import Corrected, SnapshotCorrector

__all__ = [
    "METHODS",
    "SNAPSHOT_METHODS",
    "Corrected",
    "DelayedFeedbackClassifier",
    "FeedbackMethod",
    "SnapshotClassifier",
    "SnapshotCorrector",
    "register",
]
