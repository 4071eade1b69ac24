"""How good it is: metrics, backtests, leaderboards, the report."""

from foretell.evaluation.backtest import (
    Backtest,
    Executor,
    Window,
    WindowResult,
    backtest,
    join_tables,
    run_window,
)
from foretell.evaluation.bootstrap import Interval, cluster_bootstrap
from foretell.evaluation.compare import (
    DieboldMariano,
    Difference,
    diebold_mariano,
    difference,
    leaderboard,
    losses_by_date,
    over_seeds,
)
from foretell.evaluation.decision_cost import DecisionCost, decision_cost
from foretell.evaluation.leakage import LeakageError, LeakageReport, leakage_check
from foretell.evaluation.reliability import reliability
from foretell.evaluation.tidy import evaluate, evaluate_spans, summarise

__all__ = [
    "Backtest",
    "DecisionCost",
    "DieboldMariano",
    "Difference",
    "Executor",
    "Interval",
    "LeakageError",
    "LeakageReport",
    "Window",
    "WindowResult",
    "backtest",
    "cluster_bootstrap",
    "decision_cost",
    "diebold_mariano",
    "difference",
    "evaluate",
    "evaluate_spans",
    "join_tables",
    "leaderboard",
    "leakage_check",
    "losses_by_date",
    "over_seeds",
    "reliability",
    "run_window",
    "summarise",
]
