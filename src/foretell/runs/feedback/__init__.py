"""Late labels: corrections compared at snapshots and on streams, and a decision that follows."""

from foretell.runs.feedback.audit import audit
from foretell.runs.feedback.predict import predict
from foretell.runs.feedback.publish import redraw
from foretell.runs.feedback.recipe import Recipe
from foretell.runs.feedback.trip import run
from foretell.runs.tasks import Task

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={
        "nll": "NLL",
        "auc": "AUC",
        "calibration_ratio": "said/happened",
        "ece": "ECE",
    },
    report=redraw,
    predict=predict,
    audit=audit,
)
