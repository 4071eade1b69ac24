from __future__ import annotations

import numpy as np
import pytest

from foretell.data import registry
from foretell.data.clinical import Schema, Stays
from foretell.data.panel import Categorical


def make_stays(seed: int = 0, size: int = 12, *, channels=None, longest: int = 100) -> Stays:
    """Random stays with every oddity: short and empty ones, missing columns, impossible values."""
    rng = np.random.default_rng(seed)
    schema = Schema.default().channels(channels or "p19")
    lengths = rng.integers(1, longest, size)
    lengths[0] = 1
    rows = int(lengths.sum())
    columns = {}
    for i, v in enumerate(schema.variables):
        low, high = v.plausible
        values = rng.uniform(low, high, rows)
        values[rng.random(rows) < 0.02] = 1e5
        values[rng.random(rows) < rng.uniform(0.05, 0.98)] = np.nan
        columns[v.name] = np.full(rows, np.nan) if i == 7 else values
    begins = np.r_[0, np.cumsum(lengths)[:-1]]
    onset = np.where(rng.random(size) < 0.4, lengths + rng.integers(-5, 5, size), np.nan)
    return Stays(
        np.array([f"A/{i}" for i in range(size)], object),
        np.array([f"A/{i // 2}" for i in range(size)], object),
        begins,
        lengths,
        rng.integers(1, 5, size),
        {k: v.astype(np.float32) for k, v in columns.items()},
        schema,
        None,
        onset,
        {
            "sex": Categorical(rng.integers(0, 3, size).astype(np.int32), ("female", "male")),
            "unit": Categorical(rng.integers(0, 3, size).astype(np.int32), ("MICU", "SICU")),
        },
        {
            "age": np.where(rng.random(size) < 0.1, np.nan, rng.uniform(15, 105, size)),
            "admission": rng.uniform(0, 100, size),
        },
    )


@pytest.fixture(scope="session")
def challenge(data_root):
    """All 40,336 stays of the 2019 challenge."""
    if not (data_root / "physionet2019_sepsis").is_dir():
        pytest.skip("real data: 'physionet2019_sepsis' is not among the data sets here")
    from foretell.data.public import physionet2019

    return physionet2019(data_root / registry.find("physionet2019").name)
