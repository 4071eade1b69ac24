"""Public data sets as panels: folder in, panel out."""

from foretell.data.public.competitions import hierarchical_bottom, m3, tourism, tourism_australia
from foretell.data.public.demand import favorita, m4, walmart
from foretell.data.public.retail import orange_juice
from foretell.data.public.sensors import ett, exchange_rate, pedestrian, vic_elec
from foretell.data.public.supplied import favorita_full, m5, rossmann, uci_electricity

__all__ = [
    "ett",
    "exchange_rate",
    "favorita",
    "favorita_full",
    "hierarchical_bottom",
    "m3",
    "m4",
    "m5",
    "orange_juice",
    "pedestrian",
    "rossmann",
    "tourism",
    "tourism_australia",
    "uci_electricity",
    "vic_elec",
    "walmart",
]
