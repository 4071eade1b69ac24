"""What the server knows of how many examples each client has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError

Array = NDArray[np.float64]


class ActivityLog:
    """Numbers of examples as clients report them, checked and bounded.

    A client that never reported counts as the median of those that did. Reports beyond belief count
    as the cap, so that a client cannot draw the training to itself by claiming a large number.

    Args:
        cap: a quantile below 1, a number of examples from 1 on, or None for no cap. The quantile is
            a value that was reported, so that one false report alone never sets it: with fewer than
            some 2,000 clients, 0.999 is the second largest.
        tolerance: how many times the cap a report may be before it is beyond belief. 1 cuts every
            report at the cap, honest heavy clients included.
    """

    def __init__(self, cap: float | None = 0.999, tolerance: float = 10.0) -> None:
        if cap is not None and not cap > 0:
            raise ParameterError(f"the cap on activity must be positive, not {cap}")
        if not tolerance >= 1:
            raise ParameterError(f"tolerance must be at least 1, not {tolerance}")
        self.cap, self.tolerance = cap, tolerance
        self._reported: dict[int, float] = {}

    def report(self, client: int, examples: float) -> None:
        """Takes a report.

        Raises:
            DataError: not a number, negative or infinite; names the client.
        """
        value = float(examples)
        if not math.isfinite(value) or value < 0:
            raise DataError(
                f"client {client} reports {examples} examples",
                hint="It must be a number from 0 on",
            )
        self._reported[client] = value

    def __contains__(self, client: int) -> bool:
        return client in self._reported

    def __len__(self) -> int:
        return len(self._reported)

    @property
    def reported(self) -> Mapping[int, float]:
        """Client -> number of examples as reported."""
        return self._reported

    def of(self, clients: Sequence[int]) -> Array:
        """Numbers of examples to select and weigh by ``(m,)``.

        Raises:
            DataError: there is no client, or none has an example.
        """
        if not len(clients):
            raise DataError("there is no client to choose from")
        known = np.array(list(self._reported.values()))
        typical = float(np.median(known)) if len(known) else 1.0
        values = np.array([self._reported.get(client, typical) for client in clients])
        if not values.any():
            raise DataError("no client has any example", hint="All report 0 examples")
        if self.cap is None or not len(known):
            return values
        limit = self.cap
        if self.cap < 1:
            limit = float(np.quantile(known, self.cap, method="lower"))
        if limit <= 0:
            return values
        return np.where(values > self.tolerance * limit, limit, values)


def private_activity(
    examples: int, *, bucket: bool = True, epsilon: float | None = None, seed: int | None = None
) -> int:
    """A number of examples as a client may tell it: rounded down to a power of two, and noisy.

    Noise is discrete Laplace (Ghosh et al. 2009) on the number of binary digits, which one example
    more or less changes by at most one, or on the number itself without buckets: one report is
    epsilon-differentially private for an example.

    Args:
        examples: the true number.
        bucket: tell 0, 1, 2, 4, 8, ... only.
        epsilon: of one report; None for no noise.
        seed: None for randomness that nobody can foresee; a seed is for tests.

    Raises:
        ParameterError: epsilon is not positive, or the number is negative.
    """
    if examples < 0:
        raise ParameterError(f"a client cannot have {examples} examples")
    if epsilon is not None and not epsilon > 0:
        raise ParameterError(f"epsilon must be positive, not {epsilon}")
    value = int(examples).bit_length() if bucket else int(examples)
    if epsilon is not None:
        rng = np.random.default_rng(seed)
        stop = -math.expm1(-epsilon)
        value += int(rng.geometric(stop)) - int(rng.geometric(stop))
    if not bucket:
        return max(value, 0)
    return 1 << min(value - 1, 62) if value > 0 else 0
