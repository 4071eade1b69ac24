"""Training examples with forking sequences: one encoded series, many forecast dates.

A model that is trained on one cut of each series a step spends a whole encoding on one forecast.
Forking (Wen et al. 2017, section 3.1) lets the decoder start from every encoded step: all forecast
creation dates of a series cost one encoding and one backward pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.panel import Panel
from foretell.errors import DataError, ParameterError
from foretell.learners.demand.neural.profiles import GroupProfile
from foretell.learners.demand.neural.sequences import SequenceReader, SequenceSpec

ForkDraw = Literal["random", "contiguous", "last", "common"]


def draw_forks(
    usable: NDArray[np.bool_], count: int, draw: ForkDraw, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of forks, without replacement.

    Args:
        usable: (B, T) where a fork may stand.
        count: forks F a series.
        draw: uniform without replacement, a contiguous run with a uniform beginning, the last, or
            uniform with the same positions for all series ("common").
        rng: where the randomness comes from.

    Returns:
        (B, F) ascending positions; -1 where a series has fewer usable ones.
    """
    length = usable.shape[1]
    steps = np.arange(length)
    if draw in ("random", "common"):
        shape = usable.shape if draw == "random" else (1, length)
        keys = np.where(usable, rng.random(shape), 2.0)
    else:
        last = np.where(usable, steps, -1).max(axis=1, initial=-1)
        first = np.where(usable, steps, length).min(axis=1, initial=length)
        begin = last - count + 1
        if draw == "contiguous":
            span = np.maximum(begin - first + 1, 1)
            begin = np.minimum(first, length) + rng.integers(0, span)
            begin = np.maximum(np.minimum(begin, last - count + 1), first)
        inside = (steps >= begin[:, None]) & (steps < begin[:, None] + count)
        keys = np.where(usable & inside, steps[None, :] / length, 2.0)
    count = min(count, length)
    chosen = np.argpartition(keys, count - 1, axis=1)[:, :count]
    valid = np.take_along_axis(keys, chosen, axis=1) < 2.0
    forks = np.sort(np.where(valid, chosen, length), axis=1)
    return np.where(forks < length, forks, -1)


class ForkingExamples:
    """The series of a panel, each an example with several forks.

    Args:
        panel: the series.
        spec: what is read.
        n_forks: forks a series and step, or ``"all"``.
        context: longest window that is encoded; longer series are cut at a random place.
        warmup: steps at the beginning of a window that was cut from within a series at which no
            fork stands, because they would see less past than at prediction.
        t_min: observed values a fork must have seen.
        draw: how forks are drawn.
        first_origin: earliest step a fork may stand on, counted back from each series' end; None
            for no limit. A validation part has forks on the last steps only.
        unknown_rate: share of static categories hidden at random, so that code 0 is trained.
        profiles: of the specification's groups; see :class:`SequenceReader`.

    Raises:
        DataError: no series has a usable fork.
    """

    def __init__(
        self,
        panel: Panel,
        spec: SequenceSpec,
        *,
        n_forks: int | Literal["all"] = "all",
        context: int = 512,
        warmup: int = 64,
        t_min: int = 1,
        draw: ForkDraw = "random",
        first_origin: int | None = None,
        unknown_rate: float = 0.02,
        profiles: Mapping[str, GroupProfile] | None = None,
    ) -> None:
        if n_forks != "all" and (isinstance(n_forks, bool) or int(n_forks) < 1):
            raise ParameterError(f"n_forks must be 'all' or at least 1, not {n_forks!r}")
        if t_min < 1:
            raise ParameterError(f"t_min must be at least 1, not {t_min}")
        self.spec, self.n_forks, self.context = spec, n_forks, max(context, warmup + 2)
        self.warmup, self.t_min, self.draw = warmup, t_min, draw
        self.first_origin, self.unknown_rate = first_origin, unknown_rate
        reader = SequenceReader(panel, spec, profiles)
        usable = panel.lengths - 1 - reader.first_observed
        self.rows = np.flatnonzero(usable >= t_min)
        if self.rows.size == 0:
            raise DataError(
                f"no series is long enough to train on: {t_min} observed values and one period "
                "after them are needed",
                series=str(panel.ids[0]) if len(panel) else None,
            )
        self.reader, self.panel = reader, panel
        forks = usable[self.rows] - t_min + 1
        # Series with more forecast dates come more often, so that every date counts the same.
        self.sampling_weights = forks.astype(float) if np.ptp(forks) > 0 else None

    def __len__(self) -> int:
        """Number of series with a usable fork."""
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Identifies data and settings, for resuming."""
        digest = hashlib.sha256(repr(self.spec.to_dict()).encode())
        settings = (self.n_forks, self.context, self.warmup, self.t_min, self.draw,
                    self.first_origin, self.unknown_rate, len(self.rows))  # fmt: skip
        digest.update(repr(settings).encode())
        for i in self.rows[:: max(1, len(self.rows) // 1000)]:
            digest.update(np.ascontiguousarray(self.panel.series(int(i))).tobytes())
        return digest.hexdigest()

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        """Examples ``(B,)``: the tensors of :meth:`SequenceReader.read` and ``weight (B,)``.

        ``weight`` is the number of observed targets, so that the weighted mean of the scores is
        the mean over all cells of the batch.
        """
        rows = self.rows[np.asarray(indices, np.int64)]
        reader, panel = self.reader, self.panel
        first, ends = reader.first_observed[rows], panel.lengths[rows]
        room = ends - first
        cut = room > self.context
        if self.first_origin is None:
            offset = rng.integers(0, np.maximum(room - self.context, 0) + 1)
        else:
            offset = np.maximum(room - self.context, 0)
        begins = np.where(cut, first + offset, first)
        length = int(np.minimum(room, self.context).max())
        seen = ~np.isnan(panel.windows(rows, begins + length, length))
        steps = begins[:, None] + np.arange(length)
        # No fork on the very last step: it has no target.
        usable = (np.cumsum(seen, axis=1) >= self.t_min) & (steps < ends[:, None] - 1)
        usable &= (np.arange(length) >= self.warmup) | (begins == first)[:, None]
        if self.first_origin is not None:
            usable &= steps >= (ends - 1 - self.first_origin)[:, None]
        count = length if self.n_forks == "all" else min(int(self.n_forks), length)
        if self.n_forks == "all":
            forks = np.where(usable, np.arange(length), -1)
        else:
            forks = draw_forks(usable, count, self.draw, rng)
        batch = reader.read(rows, begins, forks, length)
        batch["observed"] = batch["observed"] & (batch["forks"] >= 0)[:, :, None]
        batch["weight"] = batch["observed"].sum((1, 2)).float()
        codes = batch["static_categorical"]
        if self.unknown_rate and codes.shape[1]:
            hidden = rng.random(tuple(codes.shape)) < self.unknown_rate
            codes[hidden] = 0
        return batch
