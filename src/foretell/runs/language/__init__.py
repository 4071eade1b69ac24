"""Language models side by side: without privacy, with it, and with claims that are not true."""

from foretell.runs.language.audit import audit
from foretell.runs.language.predict import predict
from foretell.runs.language.publish import redraw
from foretell.runs.language.recipe import Recipe
from foretell.runs.language.trip import run
from foretell.runs.tasks import Task

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={
        "intent_accuracy": "intent accuracy",
        "slot_f1": "slot F1",
        "exact_match": "all right",
        "claimed_epsilon": "claimed epsilon",
        "epsilon": "true epsilon (at the delta below)",
        "cpu_seconds": "CPU s",
    },
    report=redraw,
    predict=predict,
    audit=audit,
)
