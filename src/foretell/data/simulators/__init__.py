"""Simulators whose truth is known: what real data cannot give."""

from foretell.data.simulators.cones import CONE_FEATURES, ConeTruth, cones
from foretell.data.simulators.elasticity import ElasticityTruth, elastic_demand
from foretell.data.simulators.shop import ShopTruth, shop
from foretell.data.simulators.spikes import SpikeTruth, spikes
from foretell.data.simulators.truth import Truth

__all__ = [
    "CONE_FEATURES",
    "ConeTruth",
    "ElasticityTruth",
    "ShopTruth",
    "SpikeTruth",
    "Truth",
    "cones",
    "elastic_demand",
    "shop",
    "spikes",
]
