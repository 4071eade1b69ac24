"""What goes to the bedside with a model: how its inputs and scores were where it was validated.

Periods are compared by blocks of hours: hours 1 to 12 of a stay, 13 to 24 and so on, those only
that are whole. While nothing changes, the blocks that end in any period of a service are as those
of whole stays, whatever the lengths of stays; stays as they stand at a moment are not, for long
ones are met more often, and are only half over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.decisions.abstention.drift import ChannelReference, PopulationMonitor
from foretell.decisions.abstention.score_drift import (
    ExpectedPerformance,
    ScoreDrift,
    ScoreMonitor,
    expected_performance,
)
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.learners.artefact import load_artefact, readable, save_artefact

_BEHIND = 10
ALL = "all sites"


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


class Drift(NamedTuple):
    """How far a period is from what is usual.

    Args:
        reference: name of the site that it was compared with.
        channels: table of :meth:`PopulationMonitor.compare`.
        scores: None where too few patients have one.
        expected: how well the scores should do; None where there is none.
        usual: how well those of the reference should.
        blocks: that were compared.
        patients: whose they are.
        hours: of theirs.
    """

    reference: str
    channels: pl.DataFrame
    scores: ScoreDrift | None
    expected: ExpectedPerformance | None
    usual: ExpectedPerformance
    blocks: int
    patients: int
    hours: int


def blocks(stays: Stays, hours: int) -> Stays:
    """Each whole block of so many hours of each stay as a stay of its own, of the same patient.

    Raises:
        ParameterError: a block has less than an hour.
    """
    if hours < 1:
        raise ParameterError(f"a block has at least one hour, not {hours}")
    counts = stays.lengths // hours
    owner = np.repeat(np.arange(len(stays)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    view = stays.select(owner)
    names = [f"{name}#{k}" for name, k in zip(view.ids, number.tolist(), strict=True)]
    return replace(
        view,
        ids=np.array(names, object),
        begins=view.begins + hours * number,
        lengths=np.full(len(owner), hours, np.int64),
        starts=view.starts + hours * number,
    )


class DriftMonitor:
    """Compares what a service sees of a site with what its model was validated on.

    It holds histograms, moments and quantiles, no more of each than one for ten patients, and of a
    channel that fewer than ten have how often it was measured alone. What it says of inputs names
    channels at a false-discovery rate; what it says of scores has one level; both count patients.

    Args:
        block: hours of a block.
        false_discovery: rate among the channels that are named in a period.
        level: of what is said of scores.
        least: patients that a test needs.
        least_of_site: patients that a site needs for a reference of its own.

    Attributes:
        usual_: name of the site, or ``"all sites"`` -> what is usual there.
        threshold_: of the alarm.
    """

    def __init__(
        self,
        *,
        block: int = 12,
        false_discovery: float = 0.01,
        level: float = 0.01,
        least: int = 30,
        least_of_site: int = 200,
    ) -> None:
        if block < 1 or least < 2 or least_of_site < least:
            raise ParameterError("block is at least 1, least at least 2 and at most least_of_site")
        if not 0 < false_discovery < 1 or not 0 < level < 1:
            raise ParameterError("false_discovery and level must lie inside (0, 1)")
        self.block, self.false_discovery, self.level = block, false_discovery, level
        self.least, self.least_of_site = least, least_of_site
        self.usual_: dict[str, Usual] = {}
        self.threshold_ = 0.5

    def fit(
        self, stays: Stays, scores: ArrayLike, threshold: float, *, by: str | None = "site"
    ) -> Self:
        """Learns what is usual.

        Args:
            stays: of validation patients, in canonical units.
            scores: (R,) probabilities of their hours; NaN where none was issued.
            threshold: of the alarm.
            by: category whose values have a reference each, where there are patients enough.

        Raises:
            DataError: sizes do not fit, or there are too few patients with a whole block.
        """
        given = np.asarray(scores, np.float64)
        if given.shape != (stays.n_rows,):
            raise DataError(f"there are {given.shape} scores for {stays.n_rows:,} hours")
        parts, found = blocks(stays, self.block), {}
        # Rows of blocks among those of the stays.
        rows = _rows_of_blocks(stays, self.block)
        everybody = len(set(parts.patients.astype(str).tolist()))
        if everybody < self.least:
            raise DataError(
                f"{everybody} patients have {self.block} hours; a monitor needs {self.least}"
            )
        sites = np.zeros(0, str)
        if by is not None and by in stays.categories:
            sites = parts.names(by).astype(str)
        for name in (ALL, *sorted(set(sites.tolist()))):
            mine = np.ones(len(parts), bool) if name == ALL else sites == name
            view = parts.select(mine)
            people = len(set(view.patients.astype(str).tolist()))
            if name != ALL and people < self.least_of_site:
                continue
            p = given[rows[np.repeat(mine, self.block)]]
            population = PopulationMonitor(
                false_discovery=self.false_discovery, least=self.least, behind=_BEHIND
            ).fit(view)
            owner = view.stay_of_row()
            found[name] = Usual(
                population,
                ScoreMonitor.fit(p, owner, patients=view.patients[owner], behind=_BEHIND),
                expected_performance(p, threshold), people, view.n_rows,
            )  # fmt: skip
        self.usual_, self.threshold_ = found, float(threshold)
        return self

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(self._require()[ALL].population.channels_)

    def compare(self, parts: Stays, scores: ArrayLike, site: str = "") -> Drift:
        """Compares a period.

        Args:
            parts: blocks that ended in it, of :attr:`block` hours each.
            scores: (R,) of their hours; NaN where none was issued, or by another model.
            site: whose they are; compared with its own reference where there is one.

        Raises:
            DataError: sizes or channels do not fit, or there is no block.
            NotFittedError: before :meth:`fit`.
        """
        held = self._require()
        given = np.asarray(scores, np.float64)
        if len(parts) == 0 or (parts.lengths != self.block).any():
            raise DataError(f"there must be blocks of {self.block} hours")
        if given.shape != (parts.n_rows,):
            raise DataError(f"there are {given.shape} scores for {parts.n_rows:,} hours")
        name = site if site in held else ALL
        usual = held[name]
        owner = parts.stay_of_row()
        whose = parts.patients.astype(str)[owner]
        there = ~np.isnan(given)
        moved = None
        if len(set(whose[there].tolist())) >= self.least:
            moved = usual.scores.compare(given, owner, patients=whose, level=self.level)
        return Drift(
            name, usual.population.compare(parts), moved,
            expected_performance(given, self.threshold_) if there.any() else None,
            usual.expected, len(parts), len(set(parts.patients.astype(str).tolist())),
            parts.n_rows,
        )  # fmt: skip

    @property
    def version(self) -> str:
        """Twelve digits of a hash of all that is held."""
        config, arrays = self._plain()
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for name in sorted(arrays):
            digest.update(name.encode() + arrays[name].tobytes())
        return digest.hexdigest()[:12]

    def _plain(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        arrays: dict[str, NDArray] = {}
        sites = []
        for number, (name, usual) in enumerate(self._require().items()):
            told = {
                "population": usual.population.to_dict(), "scores": usual.scores.to_dict(),
                "expected": usual.expected._asdict(), "patients": usual.patients,
                "hours": usual.hours,
            }  # fmt: skip
            sites.append({"name": name, **_split(told, str(number), arrays)})
        config = {
            "block": self.block, "false_discovery": self.false_discovery, "level": self.level,
            "least": self.least, "least_of_site": self.least_of_site,
            "threshold": self.threshold_, "sites": sites,
        }  # fmt: skip
        return config, arrays

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors.

        Raises:
            NotFittedError: before :meth:`fit`.
        """
        save_artefact(folder, type(self).__name__, *self._plain())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: it is damaged or something else.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            sites, threshold = config.pop("sites"), float(config.pop("threshold"))
            monitor = cls(**config)
            for place, told in enumerate(sites):
                name = str(told.pop("name"))
                monitor.usual_[name] = _usual(_joined(told, str(place), arrays))
            if not 0 <= threshold <= 1 or ALL not in monitor.usual_:
                raise ValueError("the threshold is outside [0, 1], or all sites are missing")
            monitor.threshold_ = threshold
        return monitor

    def _require(self) -> dict[str, Usual]:
        if not self.usual_:
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit first")
        return self.usual_


def _rows_of_blocks(stays: Stays, hours: int) -> NDArray[np.int64]:
    """Numbers of the rows of stays that their whole blocks hold, in order."""
    counts = stays.lengths // hours * hours
    first = np.repeat(stays.offsets[:-1] - (np.cumsum(counts) - counts), counts)
    return np.asarray(first + np.arange(int(counts.sum())), np.int64)


def _usual(told: Mapping[str, Any]) -> Usual:
    usual = Usual(
        PopulationMonitor.from_dict(told["population"]), ScoreMonitor.from_dict(told["scores"]),
        ExpectedPerformance(**told["expected"]), int(told["patients"]), int(told["hours"]),
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
