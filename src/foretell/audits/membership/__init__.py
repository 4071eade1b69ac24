"""Membership inference: how much a trained model says about what it was trained on."""

from foretell.audits.membership.attack import MembershipAttack
from foretell.audits.membership.audit import (
    POSTERIORS,
    MembershipAudit,
    Summary,
    audit_membership,
    standard_attacks,
)
from foretell.audits.membership.checks import (
    BlindBaseline,
    BoundCheck,
    Duplicates,
    blind_baseline,
    check_bound,
    content_hashes,
    find_duplicates,
)
from foretell.audits.membership.curve import OperatingPoint, auc, roc
from foretell.audits.membership.lira import LiRA
from foretell.audits.membership.loss_threshold import LossThreshold
from foretell.audits.membership.result import (
    THREAT_MODELS,
    AttackResult,
    attack_result,
    plot_curves,
    thinned,
)
from foretell.audits.membership.rmia import RMIA
from foretell.audits.membership.shadow_classifier import ShadowClassifier
from foretell.audits.membership.shadows import Shadows, ShadowTrainer
from foretell.audits.membership.signals import (
    Kind,
    clamp,
    language_signal,
    learner_losses,
    logit_confidence,
    loss_confidence,
    probability_confidence,
    sequence_confidence,
    token_log_likelihoods,
)

__all__ = [
    "POSTERIORS",
    "RMIA",
    "THREAT_MODELS",
    "AttackResult",
    "BlindBaseline",
    "BoundCheck",
    "Duplicates",
    "Kind",
    "LiRA",
    "LossThreshold",
    "MembershipAttack",
    "MembershipAudit",
    "OperatingPoint",
    "ShadowClassifier",
    "ShadowTrainer",
    "Shadows",
    "Summary",
    "attack_result",
    "auc",
    "audit_membership",
    "blind_baseline",
    "check_bound",
    "clamp",
    "content_hashes",
    "find_duplicates",
    "language_signal",
    "learner_losses",
    "logit_confidence",
    "loss_confidence",
    "plot_curves",
    "probability_confidence",
    "roc",
    "sequence_confidence",
    "standard_attacks",
    "thinned",
    "token_log_likelihoods",
]
