"""Parts of a test set that are worth a score of their own.

A segment puts a label on each forecast cell (M, K) from what was known at the origin: which series,
how far ahead, how fast it sells, how long it has been seen, and what the calendar holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.errors import ParameterError
from foretell.evaluation.history import History
from foretell.learners.demand.forecast import Forecast

DEFAULT_SEGMENTS = ("horizon_bucket", "velocity", "event", "history")
_BUCKET_ENDS = (1, 4, 13, 26, 52, 104, 208)


@dataclass(frozen=True)
class Labels:
    """Codes (M, K) or broadcastable to it, and what they stand for."""

    codes: NDArray[np.int64]
    names: Sequence[object]


@dataclass(frozen=True)
class Cells:
    """Everything a segment may look at.

    ``rows`` (M,) are the series' positions in the panel; ``history`` what was known at each origin;
    ``post`` the number of periods after an event that count as post-event.
    """

    forecast: Forecast
    panel: Panel
    rows: NDArray[np.int64]
    history: History
    post: int


def horizon_bucket_names(horizon: int) -> list[str]:
    """Names of the horizon buckets up to K: ``01``, ``02-04``, ``05-13``, ``14-26``, ``27-39``."""
    ends = [e for e in _BUCKET_ENDS if e < horizon] + [horizon]
    begins = [1] + [e + 1 for e in ends[:-1]]
    digits = max(2, len(str(horizon)))
    return [
        f"{b:0{digits}d}" if b == e else f"{b:0{digits}d}-{e:0{digits}d}"
        for b, e in zip(begins, ends, strict=True)
    ]


def label(cells: Cells, by: str) -> Labels:
    """The labels of one segment.

    Args:
        cells: the forecast cells.
        by: ``cutoff``, ``horizon``, ``horizon_bucket``, ``target`` (the period forecast),
            ``velocity``, ``event``, ``event_name``, ``history``, or a static category of the panel.

    Raises:
        ParameterError: the segment is not known.
    """
    if by in _SEGMENTS:
        return _SEGMENTS[by](cells)
    if by in cells.panel.static_categorical:
        category = cells.panel.static_categorical[by]
        return Labels(
            category.codes[cells.rows, None].astype(np.int64), [None, *category.vocabulary]
        )
    known = [*_SEGMENTS, *cells.panel.static_categorical]
    raise ParameterError(f"segment {by!r} is not known; known are {', '.join(known)}")


def event_cells(cells: Cells) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which event a cell holds, and which event came last within ``post`` periods before it.

    Returns:
        Two (M, K) arrays of codes, 0 for none and ``e + 1`` for the panel's event ``e``; where two
        events meet the first named one counts.
    """
    shape = (len(cells.forecast), cells.forecast.horizon)
    here, after = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    panel, rows = cells.panel, cells.rows
    stops = cells.forecast.cutoffs - panel.starts[rows] + 1 + shape[1]
    for e in reversed(range(len(panel.events))):
        flags = panel.known_windows(panel.events[e], rows, stops, shape[1] + cells.post) > 0.5
        here[flags[:, cells.post :]] = e + 1
        recent = np.zeros(shape, bool)
        for lag in range(1, cells.post + 1):
            recent |= flags[:, cells.post - lag : flags.shape[1] - lag]
        after[recent] = e + 1
    return here, np.where(here > 0, 0, after)


def _cutoff(cells: Cells) -> Labels:
    periods, codes = np.unique(cells.forecast.cutoffs, return_inverse=True)
    return Labels(codes[:, None], cells.forecast.frequency.time(periods))  # type: ignore[arg-type]


def _target(cells: Cells) -> Labels:
    ahead = np.arange(1, cells.forecast.horizon + 1)
    periods, codes = np.unique(cells.forecast.cutoffs[:, None] + ahead, return_inverse=True)
    shape = (len(cells.forecast), cells.forecast.horizon)
    times = cells.forecast.frequency.time(periods)
    return Labels(codes.reshape(shape), times)  # type: ignore[arg-type]


def _horizon(cells: Cells) -> Labels:
    steps = np.arange(cells.forecast.horizon)
    return Labels(steps[None, :], (steps + 1).tolist())


def _horizon_bucket(cells: Cells) -> Labels:
    steps = np.arange(1, cells.forecast.horizon + 1)
    ends = np.array([e for e in _BUCKET_ENDS if e < cells.forecast.horizon], np.int64)
    codes = np.searchsorted(ends, steps)
    return Labels(codes[None, :], horizon_bucket_names(cells.forecast.horizon))


def _velocity(cells: Cells) -> Labels:
    """Tenths of the series by mean sales before the first origin: 1 slowest, 10 fastest."""
    series, where = np.unique(cells.rows, return_inverse=True)
    mean = np.full(len(series), np.nan)
    latest_first = np.argsort(-cells.forecast.cutoffs, kind="stable")
    mean[where[latest_first]] = cells.history.mean[latest_first]  # the earliest origin stays
    known = np.isfinite(mean)
    rank = np.empty(len(series))
    order = np.lexsort((np.arange(len(series)), np.where(known, mean, np.inf)))
    rank[order] = np.arange(len(series))
    tenths = 1 + np.minimum(9, (10 * rank / max(1, known.sum())).astype(np.int64))
    codes = np.where(known, tenths, 0)
    return Labels(codes[where][:, None], [None, *range(1, 11)])


def _event(cells: Cells) -> Labels:
    here, after = event_cells(cells)
    return Labels(np.where(here > 0, 1, np.where(after > 0, 2, 0)), ["none", "event", "post_event"])


def _event_name(cells: Cells) -> Labels:
    here, after = event_cells(cells)
    names = list(cells.panel.events)
    codes = np.where(here > 0, here, np.where(after > 0, after + len(names), 0))
    return Labels(codes, ["none", *names, *[f"after {name}" for name in names]])


def _history(cells: Cells) -> Labels:
    """``new`` below K observed steps at the origin, ``short`` below 2 K or one season."""
    horizon = cells.forecast.horizon
    enough = max(2 * horizon, cells.forecast.frequency.season)
    codes = np.searchsorted([horizon, enough], cells.history.observed, side="right").astype(
        np.int64
    )
    return Labels(codes[:, None], ["new", "short", "established"])


_SEGMENTS: dict[str, Callable[[Cells], Labels]] = {
    "cutoff": _cutoff,
    "target": _target,
    "horizon": _horizon,
    "horizon_bucket": _horizon_bucket,
    "velocity": _velocity,
    "event": _event,
    "event_name": _event_name,
    "history": _history,
}
