"""Networks for tables: a trunk, and heads for responses, their finality and their delays."""

from foretell.learners.tabular.features import FeatureTransform
from foretell.learners.tabular.response import (
    EventNet,
    Events,
    FunnelNet,
    Response,
    ResponseNet,
    TwoWindowNet,
)
from foretell.learners.tabular.trunk import ModuleTrunk, Trunk

__all__ = [
    "EventNet",
    "Events",
    "FeatureTransform",
    "FunnelNet",
    "ModuleTrunk",
    "Response",
    "ResponseNet",
    "Trunk",
    "TwoWindowNet",
]
