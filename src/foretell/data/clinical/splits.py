"""Splits of stays by patient, from a hash: the same patient always falls on the same side."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.stays import Stays
from foretell.errors import ParameterError

_HELD_OUT = -1
"""A seed that no split by :func:`split_by_patient` is made with: see :func:`held_out_patients`."""


class StaySplit(NamedTuple):
    """Views of the stays to train on, to validate on and to test on."""

    train: Stays
    validation: Stays
    test: Stays


def patient_hash(patients: NDArray[np.object_], seed: int = 0) -> NDArray[np.float64]:
    """(N,) a number in [0, 1) for each patient, from SHA-256 of seed and name.

    It depends on nothing else: not on order, on other patients, on platform or version.
    """
    keys = (f"{seed}:{p}".encode() for p in patients.tolist())
    heads = [int.from_bytes(hashlib.sha256(k).digest()[:8], "big") for k in keys]
    # 53 bits are exact in a float64, and stay below one.
    return np.asarray((np.array(heads, np.uint64) >> np.uint64(11)) * 2.0**-53, np.float64)


def split_by_patient(
    stays: Stays, *, test_size: float = 0.2, validation_size: float = 0.2, seed: int = 0
) -> StaySplit:
    """Splits stays so that all stays of a patient are on one side.

    The test part does not depend on ``validation_size``. Sizes are of the expected shares.

    Raises:
        ParameterError: a size is negative or they leave nothing to train on.
    """
    if not (test_size >= 0 and validation_size >= 0 and test_size + validation_size < 1):
        raise ParameterError(
            f"test_size {test_size} and validation_size {validation_size} must not be negative "
            "and must leave something to train on"
        )
    place = patient_hash(stays.patients, seed)
    test = place < test_size
    validation = ~test & (place >= 1 - validation_size)
    return StaySplit(
        stays.select(~test & ~validation), stays.select(validation), stays.select(test)
    )


def held_out_patients(stays: Stays, share: float) -> tuple[Stays, Stays]:
    """Stays to train on and stays to stop by or to choose thresholds on, parted by patient.

    The draw is another one than that of :func:`split_by_patient`: by the same numbers a part that
    comes from a split would hold out nobody, its patients' numbers being below the threshold.

    Raises:
        ParameterError: the share is not in [0, 1).
    """
    split = split_by_patient(stays, test_size=0.0, validation_size=share, seed=_HELD_OUT)
    return split.train, split.validation
