"""Which measurement to ask for next, what it costs, and when to ask for none."""

from foretell.decisions.sensing.donors import Donors, NearestDonors
from foretell.decisions.sensing.gain import EIGSensing, UncertaintyPropagationSensing
from foretell.decisions.sensing.gaussian import GaussianDonors
from foretell.decisions.sensing.panels import (
    Panel,
    measured,
    panel_tables,
    panels_of,
    read_panels,
)
from foretell.decisions.sensing.policy import (
    CAVEAT,
    Recommendation,
    SensingPolicy,
    Situation,
    reveal,
)

__all__ = [
    "CAVEAT",
    "Donors",
    "EIGSensing",
    "GaussianDonors",
    "NearestDonors",
    "Panel",
    "Recommendation",
    "SensingPolicy",
    "Situation",
    "UncertaintyPropagationSensing",
    "measured",
    "panel_tables",
    "panels_of",
    "read_panels",
    "reveal",
]
