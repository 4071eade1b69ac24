"""One risk model for many hospitals: WUPERR, its releases and the bundle that leaves a site."""

from foretell.estimators.continual.bundle import SiteBundle, new_key, read_bundle, write_bundle
from foretell.estimators.continual.matrix import SiteMatrix, continual_matrix
from foretell.estimators.continual.release import (
    GaussianRelease,
    NoRelease,
    PrivateRelease,
    PrototypeRelease,
    RandomProjection,
    Release,
    Released,
)
from foretell.estimators.continual.site import Episodes, SiteRecord
from foretell.estimators.continual.witness import ReleaseAudit, ReleaseWitness
from foretell.estimators.continual.wuperr import WUPERR

__all__ = [
    "WUPERR",
    "Episodes",
    "GaussianRelease",
    "NoRelease",
    "PrivateRelease",
    "PrototypeRelease",
    "RandomProjection",
    "Release",
    "ReleaseAudit",
    "ReleaseWitness",
    "Released",
    "SiteBundle",
    "SiteMatrix",
    "SiteRecord",
    "continual_matrix",
    "new_key",
    "read_bundle",
    "write_bundle",
]
