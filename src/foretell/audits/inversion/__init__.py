"""Inversion: what stored representations give away of the patients behind them."""

from foretell.audits.inversion.attacks import Inversion, network_inversion, ridge_inversion
from foretell.audits.inversion.audit import PrivacyAudit
from foretell.audits.inversion.linkage import linkage_rate, membership_auc, nearest

__all__ = [
    "Inversion",
    "PrivacyAudit",
    "linkage_rate",
    "membership_auc",
    "nearest",
    "network_inversion",
    "ridge_inversion",
]
