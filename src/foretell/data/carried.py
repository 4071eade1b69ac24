"""Covariates that should be known ahead but were not given: counted, and carried on."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import DataNote, Panel, flat_steps

MissingKnown = Literal["carry", "error"]
"""What is done where some series lack known covariates for periods that are to be forecast."""

_CELLS = 4_000_000


def carry_known(panel: Panel, horizon: int) -> Panel:
    """Fills what some series lack of the known covariates ``horizon`` periods ahead.

    A covariate keeps its last known value; an event happens where it does in all series that have
    it given. One series without a plan then does not stop the forecasts of all; each repair is
    counted in a note ``carried_known``.
    Nothing is filled within the history, and nothing at all where every series lacks something:
    that is a plan that was forgotten, which :meth:`Panel.require_known` then refuses.

    Args:
        panel: the series.
        horizon: periods after each series' last step.

    Returns:
        The panel itself where nothing is missing.
    """
    if not panel.known or horizon < 1:
        return panel
    missing = {name: _missing_ahead(panel, name, horizon) for name in panel.known}
    lacking = np.any([count > 0 for count in missing.values()], axis=0)
    if not lacking.any() or lacking.all():
        return panel
    needed = panel.lengths + horizon
    lengths = np.where(lacking, np.maximum(panel.known_lengths, needed), panel.known_lengths)
    begins = np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64)
    flat, within = flat_steps(panel.known_begins, panel.known_lengths)
    place = np.repeat(begins, panel.known_lengths) + within
    known, notes = {}, []
    for name, values in panel.known.items():
        longer = np.full(int(lengths.sum()), np.nan, np.float32)
        longer[place] = values[flat]
        rows = np.flatnonzero(missing[name])
        event = name in panel.events
        first, common = _common(panel, name, rows, horizon) if event and rows.size else (0, None)
        for i in rows:
            length = int(panel.lengths[i])
            part = longer[begins[i] : begins[i] + needed[i]]
            if common is None:
                part[:] = _carried(part, length)
            else:
                at = int(panel.starts[i]) + length - first
                ahead = part[length:]
                part[length:] = np.where(np.isnan(ahead), common[at : at + horizon], ahead)
        known[name] = longer
        if rows.size:
            count = int(missing[name].sum())
            done = "those of all others hold" if event else "the last known one is carried on"
            text = f"{count} future values of {name} in {rows.size} series were not given: {done}"
            notes.append(DataNote("carried_known", text, count, str(panel.ids[rows[0]])))
    return replace(
        panel,
        known=known,
        known_begins=begins,
        known_lengths=lengths,
        notes=(*panel.notes, *notes),
    )


def _missing_ahead(panel: Panel, name: str, horizon: int) -> NDArray[np.int64]:
    """Number of values (N,) that each series lacks after its last step."""
    result = np.zeros(len(panel), np.int64)
    size = max(1, _CELLS // horizon)
    for begin in range(0, len(panel), size):
        rows = np.arange(begin, min(begin + size, len(panel)))
        ahead = panel.known_windows(name, rows, panel.lengths[rows] + horizon, horizon)
        result[rows] = np.isnan(ahead).sum(axis=1)
    return result


def _common(
    panel: Panel, name: str, rows: NDArray[np.int64], horizon: int
) -> tuple[int, NDArray[np.float32]]:
    """First period, and by period the value that all series agree on, 0 where they do not.

    Covers the periods that follow the series ``rows``.
    """
    ends = panel.starts[rows] + panel.lengths[rows]
    first, last = int(ends.min()), int(ends.max()) + horizon
    span = last - first
    low, high = np.full(span, np.inf, np.float32), np.full(span, -np.inf, np.float32)
    size = max(1, _CELLS // span)
    for begin in range(0, len(panel), size):
        block = np.arange(begin, min(begin + size, len(panel)))
        values = panel.known_windows(name, block, last - panel.starts[block], span)
        low = np.fmin(low, np.fmin.reduce(values, axis=0))
        high = np.fmax(high, np.fmax.reduce(values, axis=0))
    return first, np.where(low == high, low, np.float32(0))


def _carried(values: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """A series' values with those after its first ``length`` filled by the last one given."""
    future = np.isnan(values) & (np.arange(len(values)) >= length)
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(future & (last >= 0), values[np.maximum(last, 0)], values)
