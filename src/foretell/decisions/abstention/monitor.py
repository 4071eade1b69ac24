"""What goes to the bedside with a model: how its inputs and scores were where it was validated.

Periods are compared by blocks of hours: hours 1 to 12 of a stay, 13 to 24 and so on, those only
that are whole. While nothing changes, the blocks that end in any period of a service are as those
of whole stays, whatever the lengths of stays; stays as they stand at a moment are not, for long
ones are met more often, and are only half over.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.small_cells import LEAST_PATIENTS
from foretell.data.clinical.stays import Stays
from foretell.decisions.abstention.drift import PopulationMonitor
from foretell.decisions.abstention.score_drift import (
    ExpectedPerformance,
    ScoreDrift,
    ScoreMonitor,
    expected_performance,
)
from foretell.decisions.abstention.usual import Usual
from foretell.decisions.alarms import AlarmPolicy, Tier, thresholds_at, thresholds_of
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.learners.artefact import load_artefact, readable, save_artefact

_TIER = "alarm"
ALL = "all sites"


class Drift(NamedTuple):
    """How far a period is from what is usual.

    Args:
        reference: name of the site that it was compared with.
        channels: table of :meth:`PopulationMonitor.compare`.
        scores: None where too few patients have one.
        expected: how well the scores should do; None where there is none.
        usual: how well those of the reference should; NaN for what depends on the threshold where
            other thresholds hold than those of the reference.
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
        tier_: thresholds of the alarm.
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
        self.tier_ = Tier(_TIER, 0.5)

    def fit(
        self, stays: Stays, scores: ArrayLike, threshold: float | Tier, *, by: str | None = "site"
    ) -> Self:
        """Learns what is usual.

        Args:
            stays: of validation patients, in canonical units.
            scores: (R,) probabilities of their hours; NaN where none was issued.
            threshold: of the alarm; a tier where units or sites have thresholds of their own.
            by: category whose values have a reference each, where there are patients enough.

        Raises:
            DataError: sizes do not fit, or there are too few patients with a whole block.
        """
        given = np.asarray(scores, np.float64)
        if given.shape != (stays.n_rows,):
            raise DataError(f"there are {given.shape} scores for {stays.n_rows:,} hours")
        tier = threshold if isinstance(threshold, Tier) else Tier(_TIER, float(threshold))
        levels = thresholds_of(tier, stays)
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
            chosen = rows[np.repeat(mine, self.block)]
            p = given[chosen]
            population = PopulationMonitor(
                false_discovery=self.false_discovery, least=self.least, behind=LEAST_PATIENTS
            ).fit(view)
            owner = view.stay_of_row()
            found[name] = Usual(
                population,
                ScoreMonitor.fit(p, owner, patients=view.patients[owner], behind=LEAST_PATIENTS),
                expected_performance(p, levels[chosen]), people, view.n_rows,
            )  # fmt: skip
        self.usual_, self.tier_ = found, Tier(_TIER, tier.threshold, dict(tier.units))
        return self

    @property
    def threshold_(self) -> float:
        """Of the alarm, where no unit or site has its own."""
        return self.tier_.threshold

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(self._require()[ALL].population.channels_)

    def tier_at(self, site: str) -> Tier:
        """The thresholds of a site, as the reference has them: see :meth:`AlarmPolicy.at`."""
        return AlarmPolicy(tiers=(self.tier_,)).at(site).tiers[0]

    def compare(
        self,
        parts: Stays,
        scores: ArrayLike,
        site: str = "",
        *,
        units: ArrayLike | None = None,
        tier: Tier | None = None,
    ) -> Drift:
        """Compares a period.

        Args:
            parts: blocks that ended in it, of :attr:`block` hours each.
            scores: (R,) of their hours; NaN where none was issued, or by another model.
            site: whose they are; compared with its own reference where there is one.
            units: (R,) where the patient was in each hour, ``""`` where that is not known; by
                default the category ``unit`` of the stays.
            tier: thresholds that hold at the site, where they are others than :meth:`tier_at`.

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
        moved, expected, ordinary = None, None, usual.expected
        if len(set(whose[there].tolist())) >= self.least:
            moved = usual.scores.compare(given, owner, patients=whose, level=self.level)
        if there.any():
            places = _places(parts, units)
            own = thresholds_at(self.tier_at(site), places)
            levels = own if tier is None else thresholds_at(tier, places)
            expected = expected_performance(given, levels)
            if (levels != own)[there].any():
                # What is usual of these thresholds is not known.
                none = float("nan")
                ordinary = ordinary._replace(sensitivity=none, specificity=none, ppv=none)
        return Drift(
            name, usual.population.compare(parts), moved, expected, ordinary, len(parts),
            len(set(parts.patients.astype(str).tolist())), parts.n_rows,
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
            told, values = usual.to_plain(str(number))
            sites.append({"name": name, **told})
            arrays |= values
        config = {
            "block": self.block, "false_discovery": self.false_discovery, "level": self.level,
            "least": self.least, "least_of_site": self.least_of_site,
            "threshold": self.tier_.threshold, "sites": sites,
        }  # fmt: skip
        if self.tier_.units:
            # Left out where there are none, so that older monitors are the same version.
            config["units"] = dict(self.tier_.units)
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
            units = {str(n): float(t) for n, t in config.pop("units", {}).items()}
            monitor = cls(**config)
            for place, told in enumerate(sites):
                name = str(told.pop("name"))
                monitor.usual_[name] = Usual.from_plain(told, str(place), arrays)
            if ALL not in monitor.usual_:
                raise ValueError("what is usual at all sites is missing")
            if not all(0 <= t <= 1 for t in (threshold, *units.values())):
                raise ValueError("a threshold is outside [0, 1]")
            monitor.tier_ = Tier(_TIER, threshold, units)
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


def _places(parts: Stays, units: ArrayLike | None) -> NDArray[np.str_]:
    """(R,) the unit in each hour, ``""`` where it is not known.

    Raises:
        DataError: there is not one an hour.
    """
    if units is None:
        if "unit" not in parts.categories:
            return np.full(parts.n_rows, "")
        return np.asarray(parts.names("unit").astype(str)[parts.stay_of_row()])
    given = np.asarray(units).astype(str)
    if given.shape != (parts.n_rows,):
        raise DataError(f"there are {given.shape} units for {parts.n_rows:,} hours")
    return given
