"""Causal features of (series, origin, horizon), shared by the forests and the feed-forward net."""

from foretell.learners.demand.features.definitions import Feature
from foretell.learners.demand.features.pack import (
    FeatureMatrix,
    FeaturePack,
    FeatureRows,
    default_features,
)
from foretell.learners.demand.features.rendering import DenseScaler, to_sparse
from foretell.learners.demand.features.rows import RowView
from foretell.learners.demand.features.sampling import sample_rows

__all__ = [
    "DenseScaler",
    "Feature",
    "FeatureMatrix",
    "FeaturePack",
    "FeatureRows",
    "RowView",
    "default_features",
    "sample_rows",
    "to_sparse",
]
