"""Differentially private training: exact clipping, accounting, statements."""

from foretell.training.private.accounting import NoisySteps, dp_event, epsilon, noise_for
from foretell.training.private.clipping import Clipping, ExactClipper, register_norm_rule
from foretell.training.private.microbatch import MicroBatchTraining
from foretell.training.private.statement import PrivacyStatement
from foretell.training.private.strategy import PrivateTraining

__all__ = [
    "Clipping",
    "ExactClipper",
    "MicroBatchTraining",
    "NoisySteps",
    "PrivacyStatement",
    "PrivateTraining",
    "dp_event",
    "epsilon",
    "noise_for",
    "register_norm_rule",
]
