"""Risk hour by hour: bedside scores, nets, survival models and boosted trees.

The names below are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretell.lazy import lazily

if TYPE_CHECKING:
    from foretell.learners.risk.additive import AdditiveRiskLearner, AdditiveShape
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
    from foretell.learners.risk.early_warning import EarlyWarningScore
    from foretell.learners.risk.examples import HourExamples, StayExamples
    from foretell.learners.risk.feed_forward import (
        FeedForwardRiskLearner,
        FeedForwardShape,
        RiskOutput,
    )
    from foretell.learners.risk.scores import (
        SCORES,
        EarlyWarning,
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
    "AdditiveRiskLearner",
    "AdditiveShape",
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

__getattr__ = lazily(
    __name__,
    {
        "foretell.learners.risk.additive": ("AdditiveRiskLearner", "AdditiveShape"),
        "foretell.learners.risk.additive_trees": ("AdditiveTrees",),
        "foretell.learners.risk.anchor_features": ("AnchorFeatures", "AnchorStream"),
        "foretell.learners.risk.attributions": (
            "contribution_table",
            "feature_words",
            "gradient_contributions",
        ),
        "foretell.learners.risk.boosted": ("BoostedRisk", "GBMVitals"),
        "foretell.learners.risk.challenge_baseline": ("ChallengeBaseline",),
        "foretell.learners.risk.deep_aise": ("DeepAISELearner", "DeepAISEShape"),
        "foretell.learners.risk.early_warning": ("EarlyWarningScore",),
        "foretell.learners.risk.examples": ("HourExamples", "StayExamples"),
        "foretell.learners.risk.feed_forward": (
            "FeedForwardRiskLearner",
            "FeedForwardShape",
            "RiskOutput",
        ),
        "foretell.learners.risk.scores": (
            "SCORES",
            "EarlyWarning",
            "news2",
            "qsofa",
            "sirs",
        ),
        "foretell.learners.risk.stream": ("HourlyFeatures", "HourlyModel", "RiskStream"),
        "foretell.learners.risk.survival_examples": (
            "SurvivalExamples",
            "SurvivalInputs",
            "SurvivalTimes",
            "survival_times",
        ),
        "foretell.learners.risk.weibull": (
            "LinearWeibullLearner",
            "SurvivalLearner",
            "SurvivalOutput",
            "negative_log_likelihood",
            "risk_within",
        ),
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
