"""When not to predict: broken input, input unlike any seen, and input that says too little."""

from foretell.decisions.abstention.composer import (
    Composer,
    ComposerStream,
    Contributor,
    Prediction,
)
from foretell.decisions.abstention.conformal import (
    MondrianConformal,
    OutOfDistribution,
    PredictionSets,
    conformal_p_values,
)
from foretell.decisions.abstention.drift import (
    AlarmChart,
    PopulationMonitor,
    benjamini_hochberg,
)
from foretell.decisions.abstention.gate import Gate, Gated, GateStream, Status
from foretell.decisions.abstention.quality import RULES, Quality, QualityMonitor, QualityStream

__all__ = [
    "RULES",
    "AlarmChart",
    "Composer",
    "ComposerStream",
    "Contributor",
    "Gate",
    "GateStream",
    "Gated",
    "MondrianConformal",
    "OutOfDistribution",
    "PopulationMonitor",
    "Prediction",
    "PredictionSets",
    "Quality",
    "QualityMonitor",
    "QualityStream",
    "Status",
    "benjamini_hochberg",
    "conformal_p_values",
]
