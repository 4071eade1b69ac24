"""When not to predict: broken input, input unlike any seen, and input that says too little."""

from foretell.decisions.abstention.conformal import (
    MondrianConformal,
    OutOfDistribution,
    PredictionSets,
    conformal_p_values,
)

__all__ = [
    "MondrianConformal",
    "OutOfDistribution",
    "PredictionSets",
    "conformal_p_values",
]
