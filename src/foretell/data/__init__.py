"""What was observed: panels, event logs, texts, readers, splits, public data sets, simulators."""

from foretell.data.carried import carry_known
from foretell.data.covariates import fill_known, with_known, with_static
from foretell.data.events import (
    PROTOCOLS,
    Emission,
    EmissionEngine,
    EventLog,
    EventSchema,
    Protocol,
    open_events,
    read_events,
    write_events,
)
from foretell.data.frames import from_polars, future_to_polars, static_to_polars, to_polars
from foretell.data.frequency import Frequency
from foretell.data.gluonts import from_gluonts, to_gluonts
from foretell.data.panel import Categorical, DataNote, Panel
from foretell.data.quality import problems
from foretell.data.readers import read_panel, read_table
from foretell.data.splits import (
    Split,
    rolling_origins,
    split_by_fraction,
    split_by_horizon,
    split_by_time,
    validation_origins,
)
from foretell.data.storage import open_panel, write_panel
from foretell.data.text import TextSet, Vocabulary
from foretell.data.writers import to_arrow, to_csv, to_pandas, to_parquet

__all__ = [
    "PROTOCOLS",
    "Categorical",
    "DataNote",
    "Emission",
    "EmissionEngine",
    "EventLog",
    "EventSchema",
    "Frequency",
    "Panel",
    "Protocol",
    "Split",
    "TextSet",
    "Vocabulary",
    "carry_known",
    "fill_known",
    "from_gluonts",
    "from_polars",
    "future_to_polars",
    "open_events",
    "open_panel",
    "problems",
    "read_events",
    "read_panel",
    "read_table",
    "rolling_origins",
    "split_by_fraction",
    "split_by_horizon",
    "split_by_time",
    "static_to_polars",
    "to_arrow",
    "to_csv",
    "to_gluonts",
    "to_pandas",
    "to_parquet",
    "to_polars",
    "validation_origins",
    "with_known",
    "with_static",
    "write_events",
    "write_panel",
]
