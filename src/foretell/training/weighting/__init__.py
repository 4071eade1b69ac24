"""How much each example counts: importances, and labels that may still change."""

from foretell.training.weighting import exact, published
from foretell.training.weighting.exact import effective_sample_size
from foretell.training.weighting.feedback import (
    BiFakeNegativeLabels,
    DuallyEnhancedLabels,
    ElapsedTimeSampling,
    FakeNegativeLabels,
    FakeNegativeWeighting,
    FeedbackWeighting,
    FunnelWeighting,
    RealNegativeDuplicates,
    UnbiasedLabelCorrection,
)
from foretell.training.weighting.importance import ImportanceWeighting

__all__ = [
    "BiFakeNegativeLabels",
    "DuallyEnhancedLabels",
    "ElapsedTimeSampling",
    "FakeNegativeLabels",
    "FakeNegativeWeighting",
    "FeedbackWeighting",
    "FunnelWeighting",
    "ImportanceWeighting",
    "RealNegativeDuplicates",
    "UnbiasedLabelCorrection",
    "effective_sample_size",
    "exact",
    "published",
]
