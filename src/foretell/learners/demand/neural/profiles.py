"""Seasonal shapes of groups: what the same weeks did to like series last year.

One series' value of a year ago is a noisy reference; the mean over its department is not. For a
group, a period and a fork date, all sums run over periods up to the fork only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Categorical, Panel
from foretell.errors import ParameterError
from foretell.learners.demand.neural.scaling import causal_mean_scale

_CHUNK_STEPS = 4_000_000
_MOST_GROUPS = 50_000


@dataclass(frozen=True, eq=False)
class GroupProfile:
    """Means of a group's values and causal scales at every period.

    Args:
        first: period number of the first column.
        values: (G, P) mean of the observed values; row 0 (unknown) is never used.
        value_counts: (G, P) number of observed values.
        scales: (G, P) mean of the members' causal scales.
        scale_counts: (G, P) number of members with a scale.
    """

    first: int
    values: NDArray[np.float64]
    value_counts: NDArray[np.int32]
    scales: NDArray[np.float64]
    scale_counts: NDArray[np.int32]

    @classmethod
    def of(
        cls, panel: Panel, name: str, vocabulary: Sequence[str], window: int, floor: float
    ) -> GroupProfile:
        """The profile of a static category's groups.

        Args:
            panel: the series.
            name: the static category.
            vocabulary: names of the groups; others count as unknown.
            window: observed values in the causal scale.
            floor: smallest scale.
        """
        if len(vocabulary) > _MOST_GROUPS:
            raise ParameterError(
                f"static category {name!r} has {len(vocabulary):,} groups, too many for profiles "
                f"(at most {_MOST_GROUPS:,}): use a coarser category"
            )
        category = panel.static_categorical[name]
        table = Categorical(np.zeros(0, np.int32), tuple(vocabulary))
        codes = table.encode([None, *category.vocabulary]).codes[category.codes].astype(np.int64)
        first = int(panel.starts.min(initial=0))
        periods = int((panel.starts + panel.lengths).max(initial=first)) - first + 1
        shape = (len(vocabulary) + 1, periods)
        sums, counts = np.zeros(shape), np.zeros(shape, np.int32)
        scale_sums, scale_counts = np.zeros(shape), np.zeros(shape, np.int32)
        longest = max(1, int(panel.lengths.max(initial=1)))
        size = max(1, _CHUNK_STEPS // longest)
        for begin in range(0, len(panel), size):
            rows = np.arange(begin, min(begin + size, len(panel)))
            y = panel.windows(rows, np.full(len(rows), longest, np.int64), longest)
            seen = ~np.isnan(y)
            y = np.where(seen, y, 0)
            scale = causal_mean_scale(y, seen, window, floor, 0.0)
            running = (scale > 0) & (np.arange(longest) < panel.lengths[rows][:, None])
            at = np.broadcast_to(
                (panel.starts[rows] - first)[:, None] + np.arange(longest), y.shape
            )
            group = np.broadcast_to(codes[rows][:, None], y.shape)
            np.add.at(sums, (group[seen], at[seen]), y[seen])
            np.add.at(counts, (group[seen], at[seen]), 1)
            np.add.at(scale_sums, (group[running], at[running]), scale[running])
            np.add.at(scale_counts, (group[running], at[running]), 1)
        return cls(
            first,
            sums / np.maximum(counts, 1),
            counts,
            scale_sums / np.maximum(scale_counts, 1),
            scale_counts,
        )

    @property
    def last(self) -> int:
        """Period number of the last column."""
        return self.first + self.values.shape[1] - 1

    def continued(self, newer: GroupProfile) -> GroupProfile:
        """This profile, and another one's periods where this one has nothing.

        So a forecast of a few series still rests on all that were trained on.
        """
        first, last = min(self.first, newer.first), max(self.last, newer.last)
        mine, theirs = self._over(first, last), newer._over(first, last)
        values = mine.value_counts > 0
        scales = mine.scale_counts > 0
        return GroupProfile(
            first,
            np.where(values, mine.values, theirs.values),
            np.where(values, mine.value_counts, theirs.value_counts),
            np.where(scales, mine.scales, theirs.scales),
            np.where(scales, mine.scale_counts, theirs.scale_counts),
        )

    def _over(self, first: int, last: int) -> GroupProfile:
        pad = ((0, 0), (self.first - first, last - self.last))
        return GroupProfile(
            first,
            np.pad(self.values, pad),
            np.pad(self.value_counts, pad),
            np.pad(self.scales, pad),
            np.pad(self.scale_counts, pad),
        )

    def value_at(
        self, groups: NDArray[np.int64], periods: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Mean value of groups at periods, and whether two members at least make it up."""
        return self._look(self.values, self.value_counts, groups, periods)

    def scale_at(
        self, groups: NDArray[np.int64], periods: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Mean scale of groups at periods, and whether two members at least make it up."""
        return self._look(self.scales, self.scale_counts, groups, periods)

    def _look(
        self, table: NDArray, counts: NDArray, groups: NDArray, periods: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        column = periods - self.first
        inside = (column >= 0) & (column < table.shape[1]) & (groups > 0)
        column = np.where(inside, column, 0)
        return table[groups, column], inside & (counts[groups, column] >= 2)

    def to_arrays(self, prefix: str) -> dict[str, NDArray]:
        """The tables by name, for saving."""
        return {
            f"{prefix}.first": np.array([self.first]),
            f"{prefix}.values": self.values,
            f"{prefix}.value_counts": self.value_counts,
            f"{prefix}.scales": self.scales,
            f"{prefix}.scale_counts": self.scale_counts,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray], prefix: str) -> GroupProfile:
        """The inverse of :meth:`to_arrays`."""
        return cls(
            int(arrays[f"{prefix}.first"][0]),
            *(
                arrays[f"{prefix}.{name}"]
                for name in ("values", "value_counts", "scales", "scale_counts")
            ),
        )
