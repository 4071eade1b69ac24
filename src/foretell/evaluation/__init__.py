"""How good it is: metrics, backtests, leaderboards, the report."""
