"""Which measurement to ask for next, what it costs, and when to ask for none."""

from typing import TYPE_CHECKING

from foretell.decisions.sensing.donors import Donors, NearestDonors
from foretell.decisions.sensing.gain import EIGSensing, UncertaintyPropagationSensing
from foretell.decisions.sensing.gaussian import GaussianDonors
from foretell.decisions.sensing.mixture import MixtureDonors
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
from foretell.decisions.sensing.samplers import SAMPLERS, load_sampler, make_sampler
from foretell.lazy import lazily

if TYPE_CHECKING:
    from foretell.decisions.sensing.hourly import HourlySensing
    from foretell.decisions.sensing.vae import VAEDonors

__all__ = [
    "CAVEAT",
    "SAMPLERS",
    "Donors",
    "EIGSensing",
    "GaussianDonors",
    "HourlySensing",
    "MixtureDonors",
    "NearestDonors",
    "Panel",
    "Recommendation",
    "SensingPolicy",
    "Situation",
    "UncertaintyPropagationSensing",
    "VAEDonors",
    "load_sampler",
    "make_sampler",
    "measured",
    "panel_tables",
    "panels_of",
    "read_panels",
    "reveal",
]

# A process that draws from no net does not load torch.
__getattr__ = lazily(
    __name__,
    {
        "foretell.decisions.sensing.hourly": ("HourlySensing",),
        "foretell.decisions.sensing.vae": ("VAEDonors",),
    },
)
