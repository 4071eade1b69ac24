"""Differentially private training: exact clipping, accounting, statements."""

from foretell.training.private.accounting import NoisySteps, dp_event, epsilon, noise_for
from foretell.training.private.clipping import Clipping, ExactClipper, register_norm_rule
from foretell.training.private.engine import PrivacyEngine
from foretell.training.private.loader import BatchMemoryManager
from foretell.training.private.microbatch import MicroBatchTraining
from foretell.training.private.statement import PrivacyStatement
from foretell.training.private.strategy import PrivateTraining
from foretell.training.private.wrapping import clipped_grad_sum

__all__ = [
    "BatchMemoryManager",
    "Clipping",
    "ExactClipper",
    "MicroBatchTraining",
    "NoisySteps",
    "PrivacyEngine",
    "PrivacyStatement",
    "PrivateTraining",
    "clipped_grad_sum",
    "dp_event",
    "epsilon",
    "noise_for",
    "register_norm_rule",
]
