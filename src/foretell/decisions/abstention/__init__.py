"""When not to predict: broken input, input unlike any seen, and input that says too little."""

from foretell.decisions.abstention.calibrated import Calibration
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
from foretell.decisions.abstention.gate import Gate, GateStream
from foretell.decisions.abstention.monitor import Drift, DriftMonitor, blocks
from foretell.decisions.abstention.quality import RULES, Quality, QualityMonitor, QualityStream
from foretell.decisions.abstention.score_drift import (
    ExpectedPerformance,
    ScoreDrift,
    ScoreMonitor,
    expected_performance,
)
from foretell.decisions.abstention.verdict import Gated, Status

__all__ = [
    "RULES",
    "AlarmChart",
    "Calibration",
    "Composer",
    "ComposerStream",
    "Contributor",
    "Drift",
    "DriftMonitor",
    "ExpectedPerformance",
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
    "ScoreDrift",
    "ScoreMonitor",
    "Status",
    "benjamini_hochberg",
    "blocks",
    "conformal_p_values",
    "expected_performance",
]
