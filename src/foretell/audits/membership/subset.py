"""Some of the examples, as examples of their own."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foretell.errors import DataError
from foretell.training import Examples


class MemberExamples:
    """The members among examples, which is all that a shadow model may see.

    Args:
        examples: all N.
        members: mask ``(N,)``.

    Raises:
        DataError: the mask does not fit, or nobody is a member.
    """

    def __init__(self, examples: Examples, members: ArrayLike) -> None:
        mask = np.asarray(members)
        if mask.dtype != bool or mask.shape != (len(examples),):
            raise DataError(f"members must be a mask of {len(examples)} examples")
        self.examples, self.rows = examples, np.flatnonzero(mask)
        if not len(self.rows):
            raise DataError("nobody is a member: there is nothing to train on")
        weights = getattr(examples, "sampling_weights", None)
        self.sampling_weights = None if weights is None else np.asarray(weights)[self.rows]

    def __len__(self) -> int:
        """Number of members."""
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Identifies the members, if the examples identify themselves."""
        digest = hashlib.sha256(str(getattr(self.examples, "fingerprint", "")).encode())
        digest.update(self.rows.tobytes())
        return digest.hexdigest()

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        """Members by their position among the members."""
        return self.examples.batch(self.rows[indices], rng)
