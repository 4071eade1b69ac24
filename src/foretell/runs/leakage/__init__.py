"""Leakage: how much attacks find, training by training, from no privacy to much of it."""

from foretell.runs.leakage.publish import redraw
from foretell.runs.leakage.recipe import Recipe
from foretell.runs.leakage.trip import run
from foretell.runs.tasks import Task

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={
        "lira_auc": "LiRA AUC",
        "lira_tpr": "TPR at 0.1%",
        "rmia_auc": "RMIA AUC",
        "rmia_tpr": "TPR at 0.1%",
        "loss_auc": "loss AUC",
        "test_accuracy": "test accuracy",
    },
    report=redraw,
)
