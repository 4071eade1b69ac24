"""Public data sets as panels, read from the folder that ``FORETELL_DATA`` names."""

from foretell.data.public.demand import favorita, m4, walmart

__all__ = ["favorita", "m4", "walmart"]
