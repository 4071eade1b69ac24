"""The arrays behind a log: what every view of it shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from foretell.data.panel import Categorical

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Feature = NDArray[np.floating] | Categorical


@dataclass(frozen=True, eq=False)
class OutcomeTimes:
    """All outcomes of one kind, at or after exposure, entity after entity in order of time.

    Args:
        begins: (n + 1,) where the outcomes of each entity begin in ``times``.
        times: (o,) absolute times.
        first: (n,) the earliest of each entity, +inf where there is none.
    """

    begins: IntArray
    times: FloatArray
    first: FloatArray

    @classmethod
    def from_rows(cls, rows: IntArray, times: FloatArray, entities: int) -> OutcomeTimes:
        """Outcomes given as (entity row, time) pairs in any order."""
        order = np.lexsort((times, rows))
        rows, times = rows[order], np.ascontiguousarray(times[order])
        counts = np.bincount(rows, minlength=entities)
        begins = np.zeros(entities + 1, np.int64)
        np.cumsum(counts, out=begins[1:])
        first = np.full(entities, np.inf)
        some = counts > 0
        first[some] = times[begins[:-1][some]]
        return cls(begins, times, first)

    def gather(self, rows: slice | IntArray) -> tuple[IntArray, FloatArray]:
        """The outcomes of given entities: (position in ``rows``, time) pairs."""
        begins, ends = self.begins[:-1][rows], self.begins[1:][rows]
        counts = ends - begins
        owner = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self.times[np.repeat(begins, counts) + within]


@dataclass(frozen=True, eq=False)
class EventColumns:
    """Entities in order of (time, id) with their features and outcomes.

    Args:
        ids: (n,) Arrow array of int64 or large_string, unique.
        times: (n,) exposure times.
        deadlines: (n,) absolute times after which no outcome of the entity counts, or None.
        features: name -> (n,) float32/float64 numbers with NaN where missing, or categories.
        outcomes: kind -> its outcomes.
    """

    ids: pa.Array
    times: FloatArray
    deadlines: FloatArray | None
    features: Mapping[str, Feature]
    outcomes: Mapping[str, OutcomeTimes]


def id_values(ids: pa.Array) -> NDArray:
    """Names as a numpy array: int64, or objects of str."""
    if pa.types.is_integer(ids.type):
        return ids.to_numpy(zero_copy_only=False)
    return pl.Series(ids).to_numpy().astype(object)
