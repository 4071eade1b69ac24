"""What is visible of each entity at one instant, and what would have been at an earlier age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from foretell.data.events import EventLog
from foretell.errors import ParameterError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

Stages = tuple[tuple[str, ...], ...]


def funnel_stages(engagement: str | Sequence[str | Sequence[str]]) -> Stages:
    """Engagement stages before the conversion, in order.

    Each is a tuple of kinds, any of which counts: ``"view"`` and ``("view", "tap")`` are one
    stage, ``(("view",), ("cart",))`` are two.
    """
    if isinstance(engagement, str):
        return ((engagement,),)
    parts = tuple(engagement)
    if all(isinstance(part, str) for part in parts):
        return (tuple(str(part) for part in parts),) if parts else ()
    return tuple((part,) if isinstance(part, str) else tuple(part) for part in parts)


@dataclass(frozen=True, eq=False)
class SnapshotView:
    """n entities as they are seen after waiting ``age`` for each of them.

    Args:
        X: features (n, d).
        reach: delays (S, n) at which each stage of the funnel was reached, +inf if never within
            the window; the last row is the conversion. Reaching a later stage implies the
            earlier ones, so that rows never decrease from one stage to the next.
        age: how long (n,) each entity has been waited for.
        windows: attribution window (n,) of each entity.
        scale: window of the log, by which ages are divided.
        revoked: delay (n,) at which a conversion was taken back, +inf if never; None where labels
            only rise.
    """

    X: FloatArray
    reach: FloatArray
    age: FloatArray
    windows: FloatArray
    scale: float
    revoked: FloatArray | None = None

    @classmethod
    def of(cls, log: EventLog, stages: Stages = ()) -> SnapshotView:
        """The entities of a log at its ``now``, which for a complete log is after every window.

        Raises:
            ParameterError: a stage names a kind that the log does not have.
        """
        delays = []
        for kinds in stages:
            waited = log.engagement_times(kinds) - log.times
            delays.append(np.minimum(waited, np.where(np.isinf(waited), np.inf, log.windows)))
        revoked = None
        if log.revocation is None:
            delays.append(log.delay())
        else:
            delays.append(replace(log, revocation=None).delay())
            taken = log.revocation_times() - log.times
            revoked = np.minimum(taken, np.where(np.isinf(taken), np.inf, log.windows))
        reach = np.stack(delays)
        # A conversion whose engagement was not recorded has engaged all the same.
        reach = np.minimum.accumulate(reach[::-1], axis=0)[::-1]
        # Where the window is over, rounding of now - t must not leave a moment of it.
        age = np.where(log.matured, log.windows, log.age())
        return cls(log.matrix(), reach, age, log.windows, log.window, revoked)

    def __len__(self) -> int:
        return len(self.age)

    def select(self, rows: NDArray) -> SnapshotView:
        """The entities at positions (m,), which may repeat, or under a mask (n,)."""
        return replace(
            self,
            X=self.X[rows],
            reach=self.reach[:, rows],
            age=self.age[rows],
            windows=self.windows[rows],
            revoked=None if self.revoked is None else self.revoked[rows],
        )

    def conversions(self) -> SnapshotView:
        """The same entities without their engagement."""
        return replace(self, reach=self.reach[-1:])

    def aged(self, age: FloatArray) -> SnapshotView:
        """The same entities as they were at an earlier age (n,); their final labels stay."""
        if np.any(age > self.age):
            raise ParameterError("an entity cannot be seen at an age that it has not reached")
        return replace(self, age=age)

    @property
    def matured(self) -> BoolArray:
        """Whether (n,) the window is over, so that the label is final."""
        return self.age >= self.windows

    @cached_property
    def visible(self) -> BoolArray:
        """Whether (n,) a conversion that has not been taken back is seen at this age."""
        seen = self.reach[-1] <= self.age
        return seen if self.revoked is None else seen & (self.revoked > self.age)

    @cached_property
    def final(self) -> BoolArray:
        """Whether (n,) a conversion stands at the end; true labels only of matured entities."""
        seen = np.isfinite(self.reach[-1])
        return seen if self.revoked is None else seen & np.isinf(self.revoked)

    def reached(self, stage: int) -> BoolArray:
        """Whether (n,) a stage is seen at this age; stage -1 is being exposed."""
        return np.ones(len(self), bool) if stage < 0 else self.reach[stage] <= self.age

    def ever(self, stage: int) -> BoolArray:
        """Whether (n,) a stage is reached within the window; stage -1 is being exposed."""
        return np.ones(len(self), bool) if stage < 0 else np.isfinite(self.reach[stage])

    def clock(self) -> FloatArray:
        """What auxiliary models know of time (n, 2): age in windows of the log, share waited."""
        share = self.age / np.maximum(self.windows, np.finfo(float).tiny)
        return np.column_stack([self.age / self.scale, np.minimum(share, 1.0)])

    def engagement(self) -> FloatArray:
        """Time (n, S - 1) since each engagement stage was seen, in windows; -1 if not yet."""
        since = np.where(self.reach[:-1] <= self.age, (self.age - self.reach[:-1]), -self.scale)
        return since.T / self.scale


def draw_ages(
    history: SnapshotView, targets: SnapshotView, replicates: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], FloatArray]:
    """Ages at which matured entities are looked at again: those of the entities to correct.

    An auxiliary model is asked about rows ``(x, age)`` of the snapshot, so it learns at such ages.
    Each matured entity borrows the age of a target whose window is about as long as its own; where
    that is beyond its window, the same share of the window is taken.

    Returns:
        Rows (m,) of ``history``, each up to ``replicates`` times, and their ages (m,).
    """
    waiting = np.flatnonzero(~targets.matured)
    if len(waiting) == 0 or len(history) == 0:
        return np.zeros(0, np.int64), np.zeros(0)
    order = waiting[np.argsort(targets.windows[waiting], kind="stable")]
    windows, ages = targets.windows[order], targets.age[order]
    near = max(25, len(order) // 40)
    if len(np.unique(ages)) == 1:
        replicates = 1
    rows = np.repeat(np.arange(len(history)), replicates)
    low = np.maximum(np.searchsorted(windows, history.windows[rows], "left") - near, 0)
    high = np.minimum(np.searchsorted(windows, history.windows[rows], "right") + near, len(order))
    lender = low + np.floor(rng.random(len(rows)) * (high - low)).astype(np.int64)
    own = history.windows[rows]
    drawn = np.where(ages[lender] < own, ages[lender], ages[lender] / windows[lender] * own)
    kept = drawn < own
    return rows[kept], drawn[kept]
