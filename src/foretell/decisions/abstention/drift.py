"""Whether a whole feed has changed: missing rates, distributions and alarms against a reference.

A gate judges hours of one patient; what drifts slowly or everywhere at once shows only in many. The
reference is kept as histograms and rates, no row of a patient; tests of all channels share one
false-discovery rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from foretell.data.clinical.stays import Stays
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


@dataclass(frozen=True, eq=False)
class ChannelReference:
    """What is usual of one channel.

    Attributes:
        edges: (B - 1,) inner borders of bins that hold equal shares of the reference.
        shares: (B,) of the bins.
        grid: (G,) ascending values at which the distribution function is known.
        cdf: (G,) its values there.
        values: number of reference values; 0 where too few patients have one to keep anything.
        stays: that have one, of those that are kept.
        measured: mean over reference stays of the share of hours with a measurement.
        spread: standard deviation of that share between stays.
        embedding: of the medians of stays; None where nothing is kept of them.
        patients: whose stays they are; 0 where that was not kept: as many as stays.
    """

    edges: NDArray[np.float64]
    shares: NDArray[np.float64]
    grid: NDArray[np.float64]
    cdf: NDArray[np.float64]
    values: int
    stays: int
    measured: float
    spread: float
    embedding: MeanEmbedding | None = None
    patients: int = 0

    @property
    def people(self) -> int:
        """How many a test counts."""
        return self.patients or self.stays


class PopulationMonitor:
    """Compares stays of a period with those a model was validated on, channel by channel.

    Hours of one stay hang together, so that each counts little: a channel's values are reduced to
    one a stay (its median) for the Kolmogorov-Smirnov test and the maximum mean discrepancy, and
    its missing rate to one a stay for the test of rates. Stays of one patient hang together, too:
    all of them make the distributions, and tests count patients. The population stability index of
    all values is commonly called a shift above 0.25; of few patients it must be larger than chance
    makes it.

    Args:
        false_discovery: rate among the channels that are named (Benjamini and Hochberg 1995).
        bins: of the population stability index.
        largest_index: from which a channel is named whatever its tests say, where chance alone
            does not explain it.
        least: patients with a value that a test needs.
        behind: patients for each value that is kept of a distribution; with more than 1 no
            smallest and no largest one is kept, and nothing of a channel that fewer patients have
            but how often it was measured.
    """

    def __init__(
        self,
        *,
        false_discovery: float = 0.05,
        bins: int = 10,
        largest_index: float = 0.25,
        least: int = 30,
        behind: int = 1,
    ) -> None:
        if not 0 < false_discovery < 1 or bins < 2 or not largest_index > 0 or least < 2:
            raise ParameterError(
                "false_discovery must lie inside (0, 1), bins and least be at least 2, "
                "largest_index be positive"
            )
        if behind < 1:
            raise ParameterError(f"behind must be at least 1, not {behind}")
        self.false_discovery, self.bins = false_discovery, bins
        self.largest_index, self.least, self.behind = largest_index, least, behind
        self.channels_: dict[str, ChannelReference] = {}

    def fit(self, stays: Stays) -> PopulationMonitor:
        """Learns what is usual.

        Raises:
            DataError: there is no hour.
        """
        if stays.n_rows == 0:
            raise DataError("there is no hour to learn from")
        self.channels_ = {}
        owner, whose = stays.stay_of_row(), _numbered(stays)
        for name in stays.schema.names:
            values, medians, rates, people = _of_channel(stays, name, owner, whose)
            edges = np.zeros(0)
            shares, grid, cdf = np.ones(1), np.zeros(0), np.zeros(0)
            embedding = None
            if people < self.behind:
                # Quantiles of a few patients are values of theirs.
                values, medians, people = values[:0], medians[:0], 0
            else:
                bins = bins_for(self.bins, people, self.behind)
                edges, shares = equal_bins(values, bins)
                grid, cdf = steps(medians, self.behind, people)
                embedding = MeanEmbedding.of(medians, people)
            self.channels_[name] = ChannelReference(
                edges, shares, grid, cdf, len(values), len(medians), float(rates.mean()),
                float(rates.std()), embedding, people,
            )  # fmt: skip
        return self

    def compare(self, stays: Stays) -> pl.DataFrame:
        """One row a channel of a period.

        Returns:
            ``channel``, ``stays`` and ``patients`` (with a value), ``missing`` and
            ``missing_before`` (shares of hours), ``missing_p``, ``stability_index``, ``distance``
            (Kolmogorov-Smirnov), ``distance_p``, ``discrepancy`` (maximum mean),
            ``discrepancy_p``, ``drifted`` and ``why``. Tests without enough patients are null.

        Raises:
            DataError: the stays have other channels, or the monitor was not fitted.
        """
        if tuple(self.channels_) != stays.schema.names:
            raise DataError("the monitor was fitted on other channels, or not at all")
        rows: list[dict[str, Any]] = []
        owner, whose = stays.stay_of_row(), _numbered(stays)
        everybody = len(np.unique(whose[stays.lengths > 0]))
        for name, usual in self.channels_.items():
            values, medians, rates, people = _of_channel(stays, name, owner, whose)
            row: dict[str, Any] = {
                "channel": name, "stays": len(medians), "patients": people,
                "missing": 1 - float(rates.mean()), "missing_before": 1 - usual.measured,
                "missing_p": None, "stability_index": None, "distance": None, "distance_p": None,
                "discrepancy": None, "discrepancy_p": None,
            }  # fmt: skip
            if everybody >= self.least:
                row["missing_p"] = self._rate_p(usual, rates, everybody)
            if len(values) and usual.values:
                row["stability_index"] = stability_index(values, usual.edges, usual.shares)
            if people >= self.least and usual.people >= self.least:
                row["distance"], row["distance_p"] = step_distance(
                    medians, usual.grid, usual.cdf, usual.people, people
                )
                if usual.embedding is not None:
                    row["discrepancy"], row["discrepancy_p"] = usual.embedding.compare(
                        medians, people
                    )
            rows.append(row)
        return self._named(rows)

    def _rate_p(self, usual: ChannelReference, rates: NDArray[np.float64], people: int) -> float:
        """Welch's test of the mean share of hours with a measurement, for many patients."""
        # Of a channel that is rare nobody may have a value, and their spread would be none.
        spread = max(float(rates.var()), usual.spread**2)
        sides = spread / people + usual.spread**2 / max(self._people(), 1)
        gap = float(rates.mean()) - usual.measured
        if sides <= 0:
            return 1.0 if gap == 0 else 0.0
        return float(2 * norm.sf(abs(gap) / np.sqrt(sides)))

    def _limit(self, row: Mapping[str, Any]) -> float:
        """The index from which a channel is named: the largest usual one, or more of few people."""
        usual = self.channels_[row["channel"]]
        chance = index_by_chance(
            len(usual.shares), usual.people, row["patients"],
            self.false_discovery / len(self.channels_),
        )  # fmt: skip
        return max(self.largest_index, chance)

    def _people(self) -> int:
        return max((c.people for c in self.channels_.values()), default=0)

    def _named(self, rows: list[dict[str, Any]]) -> pl.DataFrame:
        words = {
            "missing_p": "missing rate", "distance_p": "distribution",
            "discrepancy_p": "discrepancy",
        }  # fmt: skip
        tests = [(i, k) for i, row in enumerate(rows) for k in words if row[k] is not None]
        found = benjamini_hochberg([rows[i][k] for i, k in tests], self.false_discovery)
        why: dict[int, list[str]] = {}
        for (i, k), named in zip(tests, found, strict=True):
            if named:
                why.setdefault(i, []).append(words[k])
        for i, row in enumerate(rows):
            index = row["stability_index"]
            if index is not None and row["patients"] >= self.least and index > self._limit(row):
                why.setdefault(i, []).append("stability index")
            row["drifted"], row["why"] = i in why, ", ".join(why.get(i, []))
        numbers = ("missing_p", "stability_index", "distance", "distance_p", "discrepancy",
                   "discrepancy_p")  # fmt: skip
        return pl.DataFrame(rows, schema_overrides=dict.fromkeys(numbers, pl.Float64))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "false_discovery": self.false_discovery, "bins": self.bins,
            "largest_index": self.largest_index, "least": self.least, "behind": self.behind,
            "channels": {
                name: {k: _plain(v) for k, v in vars(usual).items()}
                for name, usual in self.channels_.items()
            },
        }  # fmt: skip

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> PopulationMonitor:
        """Reads what :meth:`to_dict` gave.

        Raises:
            DataError: something is missing or unknown.
        """
        try:
            kept = {k: v for k, v in told.items() if k != "channels"}
            monitor = cls(**kept)
            for name, usual in told["channels"].items():
                arrays: dict[str, Any] = {
                    k: np.asarray(v, np.float64) if isinstance(v, list) else v
                    for k, v in usual.items()
                }
                if arrays.get("embedding") is not None:
                    arrays["embedding"] = MeanEmbedding.from_dict(arrays["embedding"])
                monitor.channels_[str(name)] = ChannelReference(**arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is no population monitor: {error}") from None
        return monitor


def _plain(value: Any) -> Any:
    if isinstance(value, MeanEmbedding):
        return value.to_dict()
    return value.tolist() if isinstance(value, np.ndarray) else value


def benjamini_hochberg(p_values: ArrayLike, rate: float) -> NDArray[np.bool_]:
    """(n,) which hypotheses are rejected so that at most ``rate`` of those are true, in the mean.

    Benjamini and Hochberg, Journal of the Royal Statistical Society B 57(1), 1995, equation 1.

    Raises:
        ParameterError: a p-value or the rate is outside its range.
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all() or not 0 < rate < 1:
        raise ParameterError("p-values must lie in [0, 1] and the rate inside (0, 1)")
    order = np.argsort(p, kind="stable")
    below = np.flatnonzero(p[order] <= rate * np.arange(1, len(p) + 1) / max(len(p), 1))
    rejected = np.zeros(len(p), bool)
    if len(below):
        rejected[order[: below[-1] + 1]] = True
    return rejected


@dataclass(frozen=True)
class AlarmChart:
    """A control chart of the rate of alarms: Poisson counts over patient-hours, with limits.

    Limits are those of the square-root transform, ``2 (sqrt(count) - sqrt(expected))``, which is
    nearly standard normal also for small counts; exposure may differ from period to period.

    Args:
        rate: alarms per patient-hour in the reference.
        sigmas: distance of the limits.
        run: periods in a row on one side of the reference that are a signal by themselves.
    """

    rate: float
    sigmas: float = 3.0
    run: int = 8

    def __post_init__(self) -> None:
        if not self.rate > 0 or not self.sigmas > 0 or self.run < 2:
            raise ParameterError("rate and sigmas must be positive, run at least 2")

    def read(self, alarms: ArrayLike, hours: ArrayLike) -> pl.DataFrame:
        """One row a period.

        Args:
            alarms: (T,) counts.
            hours: (T,) patient-hours, 0 for a period without patients.

        Returns:
            ``period``, ``alarms``, ``hours``, ``rate``, ``lower``, ``upper`` (limits of the rate),
            ``score`` (in standard deviations), ``signal`` (``""``, ``"limit"`` or ``"run"``).

        Raises:
            DataError: sizes do not fit or a number is negative.
        """
        count, exposure = np.asarray(alarms, np.float64), np.asarray(hours, np.float64)
        if count.shape != exposure.shape or count.ndim != 1:
            raise DataError(f"alarms {count.shape} and hours {exposure.shape} must be of periods")
        if (count < 0).any() or (exposure < 0).any() or (count[exposure == 0] > 0).any():
            raise DataError("counts and hours must not be negative, nor alarms without hours")
        expected = np.sqrt(self.rate * exposure)
        score = 2 * (np.sqrt(count) - expected)
        safe = np.where(exposure > 0, exposure, np.nan)
        side, length, signals = 0, 0, []
        for value, some in zip(score, exposure, strict=True):
            now = int(np.sign(value)) if some > 0 else 0
            length = length + 1 if now == side and now else int(now != 0)
            side = now
            told = "run" if length >= self.run else ""
            signals.append("limit" if abs(value) > self.sigmas else told)
        half = self.sigmas / 2
        return pl.DataFrame(
            {
                "period": np.arange(len(count)), "alarms": count, "hours": exposure,
                "rate": count / safe, "lower": np.maximum(expected - half, 0) ** 2 / safe,
                "upper": (expected + half) ** 2 / safe, "score": score, "signal": signals,
            },
            schema_overrides={"signal": pl.String},
        ).with_columns(pl.col("rate", "lower", "upper").fill_nan(None))  # fmt: skip


def _numbered(stays: Stays) -> NDArray[np.int64]:
    """(N,) number of the patient of each stay."""
    return np.asarray(np.unique(stays.patients.astype(str), return_inverse=True)[1])


def _of_channel(
    stays: Stays, name: str, owner: NDArray[np.int64], whose: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    """All values; the median of each stay with one; shares of measured hours; patients with one.

    Args:
        stays: of a period.
        name: of the channel.
        owner: (R,) number of the stay of each row.
        whose: (N,) number of the patient of each stay.
    """
    column = stays.column(name).astype(np.float64)
    there = np.isfinite(column)
    size = len(stays)
    counts = np.bincount(owner, there, minlength=size)
    lasting = stays.lengths > 0
    rates = counts[lasting] / stays.lengths[lasting]
    values = column[there]
    order = np.lexsort((values, owner[there]))
    sizes = counts[counts > 0].astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    ordered = values[order]
    medians = (ordered[starts + (sizes - 1) // 2] + ordered[starts + sizes // 2]) / 2
    people = len(np.unique(whose[counts > 0]))
    return values, medians if len(values) else np.zeros(0), rates, people
