"""Demand: backtests of forecasters, orders, and forecasts beyond the data."""

from foretell.runs.demand.audit import audit
from foretell.runs.demand.predict import predict, redraw
from foretell.runs.demand.recipe import Recipe
from foretell.runs.demand.trip import run
from foretell.runs.tasks import Task

TASK = Task(
    recipe=Recipe,
    run=run,
    scores={"wql": "WQL", "mase": "MASE", "wape": "WAPE", "calibration_error": "calibration"},
    report=redraw,
    predict=predict,
    audit=audit,
)
