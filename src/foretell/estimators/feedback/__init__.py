"""Classifiers for labels that arrive late."""

from foretell.estimators.feedback.delayed_feedback import DelayedFeedbackClassifier
from foretell.estimators.feedback.method import METHODS, FeedbackMethod, register

__all__ = ["METHODS", "DelayedFeedbackClassifier", "FeedbackMethod", "register"]
