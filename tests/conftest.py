"""What every test shares: seeds, threads, the hypothesis profile and the real data."""

from __future__ import annotations

import os

# Before numpy and torch are imported: parallel tests with several threads each only wait for
# one another. Numba may use two, so that a test can compare one thread with two.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "2")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# On a busy machine Ray's tasks would wait for everybody else, and Ray not long enough for its own
# processes: some have five seconds to answer.
os.environ.setdefault("RAY_worker_niceness", "0")
for _name in (
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S",
    "RAY_gcs_rpc_server_connect_timeout_s",
    "RAY_gcs_rpc_server_reconnect_timeout_s",
    "RAY_gcs_server_request_timeout_seconds",
    "RAY_worker_register_timeout_seconds",
):
    os.environ.setdefault(_name, "300")

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, however slow the machine: a change is judged by itself.
# ``pytest --hypothesis-profile=explore`` looks for new ones.
settings.register_profile(
    "foretell",
    deadline=None,
    max_examples=50,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore",
    settings.get_profile("foretell"),
    derandomize=False,
    database=settings.get_profile("default").database,
)
settings.load_profile("foretell")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Global generators start every test at the same state, whatever ran before."""
    _seed()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
    """So do fixtures that outlive a test: they are made before the first test that needs them."""
    if fixturedef.scope != "function":
        _seed()
    return (yield)


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the public data sets; skips, with the reason, where there is none."""
    named = os.environ.get("FORETELL_DATA")
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            pytest.skip(f"real data: FORETELL_DATA names {named!r}, which is not a folder")
        return root
    for root in (CHECKOUT.parent / "shared" / "data", CHECKOUT / "shared" / "data"):
        if root.is_dir():
            return root
    pytest.skip("real data: FORETELL_DATA is not set and ../shared/data is not beside the checkout")


@pytest.fixture(scope="session")
def data_set(data_root: Path) -> Callable[[str], Path]:
    """``data_set("m4")`` is the folder of one public data set, or skips where it is absent."""

    def folder(name: str) -> Path:
        path = data_root / name
        if not path.is_dir():
            pytest.skip(f"real data: {name!r} is not among the data sets here")
        return path

    return folder
