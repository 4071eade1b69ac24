"""Language on data that stays with its clients: tasks by algorithms by ways to divide."""

from foretell.runs.fednlp.publish import redraw
from foretell.runs.fednlp.recipe import Recipe
from foretell.runs.fednlp.trip import run
from foretell.runs.tasks import Task

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={
        "score": "score on the server's tests",
        "gap": "against central training",
        "clients": "mean of the clients' own scores",
        "megabytes": "megabytes",
    },
    report=redraw,
)
