"""The features of the calendar, of events and of covariates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.data.frequency import Frequency
from foretell.learners.demand.features.definitions import Columns, Feature
from foretell.learners.demand.features.rows import RowView, ratio


class SeasonPosition(Feature):
    """Where in its seasons the target lies: of the year, month, week and day where it has dates.

    Args:
        waves: sine and cosine instead of a position: for models that need smooth inputs.
    """

    def __init__(self, waves: bool = False) -> None:
        self.waves = waves

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        frequency = rows.panel.frequency
        positions = _positions(frequency, rows.periods(rows.targets), rows.seasons)
        columns: Columns = {}
        for name, share in positions.items():
            if self.waves:
                columns[f"{name}_sin"] = np.sin(2 * np.pi * share)
                columns[f"{name}_cos"] = np.cos(2 * np.pi * share)
            else:
                columns[name] = share
        if "month_position" in positions:
            held = _positions(frequency, rows.periods(rows.reference_step), rows.seasons)
            columns["month_shift"] = positions["month_position"] - held["month_position"]
        return columns


class Events(Feature):
    """Named events around the target, around its seasonal reference, and what they did last time.

    For each event: whether the target and the reference fall on it, and the signed distance (in
    steps, the target after the event is positive) where it lies within the pack's reach. Where the
    distances of target and reference differ the season is misaligned with the moving event; then
    ``lag_aligned``, the value at the same distance from the event's previous occurrence, is the
    better reference.
    """

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        columns: Columns = {}
        nearest = np.full(len(rows), np.inf)
        response = np.full(len(rows), np.nan)
        held = np.maximum(rows.reference_step, 0)
        shift = np.zeros(len(rows))
        for name in rows.event_names:
            there = rows.event_distance(name, rows.targets)
            then = rows.event_distance(name, held)
            columns[f"{name}_distance"] = there
            columns[f"{name}_lag_distance"] = then
            columns[f"{name}"] = (there == 0).astype(np.float64)
            columns[f"{name}_lag"] = (then == 0).astype(np.float64)
            distance = np.where(np.isnan(there), np.inf, np.abs(there))
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            last = rows.event_before(name, rows.origins + 1)
            around = rows.mean(last + 4, 9)
            response = np.where(closer, np.minimum(ratio(rows.value(last), around), 20.0), response)
            one, other = np.nan_to_num(there, nan=99.0), np.nan_to_num(then, nan=99.0)
            shift += one != other
        if rows.event_names:
            aligned = rows.value(rows.aligned_step)
            columns["lag_aligned"] = aligned / rows.scale
            columns["lag_aligned_less_lag"] = (aligned - rows.reference) / rows.scale
            columns["event_response"] = response
            columns["misaligned_events"] = shift
        return columns


class KnownCovariates(Feature):
    """Covariates known ahead that are no events: at the target, relative to the past and the lag.

    For a price the ratio to its trailing mean is the planned discount.
    """

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        columns: Columns = {}
        window = max(8, rows.season // 2)
        for name in rows.panel.known:
            if name in rows.panel.events:
                continue
            values = rows.history.known(name)
            there = rows.ahead(values, rows.targets)
            total, count = rows.history.running(f"known/{name}", values)
            first = rows.origins - window + 1
            usual = ratio(
                rows.between(total, first, rows.origins), rows.between(count, first, rows.origins)
            )
            then = rows.ahead(values, rows.reference_step)
            columns[f"{name}"] = there
            columns[f"{name}_relative"] = np.clip(ratio(there, usual), 0.0, 20.0)
            columns[f"{name}_to_lag"] = np.clip(ratio(there, then), 0.0, 20.0)
        return columns


class PastCovariates(Feature):
    """Covariates known only up to the origin: recent mean, trend, and the value a season ago."""

    def compute(self, rows: RowView) -> Columns:
        """See the class."""
        columns: Columns = {}
        short, long = max(2, rows.season // 13), max(4, rows.season // 4)
        t = rows.origins
        for name in rows.panel.past:
            values = rows.history.past(name)
            total, count = rows.history.running(f"past/{name}", values)
            recent = ratio(
                rows.between(total, t - short + 1, t), rows.between(count, t - short + 1, t)
            )
            usual = ratio(
                rows.between(total, t - long + 1, t), rows.between(count, t - long + 1, t)
            )
            columns[f"{name}_recent"] = recent
            columns[f"{name}_trend"] = recent - usual
            columns[f"{name}_lag"] = rows.at(values, rows.reference_step)
        return columns


def _positions(
    frequency: Frequency, periods: NDArray[np.int64], seasons: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    """Shares in [0, 1) of each natural cycle longer than a step."""
    if frequency.kind == "integer":
        return {f"season_{m}": (periods % m) / m for m in seasons if m > 1}
    times = np.asarray(frequency.time(periods)).astype("datetime64[us]")
    days = times.astype("datetime64[D]")
    year, month = days.astype("datetime64[Y]"), days.astype("datetime64[M]")
    result = {"year_position": (days - year).astype(np.int64) / 366.0}
    if frequency.kind == "months":
        return result if frequency.step < 12 else {}
    day = 86_400_000_000
    if frequency.step <= 7 * day:
        result["month_position"] = (days - month).astype(np.int64) / 31.0
    if frequency.step <= day:
        result["week_position"] = ((days.astype(np.int64) + 3) % 7) / 7.0
    if frequency.step < day:
        result["day_position"] = (times - days).astype(np.int64) / day
    return result
