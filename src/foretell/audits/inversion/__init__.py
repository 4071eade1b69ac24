"""Inversion: what stored representations give away of the patients behind them."""

from foretell.audits.inversion.attacks import Inversion, network_inversion, ridge_inversion
from foretell.audits.inversion.audit import PrivacyAudit
from foretell.audits.inversion.linkage import (
    Linkage,
    likely_rate,
    linkage,
    linkage_rate,
    membership_auc,
    nearest,
    sigma_for,
    units_for,
)
from foretell.audits.inversion.trajectories import (
    Trajectories,
    sigma_for_patients,
    trajectories,
)

__all__ = [
    "Inversion",
    "Linkage",
    "PrivacyAudit",
    "Trajectories",
    "likely_rate",
    "linkage",
    "linkage_rate",
    "membership_auc",
    "nearest",
    "network_inversion",
    "ridge_inversion",
    "sigma_for",
    "sigma_for_patients",
    "trajectories",
    "units_for",
]
