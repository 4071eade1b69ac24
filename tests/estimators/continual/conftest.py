from __future__ import annotations

import pytest

from foretell.data.simulators import hospitals
from foretell.estimators.continual import WUPERR

SMALL = {
    "hidden": (32, 16), "negatives": 64, "positives": 16, "epochs": 1, "threads": 1,
    "memory_per_site": 300, "fisher_examples": 200, "min_patients": 10, "learning_rate": 2e-3,
}  # fmt: skip


@pytest.fixture(scope="session")
def simulated_sites():
    stays, _ = hospitals(stays=200, sites=3, hours=(16, 32), seed=1)
    return stays.by("site")


@pytest.fixture(scope="session")
def trained(simulated_sites):
    """Not to be changed: copies forget what an export needs."""
    return WUPERR(**SMALL).fit_site(simulated_sites["A"], site="A")
