"""Decisions: thresholds over score and uncertainty, with a precision that is guaranteed."""

from foretell.runs.tasks import Task
from foretell.runs.thresholds.publish import redraw
from foretell.runs.thresholds.recipe import Recipe
from foretell.runs.thresholds.trip import run

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={
        "recall": "recall",
        "precision": "precision",
        "single_recall": "recall, one threshold",
        "single_precision": "precision, one threshold",
        "auc": "AUC",
    },
    report=redraw,
)
