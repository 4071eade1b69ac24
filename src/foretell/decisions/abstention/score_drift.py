"""What scores alone tell before labels come: whether they moved, and how well they would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.abstention.distribution import (
    bins_for,
    equal_bins,
    index_by_chance,
    stability_index,
    step_distance,
    steps,
)
from foretell.decisions.abstention.embedding import MeanEmbedding
from foretell.errors import DataError, ParameterError

_BINS = 10


class ScoreDrift(NamedTuple):
    """How far scores of a period are from those of the reference.

    Args:
        stability_index: of all hours; above 0.25 is commonly called a shift.
        distance: Kolmogorov-Smirnov, of the highest score of each stay.
        distance_p: how likely one as large is by chance.
        discrepancy: maximum mean discrepancy of the same, as log-odds.
        discrepancy_p: how likely one as large is by chance.
        drifted: whether a test says so at half the level each, or the index does.
    """

    stability_index: float
    distance: float
    distance_p: float
    discrepancy: float
    discrepancy_p: float
    drifted: bool


@dataclass(frozen=True, eq=False)
class ScoreMonitor:
    """Keeps what is usual of a model's scores as a histogram and moments: no score of a patient.

    Hours of one stay hang together, so that tests look at stays, by their highest score, and count
    patients.

    Args:
        edges: (B - 1,) inner borders of bins that hold equal shares of the reference's hours.
        shares: (B,) of the bins.
        grid: (G,) ascending scores at which the distribution of stays is known.
        cdf: (G,) its values there.
        embedding: of the stays.
    """

    edges: NDArray[np.float64]
    shares: NDArray[np.float64]
    grid: NDArray[np.float64]
    cdf: NDArray[np.float64]
    embedding: MeanEmbedding

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        stays: ArrayLike,
        *,
        patients: ArrayLike | None = None,
        behind: int = 1,
    ) -> Self:
        """Learns what is usual.

        Args:
            scores: (R,) probabilities; NaN where none was issued.
            stays: (R,) name or number of the stay of each.
            patients: (R,) whose stay it is; every stay is of another one by default.
            behind: patients for each value that is kept of their distribution.

        Raises:
            DataError: sizes do not fit, a score is outside [0, 1], none was issued, or fewer
                patients than ``behind`` have one.
        """
        p, highest, people = _of_stays(scores, stays, patients)
        if people < behind:
            raise DataError(f"{people} patients have a score; {behind} are needed")
        return cls(
            *equal_bins(p, bins_for(_BINS, people, behind)), *steps(highest, behind, people),
            MeanEmbedding.of(_odds(highest), people),
        )  # fmt: skip

    def compare(
        self,
        scores: ArrayLike,
        stays: ArrayLike,
        *,
        patients: ArrayLike | None = None,
        level: float = 0.01,
        index: float = 0.25,
    ) -> ScoreDrift:
        """Compares a period; arguments as :meth:`fit`.

        Args:
            scores: (R,) probabilities.
            stays: (R,) of which stay.
            patients: (R,) of whom.
            level: of both tests together.
            index: from which the stability index counts as a shift, where that is no chance.

        Raises:
            DataError: as :meth:`fit`.
            ParameterError: the level is outside (0, 1).
        """
        if not 0 < level < 1:
            raise ParameterError(f"level must lie inside (0, 1), not {level}")
        p, highest, people = _of_stays(scores, stays, patients)
        moved = stability_index(p, self.edges, self.shares)
        distance, distance_p = step_distance(
            highest, self.grid, self.cdf, self.embedding.size, people
        )
        discrepancy, discrepancy_p = self.embedding.compare(_odds(highest), people)
        chance = index_by_chance(len(self.shares), self.embedding.size, people, level)
        drifted = min(distance_p, discrepancy_p) <= level / 2 or moved > max(index, chance)
        return ScoreDrift(moved, distance, distance_p, discrepancy, discrepancy_p, bool(drifted))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            k: v.to_dict() if isinstance(v, MeanEmbedding) else v.tolist()
            for k, v in vars(self).items()
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """Reads what :meth:`to_dict` gave.

        Raises:
            DataError: something is missing or unknown.
        """
        try:
            arrays = {k: np.asarray(v, np.float64) for k, v in told.items() if k != "embedding"}
            return cls(embedding=MeanEmbedding.from_dict(told["embedding"]), **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is no score monitor: {error}") from None


class ExpectedPerformance(NamedTuple):
    """What would be measured if the scores mean what they say; NaN where nothing is alarmed.

    Args:
        rate: of positive hours.
        sensitivity: share of positive hours at or above the threshold.
        specificity: share of other hours below it.
        ppv: share of positive hours among those at or above it.
        auroc: of hours.
    """

    rate: float
    sensitivity: float
    specificity: float
    ppv: float
    auroc: float


def expected_performance(probabilities: ArrayLike, threshold: ArrayLike) -> ExpectedPerformance:
    """How well scores should do on hours whose labels are not known yet.

    An hour of risk p counts as p of a positive and 1 - p of a negative one. A change of the
    patients shows in it at once; a change of what risks mean does not, and needs labels.

    Args:
        probabilities: (R,) of hours with a score; NaN elsewhere.
        threshold: of the alarm; (R,) where it is not the same in all hours.

    Raises:
        DataError: a score is outside [0, 1], none was issued, or there is not one finite threshold
            for all hours or for each.
    """
    given, levels = np.asarray(probabilities, np.float64), np.asarray(threshold, np.float64)
    p = _issued(given)
    if levels.shape not in ((), given.shape) or not np.isfinite(levels).all():
        raise DataError(
            f"thresholds must be finite, one or {given.shape} of them, not {levels.shape}"
        )
    high = p >= (levels[~np.isnan(given)] if levels.shape else levels)
    positive, negative = float(p.sum()), float((1 - p).sum())
    order = np.sort(p)
    # Pairs in order by expectation: chances of a negative among the lower, ties count half.
    distinct, first, counts = np.unique(order, return_index=True, return_counts=True)
    below = np.concatenate([[0.0], np.cumsum(1 - order)])[first]
    mine = counts * (1 - distinct)
    right = float((counts * distinct * (below + 0.5 * mine)).sum())
    return ExpectedPerformance(
        positive / len(p),
        _ratio(float(p[high].sum()), positive),
        _ratio(float((1 - p[~high]).sum()), negative),
        _ratio(float(p[high].sum()), float(high.sum())),
        _ratio(right, positive * negative),
    )


def _of_stays(
    scores: ArrayLike, stays: ArrayLike, patients: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Scores that were issued, the highest of each stay, and how many patients have one."""
    given, owner = np.asarray(scores, np.float64), np.asarray(stays)
    if given.ndim != 1 or owner.shape != given.shape:
        raise DataError(f"there are {given.shape} scores for {owner.shape} names of stays")
    there = ~np.isnan(given)
    p = _issued(given)
    known, place = np.unique(_plain(owner[there]), return_inverse=True)
    highest = np.zeros(len(known))
    np.maximum.at(highest, place, p)
    if patients is None:
        return p, highest, len(known)
    whose = np.asarray(patients)
    if whose.shape != given.shape:
        raise DataError(f"there are {given.shape} scores for {whose.shape} names of patients")
    return p, highest, len(np.unique(_plain(whose[there])))


def _plain(names: NDArray) -> NDArray:
    return names.astype(str) if names.dtype == object else names


def _issued(p: NDArray[np.float64]) -> NDArray[np.float64]:
    found = p[~np.isnan(p)]
    if not len(found):
        raise DataError("no score was issued")
    if not ((found >= 0) & (found <= 1)).all():
        raise DataError("a score is not within [0, 1]")
    return found


def _odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    q = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(q / (1 - q)))


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else float("nan")
