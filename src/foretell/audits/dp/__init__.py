"""Audits of differential privacy: what epsilon a training can be proven to exceed."""

from foretell.audits.dp.canaries import (
    TextCanaries,
    WithCanaries,
    crafted_utterance,
    dirac_features,
    dirac_gradient,
    flip,
    in_distribution,
    mislabelled,
)
from foretell.audits.dp.clients import PlantedClients, audit_clients
from foretell.audits.dp.clipping_only import ClippingOnly
from foretell.audits.dp.clopper_pearson import audit_clopper_pearson
from foretell.audits.dp.one_run import audit_one_run
from foretell.audits.dp.result import LowerBound, Try
from foretell.audits.dp.scores import IterateScores, loss_scores, weight_scores
from foretell.errors import PrivacyViolation

__all__ = [
    "ClippingOnly",
    "IterateScores",
    "LowerBound",
    "PlantedClients",
    "PrivacyViolation",
    "TextCanaries",
    "Try",
    "WithCanaries",
    "audit_clients",
    "audit_clopper_pearson",
    "audit_one_run",
    "crafted_utterance",
    "dirac_features",
    "dirac_gradient",
    "flip",
    "in_distribution",
    "loss_scores",
    "mislabelled",
    "weight_scores",
]
