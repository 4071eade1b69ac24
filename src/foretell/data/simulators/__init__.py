"""Simulators whose truth is known: what real data cannot give."""

from foretell.data.simulators.cones import CONE_FEATURES, ConeTruth, cones
from foretell.data.simulators.elasticity import ElasticityTruth, elastic_demand
from foretell.data.simulators.evidence_cells import EvidenceDraws, evidence_cells
from foretell.data.simulators.funnel_stream import (
    FUNNEL_STREAMS,
    FunnelStream,
    FunnelTruth,
    funnel_stream,
)
from foretell.data.simulators.hospitals import (
    CALIBRATED_HOSPITALS,
    Hospital,
    HospitalsTruth,
    hospitals,
)
from foretell.data.simulators.panels import (
    PanelPatients,
    exact_gain,
    panel_patients,
    panel_posterior,
    panel_risk,
)
from foretell.data.simulators.shop import ShopTruth, shop
from foretell.data.simulators.spikes import SpikeTruth, spikes
from foretell.data.simulators.truth import Truth

__all__ = [
    "CALIBRATED_HOSPITALS",
    "CONE_FEATURES",
    "FUNNEL_STREAMS",
    "ConeTruth",
    "ElasticityTruth",
    "EvidenceDraws",
    "FunnelStream",
    "FunnelTruth",
    "Hospital",
    "HospitalsTruth",
    "PanelPatients",
    "ShopTruth",
    "SpikeTruth",
    "Truth",
    "cones",
    "elastic_demand",
    "evidence_cells",
    "exact_gain",
    "funnel_stream",
    "hospitals",
    "panel_patients",
    "panel_posterior",
    "panel_risk",
    "shop",
    "spikes",
]
