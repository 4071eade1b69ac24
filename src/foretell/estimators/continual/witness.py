"""What a site shows to the audit of its release, and to nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ReleaseWitness:
    """Rows, their representations and what was stored of them.

    "Others" are patients of the same site none of whose hours is stored: what an attacker with
    data of his own could have.

    Attributes:
        names: (F,) of the features, or None.
        stored: (M, D) representations as stored.
        stored_rows: (M, F) the rows they stand for; None where they stand for none.
        member_rows: (K, F) hours behind the stored ones.
        member_hidden: (K, D) their true representations, clipped as the release clips them.
        member_patients: (K,) whose they are.
        other_rows: (A, F) hours of others.
        other_hidden: (A, D) their true representations, clipped likewise.
        other_released: (A, D) what would be stored of them; None where rows stand for none.
        other_patients: (A,) whose they are.
    """

    names: tuple[str, ...] | None
    stored: FloatArray
    stored_rows: FloatArray | None
    member_rows: FloatArray
    member_hidden: FloatArray
    member_patients: NDArray[np.int64]
    other_rows: FloatArray
    other_hidden: FloatArray
    other_released: FloatArray | None
    other_patients: NDArray[np.int64]


class ReleaseAudit(Protocol):
    """Judges a release before it leaves."""

    def report(self, witness: ReleaseWitness) -> dict[str, Any]:
        """JSON values with ``passed`` (bool) and ``reason`` (text)."""
        ...
