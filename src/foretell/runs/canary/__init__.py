"""Canaries: secrets planted in a language model's training data, extracted, and defended."""

from foretell.runs.canary.publish import redraw
from foretell.runs.canary.recipe import Recipe
from foretell.runs.canary.trip import run
from foretell.runs.tasks import Task

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={
        "exposure": "exposure, bits",
        "token_accuracy": "words found",
        "exact_match": "secrets found",
        "intent_accuracy": "intent accuracy",
    },
    report=redraw,
)
