"""Hourly tables of hospital stays: schema, readers, storage, labels, features."""

from foretell.data.clinical.binning import (
    HourlyBinner,
    Observation,
    as_row,
    bin_observations,
    hour_of,
)
from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.data.clinical.episodes import split_episodes
from foretell.data.clinical.feature_spec import FeatureSpec
from foretell.data.clinical.feature_stream import FeatureStream
from foretell.data.clinical.features import CausalFeatureBuilder, carry_forward
from foretell.data.clinical.frames import stays_from_frame
from foretell.data.clinical.labels import (
    CHALLENGE_LEAD,
    Target,
    challenge_label,
    hours_to_onset,
    onset_from_label,
    septic_at_start,
    target,
)
from foretell.data.clinical.psv import challenge_stays, read_psv
from foretell.data.clinical.repair import Repaired, UnitRepair, Verdict
from foretell.data.clinical.schema import Conversion, Schema, Variable
from foretell.data.clinical.sepsis3 import Sepsis3Labeler, apply_onsets
from foretell.data.clinical.sofa import sofa_components, sofa_scores
from foretell.data.clinical.splits import (
    StaySplit,
    held_out_patients,
    patient_hash,
    split_by_patient,
)
from foretell.data.clinical.stays import Stays, concatenate
from foretell.data.clinical.storage import open_stays, write_stays
from foretell.data.clinical.tokens import Reading, read_token
from foretell.data.clinical.utility import (
    UtilityParameters,
    UtilityRows,
    challenge_utility_rows,
)
from foretell.data.clinical.yaib import read_yaib

__all__ = [
    "CHALLENGE_LEAD",
    "CausalFeatureBuilder",
    "Conversion",
    "FeatureSpec",
    "FeatureStream",
    "HourlyBinner",
    "Observation",
    "PiecewiseLinearEncoder",
    "Reading",
    "Repaired",
    "Schema",
    "Sepsis3Labeler",
    "StaySplit",
    "Stays",
    "Target",
    "UnitRepair",
    "UtilityParameters",
    "UtilityRows",
    "Variable",
    "Verdict",
    "apply_onsets",
    "as_row",
    "bin_observations",
    "carry_forward",
    "challenge_label",
    "challenge_stays",
    "challenge_utility_rows",
    "concatenate",
    "held_out_patients",
    "hour_of",
    "hours_to_onset",
    "onset_from_label",
    "open_stays",
    "patient_hash",
    "read_psv",
    "read_token",
    "read_yaib",
    "septic_at_start",
    "sofa_components",
    "sofa_scores",
    "split_by_patient",
    "split_episodes",
    "stays_from_frame",
    "target",
    "write_stays",
]
