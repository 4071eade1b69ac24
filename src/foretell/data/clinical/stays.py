"""Hourly tables of hospital stays of any length: ragged views into flat columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.schema import Schema
from foretell.data.panel import Categorical, DataNote
from foretell.errors import DataError, ParameterError

LONGEST_STAY = 24 * 366 * 2
"""Hours; what claims to be longer counts in another unit, or from another beginning."""


@dataclass(frozen=True, eq=False)
class Stays:
    """N stays with one row an hour, without gaps.

    Row r of stay i is hour ``starts[i] + r`` on the clock of the unit: it holds what became known
    in the hour that ends then, and nothing later. Arrays of rows are flat; :attr:`rows` says where
    the rows of the stays of this view lie, stay after stay.

    Args:
        ids: (N,) names of the stays, unique: ``"A/1"`` is stay 1 of hospital A.
        patients: (N,) whom each stay belongs to; splits never part a patient.
        begins: (N,) where each stay begins in the flat columns.
        lengths: (N,) hours of each stay.
        starts: (N,) hour of each stay's first row on the unit's clock (1 = first hour).
        channels: name -> flat float32 values in the schema's canonical units, NaN where nothing
            was measured.
        schema: of the channels, in their order.
        label: flat int8 or None; the label as it was given, -1 where unknown.
        onset: (N,) hour of onset on the unit's clock; NaN for stays without one.
        categories: name -> (N,) category; ``site``, ``hospital``, ``unit`` and ``sex`` are usual.
        numbers: name -> (N,) float64; ``age`` (years) and ``admission`` (hours from hospital to
            unit admission, positive) are usual, NaN where unknown.
        notes: what was found and dealt with on the way in.
    """

    ids: NDArray[np.object_]
    patients: NDArray[np.object_]
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    channels: Mapping[str, NDArray[np.float32]]
    schema: Schema
    label: NDArray[np.int8] | None = None
    onset: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    categories: Mapping[str, Categorical] = field(default_factory=dict)
    numbers: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: tuple[DataNote, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.ids)
        if len(self.onset) == 0:
            object.__setattr__(self, "onset", np.full(size, np.nan))
        sized = {"patients": self.patients, "begins": self.begins, "lengths": self.lengths}
        sized |= {"starts": self.starts, "onset": self.onset, **self.numbers}
        sized |= {name: c.codes for name, c in self.categories.items()}
        for name, values in sized.items():
            if len(values) != size:
                raise ParameterError(f"{name!r} has {len(values)} values for {size} stays")
        if tuple(self.channels) != self.schema.names:
            raise ParameterError("the channels are not those of the schema, in its order")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        septic = int(np.isfinite(self.onset).sum())
        return f"Stays({len(self):,} stays, {self.n_rows:,} hours, {septic:,} with onset)"

    @property
    def n_rows(self) -> int:
        """Hours of all stays of this view."""
        return int(self.lengths.sum())

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,) where each stay begins among the rows of this view."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(R,) places of this view's rows in the flat columns, stay after stay."""
        return np.repeat(self.begins - self.offsets[:-1], self.lengths) + np.arange(self.n_rows)

    @property
    def is_whole(self) -> bool:
        """Whether this view's rows are the flat columns themselves, in order."""
        size = len(next(iter(self.channels.values()))) if self.channels else self.n_rows
        return self.n_rows == size and bool(np.array_equal(self.begins, self.offsets[:-1]))

    def stay_of_row(self) -> NDArray[np.int64]:
        """(R,) number of the stay that each row belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def hours(self) -> NDArray[np.int64]:
        """(R,) hour of each row on the unit's clock."""
        return np.arange(self.n_rows) + np.repeat(self.starts - self.offsets[:-1], self.lengths)

    def column(self, name: str) -> NDArray[np.float32]:
        """(R,) values of a channel, NaN where nothing was measured.

        Raises:
            ParameterError: there is no such channel.
        """
        self.schema[name]
        values = self.channels[name]
        return np.asarray(values) if self.is_whole else values[self.rows]

    def matrix(self, part: slice | NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """(R, C) values of all channels, of all stays or of those that ``part`` selects."""
        view = self if part is None else self.select(part)
        rows = view.rows
        result = np.empty((len(rows), len(self.channels)), np.float32)
        for i, values in enumerate(self.channels.values()):
            result[:, i] = values[rows]
        return result

    def labels(self) -> NDArray[np.int8]:
        """(R,) the label as it was given, -1 where unknown.

        Raises:
            DataError: the stays have none.
        """
        if self.label is None:
            raise DataError("these stays have no label", hint="Give a label column when reading")
        return np.asarray(self.label) if self.is_whole else self.label[self.rows]

    def number(self, name: str) -> NDArray[np.float64]:
        """(N,) a number of each stay; all NaN where it is not recorded."""
        return self.numbers.get(name, np.full(len(self), np.nan))

    def names(self, category: str) -> NDArray[np.object_]:
        """(N,) names of a category, ``"unknown"`` where it is not known.

        Raises:
            ParameterError: there is no such category.
        """
        found = self.categories.get(category)
        if found is None:
            known = ", ".join(self.categories) or "none"
            raise ParameterError(f"there is no category {category!r}; known are {known}")
        return np.array(["unknown", *found.vocabulary], object)[found.codes]

    def select(self, stays: ArrayLike | slice) -> Stays:
        """A view of some stays, by number, boolean mask or slice; no row is copied."""
        chosen = np.arange(len(self))[stays]  # type: ignore[index]
        return replace(
            self,
            ids=self.ids[chosen],
            patients=self.patients[chosen],
            begins=self.begins[chosen],
            lengths=self.lengths[chosen],
            starts=self.starts[chosen],
            onset=self.onset[chosen],
            categories={
                k: Categorical(c.codes[chosen], c.vocabulary) for k, c in self.categories.items()
            },
            numbers={k: v[chosen] for k, v in self.numbers.items()},
        )

    def first(self, hours: int | NDArray[np.int64]) -> Stays:
        """A view of the first ``hours`` rows of each stay: all that was known by then.

        The onset stays on record; labels and features of the rows seen do not look beyond them.
        """
        limit = np.maximum(np.broadcast_to(np.asarray(hours, np.int64), len(self)), 0)
        return replace(self, lengths=np.minimum(self.lengths, limit))

    def by(self, category: str) -> dict[str, Stays]:
        """One view for each value of a category (``"site"``, ``"unit"``, ``"sex"``), by name."""
        names = self.names(category)
        return {str(n): self.select(names == n) for n in sorted(set(names.tolist()))}

    def of(self, category: str, *names: str) -> Stays:
        """The stays whose category is one of the names.

        Raises:
            ParameterError: no stay has one of them.
        """
        values = self.names(category)
        for name in names:
            if not (values == name).any():
                known = sorted(set(values.tolist()))
                raise ParameterError(f"no stay has {category} {name!r}; known are {known}")
        return self.select(np.isin(values.astype(str), names))

    def chunks(self, rows: int = 200_000) -> Iterator[Stays]:
        """Views of successive stays with about this many rows each, for work in little memory."""
        ends = self.offsets[1:]
        begin = 0
        while begin < len(self):
            before = ends[begin - 1] if begin else 0
            stop = max(begin + 1, int(np.searchsorted(ends, before + rows, side="right")))
            yield self.select(slice(begin, stop))
            begin = stop

    def to_polars(self) -> pl.DataFrame:
        """One row an hour: id, hour, all channels, and the label where there is one."""
        columns: dict[str, object] = {
            "id": np.repeat(self.ids, self.lengths).tolist(),
            "hour": self.hours(),
        }
        rows = self.rows
        columns |= {name: values[rows] for name, values in self.channels.items()}
        frame = pl.DataFrame(columns, schema_overrides={"id": pl.String}, nan_to_null=True)
        if self.label is not None:
            frame = frame.with_columns(pl.Series("label", self.labels()))
        return frame

    def stays_to_polars(self) -> pl.DataFrame:
        """One row a stay: id, patient, first hour, hours, onset, categories and numbers."""
        columns: dict[str, object] = {
            "id": self.ids.tolist(),
            "patient": self.patients.tolist(),
            "start": self.starts,
            "hours": self.lengths,
            "onset": self.onset,
        }
        columns |= {name: self.names(name).tolist() for name in self.categories}
        columns |= dict(self.numbers)
        return pl.DataFrame(columns, nan_to_null=True, strict=False)

    def fingerprint(self) -> str:
        """A hash of all that is seen: equal for equal stays, wherever they are stored."""
        digest = hashlib.sha256(self.schema.fingerprint().encode())
        digest.update("\x00".join(map(str, self.ids)).encode())
        digest.update(np.asarray([self.starts, self.lengths], np.int64).tobytes())
        digest.update(np.asarray(self.onset, np.float64).tobytes())
        rows = None if self.is_whole else self.rows
        for values in (*self.channels.values(), *(() if self.label is None else (self.label,))):
            seen = np.ascontiguousarray(values if rows is None else values[rows])
            if seen.dtype == np.float32:
                seen = np.where(np.isnan(seen), np.float32(np.nan), seen)
            digest.update(seen.tobytes())
        for name in self.categories:
            digest.update("\x00".join(map(str, self.names(name))).encode())
        for name, numbers in self.numbers.items():
            digest.update(name.encode() + np.nan_to_num(numbers, nan=-1e300).tobytes())
        return digest.hexdigest()


def concatenate(parts: list[Stays]) -> Stays:
    """Stays of several hospitals or files as one; columns are copied once.

    Raises:
        DataError: an id is there twice, or the parts have different schemas.
    """
    if not parts:
        raise ParameterError("there is nothing to put together")
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        if part.schema.fingerprint() != first.schema.fingerprint():
            raise DataError("the parts have different channels or units")
    ids = np.concatenate([p.ids for p in parts])
    if len(set(ids.tolist())) != len(ids):
        seen: set[str] = set()
        twice = next(i for i in ids.tolist() if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise DataError(
            "a stay is there twice",
            series=str(twice),
            hint="Name the hospitals, so that their ids are told apart",
        )
    lengths = np.concatenate([p.lengths for p in parts])
    categories = {}
    for name in dict.fromkeys(n for p in parts for n in p.categories):
        values = [p.names(name) if name in p.categories else ["unknown"] * len(p) for p in parts]
        flat = [None if v == "unknown" else str(v) for vs in values for v in vs]
        categories[name] = Categorical.from_values(flat)
    label = None
    if all(p.label is not None for p in parts):
        label = np.concatenate([p.labels() for p in parts])
    return Stays(
        ids,
        np.concatenate([p.patients for p in parts]),
        np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        lengths,
        np.concatenate([p.starts for p in parts]),
        {n: np.concatenate([p.column(n) for p in parts]) for n in first.channels},
        first.schema,
        label,
        np.concatenate([p.onset for p in parts]),
        categories,
        {
            n: np.concatenate([p.number(n) for p in parts])
            for n in dict.fromkeys(n for p in parts for n in p.numbers)
        },
        tuple(n for p in parts for n in p.notes),
    )
