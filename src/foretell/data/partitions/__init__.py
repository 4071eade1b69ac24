"""Dividing a data set among clients: by labels, quantity, content, or as it came."""

from foretell.data.partitions.entity_types import NUMERIC_TYPES, entity_type_labels
from foretell.data.partitions.feature_cluster import FeatureCluster
from foretell.data.partitions.label_dirichlet import LabelDirichlet
from foretell.data.partitions.natural import Natural
from foretell.data.partitions.partitioner import Partitioner
from foretell.data.partitions.quantity_dirichlet import QuantityDirichlet

__all__ = [
    "NUMERIC_TYPES",
    "FeatureCluster",
    "LabelDirichlet",
    "Natural",
    "Partitioner",
    "QuantityDirichlet",
    "entity_type_labels",
]
