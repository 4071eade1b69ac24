"""Whether what a service sees of a site is still what its model was validated on.

Looked at beside the fold, from the scores and the sealed hours that the store keeps anyway: no
score depends on it, nothing is held in memory from look to look, and a process that is started
anew sees the same. One process looks for all; what it found stands in the store, for the doors to
tell.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from threading import Event as Signal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.decisions.alarms import Tier
from foretell.errors import DataError
from foretell.serving.errors import FencedError, StoreUnavailableError
from foretell.serving.events import digest
from foretell.serving.ingest.duty import Duty
from foretell.serving.worker.asked import hour_values
from foretell.serving.worker.site import SiteRules
from foretell.serving.worker.state import places, unit_at, unpack

if TYPE_CHECKING:
    from foretell.decisions.abstention import Drift, DriftMonitor
    from foretell.serving.config import DriftConfig
    from foretell.serving.store.base import Store

log = logging.getLogger("foretell.serving.drift")
MARK = "drift"
_NOTHING: Mapping[str, Any] = {
    "channels_named": [], "scores_moved": False, "channels": [], "blocks": 0,
}  # fmt: skip
_HOUR = 3600.0


class Block(NamedTuple):
    """A block of hours of a stay that ended in a period: ``last`` is its last hour."""

    patient: str
    stay: str
    last: int


class DriftWatch:
    """Compares the last hours of each site with what is usual of the model that spoke.

    Args:
        store: of this thread.
        monitors: version of a model -> how its inputs and scores were where it was validated.
        schema: of the channels, in the order of the store's numbers.
        settings: how long a period is, and how often it is looked at.
        watermark: hours after which an hour is sealed.
        duty: of looking; None where no other process looks.
        rules: what holds at a site; None where the thresholds of the monitors do.
    """

    def __init__(
        self,
        store: Store,
        monitors: Mapping[str, DriftMonitor],
        schema: Schema,
        settings: DriftConfig,
        *,
        watermark: int = 2,
        duty: Duty | None = None,
        rules: Callable[[str], SiteRules] | None = None,
    ) -> None:
        self._store, self._schema, self._settings = store, schema, settings
        self._monitors = {
            version: monitor for version, monitor in monitors.items()
            if monitor.channels == schema.names
        }  # fmt: skip
        self._watermark, self._duty, self._rules = watermark, duty, rules

    def run(self, stop: Signal) -> None:
        """Looks until told to stop, then closes the store; at once where nobody has for long."""
        every = 60 * self._settings.every_minutes
        while not stop.is_set():
            try:
                before = found_last(self._store)
                since = time.time() - (before["time"] if before else 0.0)
                if since < every:
                    stop.wait(min(every - since, every))
                    continue
                if self._duty is None or self._duty.held:
                    self.look(stop)
                stop.wait(min(5.0, every))
            except (StoreUnavailableError, FencedError) as error:
                log.warning("nobody looked for drift: %s", error)
                stop.wait(5.0)
            except Exception as error:
                # Patients are watched over without it.
                log.error("looking for drift failed: %s", type(error).__name__)
                stop.wait(60.0)
        self._store.close()

    def look(self, stop: Signal | None = None) -> dict[str, Any]:
        """Compares all sites with open stays and keeps what was found.

        Of a site at which that fails it keeps the name of the error, and goes on with the others.

        Args:
            stop: told to give up; between blocks others may work.
        """
        pause = stop or Signal()
        begun, sites = time.perf_counter(), {}
        failed: dict[str, list[str]] = {}
        for site in sorted(self._store.open_since()):
            try:
                sites[site] = self._site(site, pause)
                # What cannot be written must not cost the others their place.
                json.dumps(sites[site], allow_nan=False)
            except StoreUnavailableError:
                raise
            except Exception as error:
                # Not what it says: there may be identifiers in it.
                kind = type(error).__name__
                failed.setdefault(kind, []).append(site)
                sites[site] = {**_NOTHING, "why_not": kind, "failed": True}
            if pause.is_set():
                break
        took = time.perf_counter() - begun
        told = {"time": time.time(), "seconds": round(took, 3), "sites": sites}
        if not pause.is_set():
            lease = None if self._duty is None else self._duty.lease
            self._store.set_mark(MARK, json.dumps(told, allow_nan=False), lease)
        for kind, names in failed.items():
            log.error("looking for drift failed at %s: %s", ", ".join(names), kind)
        for site, found in sites.items():
            if found["channels_named"] or found["scores_moved"]:
                log.warning(
                    "%s is not as it was where the model was validated: %d channels%s", site,
                    len(found["channels_named"]), ", scores" if found["scores_moved"] else "",
                )  # fmt: skip
        return told

    def _site(self, site: str, pause: Signal) -> dict[str, Any]:
        newest = self._store.newest_score(site)
        if newest is None:
            return {**_NOTHING, "why_not": "nothing was scored"}
        since = newest - _HOUR * self._settings.hours
        period = {"since": since, "until": newest}
        spans = self._store.scored_since(site, since)
        lengths = {monitor.block for monitor in self._monitors.values()}
        best: tuple[int, str, list[Block], list[Any]] | None = None
        for length in sorted(lengths):
            found = blocks_of(spans, length, self._watermark, self._settings.most_blocks, site)
            hours = []
            for block in found:
                first = block.last - length + 1
                hours.append(
                    self._store.hours_scored(site, block.patient, block.stay, first, block.last)
                )
                # A worker in this process must not wait for all of them.
                pause.wait(0.0005)
                if pause.is_set():
                    return {**_NOTHING, **period, "why_not": "the service stops"}
            spoke = Counter(row[2] for rows in hours for row in rows)
            for version, monitor in self._monitors.items():
                if monitor.block == length and (best is None or spoke[version] > best[0]):
                    best = (spoke[version], version, found, hours)
        if best is None or best[0] == 0:
            why = "no whole block of hours of a model with a monitor"
            return {**_NOTHING, **period, "why_not": why}
        _, version, found, hours = best
        monitor = self._monitors[version]
        tier = monitor.tier_at(site)
        if self._rules is not None:
            tier = self._rules(site).of(version).tiers[0]
        try:
            parts, scores = tables_of(found, hours, monitor.block, self._schema, version)
            units = None
            if tier.units or monitor.tier_.units:
                size = monitor.block
                whole = [b for b, rows in zip(found, hours, strict=True) if len(rows) == size]
                units = self._units(site, whole, size, pause)
            drift = monitor.compare(parts, scores, site, units=units, tier=tier)
        except DataError as error:
            return {**_NOTHING, **period, "why_not": str(error)}
        return {**period, **told(drift, version, monitor, tier)}

    def _units(self, site: str, found: Sequence[Block], length: int, pause: Signal) -> list[str]:
        """The unit in each hour of blocks; ``""`` in stays before a patient's present one."""
        units: list[str] = []
        for patient, blocks in groupby(found, key=lambda b: b.patient):
            row = self._store.state(site, patient)
            stay, known = (None, []) if row is None else places(row.body)
            for block in blocks:
                if stay != block.stay:
                    units += [""] * length
                    continue
                hours = range(block.last - length + 1, block.last + 1)
                units += [unit_at(known, hour) or "" for hour in hours]
            pause.wait(0.0005)
        return units


def found_last(store: Store) -> dict[str, Any] | None:
    """What was found when sites were looked at last; None where nobody has."""
    told = store.mark(MARK)
    return None if told is None else dict(json.loads(told))


def blocks_of(
    spans: Sequence[tuple[str, str, int, int]], length: int, watermark: int, most: int, site: str
) -> list[Block]:
    """Blocks that were sealed in a period; of too many some that are as good as drawn.

    Args:
        spans: (patient, stay, first and last hour that closed in the period).
        length: hours of a block.
        watermark: hours after which an hour is sealed.
        most: blocks at most.
        site: whose they are.
    """
    found = []
    for patient, stay, first, last in spans:
        begin = max(first - watermark, length)
        # The first multiple of the length from there on.
        begin += -begin % length
        found += [Block(patient, stay, h) for h in range(begin, last - watermark + 1, length)]
    if len(found) > most:
        found.sort(key=lambda b: digest(site, *b))
        del found[most:]
    return sorted(found)


def tables_of(
    found: Sequence[Block], hours: Sequence[Sequence[tuple]], length: int, schema: Schema,
    version: str,
) -> tuple[Stays, NDArray[np.float64]]:  # fmt: skip
    """Blocks as stays, and the scores that a model gave to their hours; whole blocks only.

    Args:
        found: the blocks.
        hours: of each one (hour, risk, model, records or None), ascending.
        length: hours of a block.
        schema: of the channels.
        version: of the model.
    """
    whole = [(b, rows) for b, rows in zip(found, hours, strict=True) if len(rows) == length]
    size = len(whole)
    values = np.full((size * length, len(schema.names)), np.nan, np.float32)
    scores = np.full(size * length, np.nan)
    row = 0
    for _, rows in whole:
        for _, risk, model, body in rows:
            if body is not None:
                values[row] = hour_values(unpack(body), len(schema.names))
            if risk is not None and model == version:
                scores[row] = risk
            row += 1
    stays = Stays(
        np.array([str(i) for i in range(size)], object),
        np.array([b.patient for b, _ in whole], object), np.arange(size) * length,
        np.full(size, length, np.int64),
        np.array([b.last - length + 1 for b, _ in whole], np.int64),
        {name: values[:, i] for i, name in enumerate(schema.names)}, schema,
    )  # fmt: skip
    return stays, scores


def told(drift: Drift, version: str, monitor: DriftMonitor, tier: Tier) -> dict[str, Any]:
    """What was found at a site, as JSON; the worst channels first.

    Args:
        drift: how far it is from what is usual.
        version: of the model.
        monitor: that says what is usual.
        tier: of which the thresholds hold there.
    """
    rows = [
        {k: _plain(v) for k, v in row.items() if k != "stays"}
        for row in drift.channels.iter_rows(named=True)
    ]
    rows.sort(key=lambda r: (not r["drifted"], -(r["stability_index"] or 0.0), r["channel"]))
    moved = drift.scores
    return {
        "model": version, "monitor": monitor.version, "reference": drift.reference,
        "blocks": drift.blocks, "patients": drift.patients, "hours": drift.hours,
        "block_hours": monitor.block, "threshold": tier.threshold,
        "thresholds": dict(tier.units),
        "channels_named": [row["channel"] for row in rows if row["drifted"]],
        "scores_moved": moved is not None and moved.drifted,
        "channels": rows,
        "scores": None if moved is None else {k: _plain(v) for k, v in moved._asdict().items()},
        "expected": None if drift.expected is None else {
            k: _plain(v) for k, v in drift.expected._asdict().items()
        },
        "usual": {k: _plain(v) for k, v in drift.usual._asdict().items()},
    }  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    return value
