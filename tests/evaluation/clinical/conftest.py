from __future__ import annotations

import numpy as np
import pytest

from foretell.data import registry
from foretell.data.clinical import Schema, Stays, challenge_label


def ward(onsets, lengths, *, starts=None, patients=None) -> Stays:
    """Stays of which only onset and length matter."""
    size = len(onsets)
    lengths = np.asarray(lengths, np.int64)
    schema = Schema.default().channels(["HR"])
    ids = np.array([f"s{i}" for i in range(size)], object)
    stays = Stays(
        ids,
        ids if patients is None else np.asarray(patients, object),
        np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        lengths,
        np.ones(size, np.int64) if starts is None else np.asarray(starts),
        {"HR": np.full(int(lengths.sum()), 80, np.float32)},
        schema,
        None,
        np.asarray(onsets, np.float64),
    )
    object.__setattr__(stays, "label", challenge_label(stays))
    return stays


@pytest.fixture(scope="session")
def challenge(data_root):
    """All 40,336 stays of the 2019 challenge."""
    if not (data_root / "physionet2019_sepsis").is_dir():
        pytest.skip("real data: 'physionet2019_sepsis' is not among the data sets here")
    from foretell.data.public import physionet2019

    return physionet2019(data_root / registry.find("physionet2019").name)
