"""Which measurement to ask for next, what it costs, and when to ask for none."""

from foretell.decisions.sensing.donors import NearestDonors
from foretell.decisions.sensing.gain import EIGSensing, UncertaintyPropagationSensing
from foretell.decisions.sensing.panels import Panel, measured, read_panels
from foretell.decisions.sensing.policy import (
    CAVEAT,
    Recommendation,
    SensingPolicy,
    Situation,
    reveal,
)

__all__ = [
    "CAVEAT",
    "EIGSensing",
    "NearestDonors",
    "Panel",
    "Recommendation",
    "SensingPolicy",
    "Situation",
    "UncertaintyPropagationSensing",
    "measured",
    "read_panels",
    "reveal",
]
