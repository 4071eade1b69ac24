"""How good it is: metrics, backtests, leaderboards, the report."""

from foretell.evaluation.backtest import (
    Backtest,
    Executor,
    Window,
    backtest,
    join_tables,
    run_window,
)
from foretell.evaluation.tidy import evaluate, evaluate_spans, summarise

__all__ = [
    "Backtest",
    "Executor",
    "Window",
    "backtest",
    "evaluate",
    "evaluate_spans",
    "join_tables",
    "run_window",
    "summarise",
]
