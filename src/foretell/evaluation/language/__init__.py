"""How well language is understood."""

from foretell.evaluation.language.understanding import (
    SpanScore,
    SpanScores,
    evaluate_understanding,
    intent_accuracy,
    slot_scores,
)

__all__ = [
    "SpanScore",
    "SpanScores",
    "evaluate_understanding",
    "intent_accuracy",
    "slot_scores",
]
