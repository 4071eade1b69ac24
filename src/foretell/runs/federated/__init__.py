"""Federated training: who is chosen, how updates count, and what it costs."""

from foretell.runs.federated.publish import redraw
from foretell.runs.federated.recipe import Recipe
from foretell.runs.federated.trip import run
from foretell.runs.tasks import Task

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={
        "mean_accuracy": "accuracy, mean over rounds",
        "accuracy": "accuracy at the end",
        "samples_per_round": "samples a round",
        "megabytes": "megabytes",
    },
    report=redraw,
)
