"""Early warning: one risk model for several hospitals, with gate, alarms and report."""

from foretell.runs.sepsis.predict import predict
from foretell.runs.sepsis.publish import redraw
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.trip import run
from foretell.runs.tasks import Task

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={
        "final_mean": "mean AUROC of all sites at the end",
        "forgetting": "forgetting",
        "first_site": "AUROC of the first site at the end",
        "utility": "utility",
        "utility_margin": "over the clock",
        "patient_sensitivity": "patients found",
        "ppv": "PPV",
    },
    report=redraw,
    predict=predict,
)
