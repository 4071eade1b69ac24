"""Risk hour by hour: bedside scores, nets, survival models and boosted trees."""

from foretell.learners.risk.additive_trees import AdditiveTrees
from foretell.learners.risk.anchor_features import AnchorFeatures, AnchorStream
from foretell.learners.risk.attributions import (
    contribution_table,
    feature_words,
    gradient_contributions,
)
from foretell.learners.risk.boosted import BoostedRisk, GBMVitals
from foretell.learners.risk.challenge_baseline import ChallengeBaseline
from foretell.learners.risk.deep_aise import DeepAISELearner, DeepAISEShape
from foretell.learners.risk.examples import HourExamples, StayExamples
from foretell.learners.risk.feed_forward import (
    FeedForwardRiskLearner,
    FeedForwardShape,
    RiskOutput,
)
from foretell.learners.risk.scores import (
    SCORES,
    EarlyWarning,
    EarlyWarningScore,
    news2,
    qsofa,
    sirs,
)
from foretell.learners.risk.stream import HourlyFeatures, HourlyModel, RiskStream
from foretell.learners.risk.survival_examples import (
    SurvivalExamples,
    SurvivalInputs,
    SurvivalTimes,
    survival_times,
)
from foretell.learners.risk.weibull import (
    LinearWeibullLearner,
    SurvivalLearner,
    SurvivalOutput,
    negative_log_likelihood,
    risk_within,
)

__all__ = [
    "SCORES",
    "AdditiveTrees",
    "AnchorFeatures",
    "AnchorStream",
    "BoostedRisk",
    "ChallengeBaseline",
    "DeepAISELearner",
    "DeepAISEShape",
    "EarlyWarning",
    "EarlyWarningScore",
    "FeedForwardRiskLearner",
    "FeedForwardShape",
    "GBMVitals",
    "HourExamples",
    "HourlyFeatures",
    "HourlyModel",
    "LinearWeibullLearner",
    "RiskOutput",
    "RiskStream",
    "StayExamples",
    "SurvivalExamples",
    "SurvivalInputs",
    "SurvivalLearner",
    "SurvivalOutput",
    "SurvivalTimes",
    "contribution_table",
    "feature_words",
    "gradient_contributions",
    "negative_log_likelihood",
    "news2",
    "qsofa",
    "risk_within",
    "sirs",
    "survival_times",
]
