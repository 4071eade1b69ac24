"""What is usual at a site, and how it is kept: plain values and arrays, no row of a patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.abstention.drift import ChannelReference, PopulationMonitor
from foretell.decisions.abstention.score_drift import ExpectedPerformance, ScoreMonitor


@dataclass(frozen=True, eq=False)
class Usual:
    """What is usual at a site, or at all of them.

    Attributes:
        population: of the inputs.
        scores: of the scores.
        expected: how well the scores should do.
        patients: whom it was learned from.
        hours: of theirs.
    """

    population: PopulationMonitor
    scores: ScoreMonitor
    expected: ExpectedPerformance
    patients: int
    hours: int

    def to_plain(self, path: str) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """JSON values without their lists of numbers, and these as arrays by their place.

        Args:
            path: with which the names of the arrays begin.
        """
        told = {
            "population": self.population.to_dict(), "scores": self.scores.to_dict(),
            "expected": self.expected._asdict(), "patients": self.patients, "hours": self.hours,
        }  # fmt: skip
        arrays: dict[str, NDArray] = {}
        return _split(told, path, arrays), arrays

    @classmethod
    def from_plain(cls, told: Mapping[str, Any], path: str, arrays: Mapping[str, NDArray]) -> Self:
        """Reads what :meth:`to_plain` gave.

        Raises:
            ValueError: a distribution is none.
            LookupError: something is missing.
            DataError: something is unknown.
        """
        whole = _joined(told, path, arrays)
        usual = cls(
            PopulationMonitor.from_dict(whole["population"]),
            ScoreMonitor.from_dict(whole["scores"]), ExpectedPerformance(**whole["expected"]),
            int(whole["patients"]), int(whole["hours"]),
        )  # fmt: skip
        for channel in usual.population.channels_.values():
            _checked(channel)
        _checked(usual.scores)
        return usual


def _checked(held: ChannelReference | ScoreMonitor) -> None:
    """Refuses a distribution that is none.

    Raises:
        ValueError: sizes do not fit, or numbers are not finite, ascending or shares.
    """
    if len(held.shares) != len(held.edges) + 1 or len(held.grid) != len(held.cdf):
        raise ValueError("a histogram or a distribution has parts of different sizes")
    for values in (held.edges, held.shares, held.grid, held.cdf):
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError("a distribution holds something that is no finite number")
    if (np.diff(held.edges) <= 0).any() or (np.diff(held.grid) <= 0).any():
        raise ValueError("borders of bins do not ascend")
    if not np.isclose(held.shares.sum(), 1) or (held.shares < 0).any():
        raise ValueError("shares of bins do not make one")
    if (np.diff(held.cdf) < 0).any() or not ((held.cdf >= 0) & (held.cdf <= 1)).all():
        raise ValueError("a distribution function does not ascend from 0 to 1")


def _split(told: Mapping[str, Any], path: str, arrays: dict[str, NDArray]) -> dict[str, Any]:
    """What was told without its lists of numbers, which go to ``arrays`` by their place."""
    out: dict[str, Any] = {}
    for name, value in told.items():
        where = f"{path}.{name}"
        if isinstance(value, Mapping):
            out[name] = _split(value, where, arrays)
        elif isinstance(value, list):
            arrays[where] = np.asarray(value, np.float64)
        else:
            out[name] = value
    return out


def _joined(told: Mapping[str, Any], path: str, arrays: Mapping[str, NDArray]) -> dict[str, Any]:
    """What :func:`_split` took apart."""
    out: dict[str, Any] = {}
    for name, value in told.items():
        where = f"{path}.{name}"
        out[name] = _joined(value, where, arrays) if isinstance(value, Mapping) else value
    head = f"{path}."
    for where, values in arrays.items():
        rest = where.removeprefix(head)
        if where.startswith(head) and "." not in rest:
            out[rest] = values.tolist()
    return out
