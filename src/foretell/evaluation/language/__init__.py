"""How well language is understood, answered and written."""

from foretell.evaluation.language.answers import answer_scores, evaluate_answers
from foretell.evaluation.language.generation import evaluate_generation, rouge
from foretell.evaluation.language.likelihood import evaluate_language_model
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
    "answer_scores",
    "evaluate_answers",
    "evaluate_generation",
    "evaluate_language_model",
    "evaluate_understanding",
    "intent_accuracy",
    "rouge",
    "slot_scores",
]
