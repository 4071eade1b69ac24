"""What is unusual in a panel: counted and reported, never silently changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.panel import DataNote, Panel

_CHUNK = 1 << 22  # steps looked at at a time, so that a memory-mapped panel stays on disk

LIVE_KINDS = frozenset(
    {"negative", "all_zero", "constant", "single", "unobserved", "empty", "censored", "short_known",
     "missing_known"}
)  # fmt: skip
"""Kinds of notes that :func:`inspect` counts anew from the panel as it is."""


def with_notes(panel: Panel) -> Panel:
    """The panel with what :func:`inspect` finds among its notes."""
    kept = tuple(n for n in panel.notes if n.kind not in LIVE_KINDS)
    return replace(panel, notes=(*kept, *inspect(panel)))


def inspect(panel: Panel) -> tuple[DataNote, ...]:
    """Looks for what a planner should know before trusting a forecast.

    Finds negative values, series that are all zero, constant, observed once or never, censored
    steps, known covariates with missing values and known covariates that end with the target.
    """
    found = _Extremes.of(panel)
    notes: list[DataNote] = []

    def note(kind: str, series: NDArray[np.bool_], text: str, count: int | None = None) -> None:
        concerned = int(series.sum())
        if concerned:
            name = str(panel.ids[int(np.argmax(series))])
            total = concerned if count is None else count
            text = text.format(n=total, series=_plural(concerned))
            notes.append(DataNote(kind, text, total, name))

    seen = found.observed > 0
    note("empty", panel.lengths == 0, "{series} without any step")
    note("unobserved", (panel.lengths > 0) & ~seen, "{series} without any observation")
    note("single", found.observed == 1, "{series} with one observation")
    zero = seen & (found.smallest == 0) & (found.largest == 0)
    note("all_zero", zero, "{series} with nothing but zeros")
    same = (found.observed > 1) & (found.smallest == found.largest) & ~zero
    note("constant", same, "{series} with one constant value")
    negative = int(found.negative.sum())
    text = "{n} negative values (returns?) in {series} are kept"
    note("negative", found.negative > 0, text, negative)
    text = "{n} steps in {series} are cut by stock-outs"
    note("censored", found.censored > 0, text, int(found.censored.sum()))
    if panel.known:
        short = (panel.known_lengths <= panel.lengths) & (panel.lengths > 0)
        names = ", ".join(panel.known)
        text = f"{{series}} for which {names} are not known beyond the last observation"
        note("short_known", short, text)
        for name in panel.known:
            missing = missing_counts(panel.known[name], panel.known_begins, panel.known_lengths)
            text = f"{{n}} missing {name} in {{series}}"
            note("missing_known", missing > 0, text, int(missing.sum()))
    return tuple(notes)


def problems(panel: Panel) -> pl.DataFrame:
    """What was found in the data: kind, count, series (an example) and message.

    Repairs made while reading come first, then what the panel shows as it is now.
    """
    notes = with_notes(panel).notes
    return pl.DataFrame(
        {
            "kind": [n.kind for n in notes],
            "count": [n.count for n in notes],
            "series": [n.series for n in notes],
            "message": [n.message for n in notes],
        },
        schema={"kind": pl.String, "count": pl.Int64, "series": pl.String, "message": pl.String},
    )


def missing_counts(
    flat: NDArray[np.float32], begins: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Number of NaN (N,) in each series' part of a flat array."""
    parts = [
        np.flatnonzero(np.isnan(flat[a : a + _CHUNK])) + a for a in range(0, len(flat), _CHUNK)
    ]
    where = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return np.searchsorted(where, begins + lengths) - np.searchsorted(where, begins)


class _Extremes:
    """Counts and extremes (N,) of each series."""

    def __init__(self, size: int) -> None:
        self.observed = np.zeros(size, np.int64)
        self.negative = np.zeros(size, np.int64)
        self.censored = np.zeros(size, np.int64)
        self.smallest = np.full(size, np.inf)
        self.largest = np.full(size, -np.inf)

    @classmethod
    def of(cls, panel: Panel) -> _Extremes:
        found = cls(len(panel))
        order = np.flatnonzero(panel.lengths > 0)
        if not order.size:
            return found
        ends = np.cumsum(panel.lengths[order])
        start = 0
        while start < len(order):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
            rows = order[start:stop]
            lengths = panel.lengths[rows]
            first = np.r_[0, np.cumsum(lengths)[:-1]]
            flat = np.repeat(panel.begins[rows] - first, lengths) + np.arange(lengths.sum())
            values = panel.target[flat]
            seen = ~np.isnan(values)
            found.observed[rows] = np.add.reduceat(seen, first, dtype=np.int64)
            found.negative[rows] = np.add.reduceat(values < 0, first, dtype=np.int64)
            found.smallest[rows] = np.fmin.reduceat(np.where(seen, values, np.inf), first)
            found.largest[rows] = np.fmax.reduceat(np.where(seen, values, -np.inf), first)
            if panel.censored is not None:
                found.censored[rows] = np.add.reduceat(panel.censored[flat], first, dtype=np.int64)
            start = stop
        return found


def _plural(count: int) -> str:
    return f"{count} series"
