"""Feedback shift importance weighting with elapsed time (Yasui et al. 2020).

Yasui, Morishita, Fujita & Shibata, "A feedback shift correction in predicting conversion rates
under delayed feedback", WWW 2020. Two auxiliary probabilities are functions of the features *and*
of the time elapsed since the entity: that a conversion has been seen by then, and that a row
without one is a real negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.errors import ParameterError
from foretell.learners.contract import Batch
from foretell.training.weighting.exact import clip_probability
from foretell.training.weighting.feedback import FeedbackWeighting

LEAST_OBSERVED = 0.05
"""Least probability of having been seen that is divided by."""


class ShiftTargets(NamedTuple):
    """Training sets of the two auxiliary nets, as rows of the entities given.

    Attributes:
        rows: ``(M,)`` entity of each artificial observation.
        elapsed: ``(M,)`` its age, in windows.
        positive: ``(M,)`` whether the entity converted at all.
        seen: ``(M,)`` whether its conversion had been seen by that age. The first net learns
            ``seen`` among ``positive`` rows, the second ``~positive`` among rows not ``seen``.
    """

    rows: NDArray[np.int64]
    elapsed: NDArray[np.float64]
    positive: NDArray[np.bool_]
    seen: NDArray[np.bool_]


def shift_targets(
    times: NDArray[np.float64],
    delay: NDArray[np.float64],
    window: float,
    now: float,
    *,
    deadline: float | None = None,
    draws: int = 3,
    ages: tuple[float, ...] = (),
    seed: int = 0,
) -> ShiftTargets:
    """Artificial observations whose outcome is known at ``now``.

    Only entities with ``time + window <= now`` are used: their labels are final. The paper looks
    back from one counterfactual deadline for all entities and takes what is known at ``now`` as
    final; then the age of an entity is a function of its time, and drift is mistaken for delay.
    Without a ``deadline`` each entity is seen at ages of its own instead.

    Args:
        times: ``(n,)`` when entities arrived.
        delay: ``(n,)`` delays of their conversions, inf for none, in the same unit.
        window: attribution window.
        now: the time until which outcomes are known.
        deadline: the paper's counterfactual deadline: how long before ``now`` the rows are looked
            at. Not shorter than the window, else labels would not be final.
        draws: ages drawn uniformly from (0, window) for each entity, without a deadline.
        ages: fixed ages, in the unit of time, at which each entity is seen as well.
        seed: of the ages.

    Raises:
        ParameterError: a deadline shorter than the window.
    """
    if deadline is not None and deadline < window:
        raise ParameterError(
            f"the counterfactual deadline {deadline} is shorter than the attribution window "
            f"{window}: labels younger than the window are not final"
        )
    rows = np.flatnonzero(times + window <= now)
    if deadline is not None:
        rows = rows[times[rows] <= now - deadline]
        elapsed = np.minimum(now - deadline - times[rows], window)
    else:
        rng = np.random.default_rng(seed)
        drawn = rng.uniform(0, window, (draws, len(rows)))
        fixed = np.broadcast_to(np.asarray(ages, np.float64)[:, None], (len(ages), len(rows)))
        elapsed = np.concatenate([drawn, fixed]).ravel()
        rows = np.tile(rows, draws + len(ages))
    seen = delay[rows]
    return ShiftTargets(rows.astype(np.int64), elapsed / window, np.isfinite(seen), seen <= elapsed)


def shift_weights(
    label: Tensor, observed: Tensor, negative: Tensor, *, clip: float = LEAST_OBSERVED
) -> Tensor:
    """Importance weights ``(B,)`` of a snapshot's rows.

    Args:
        label: ``(B,)`` 1 where a conversion has been seen.
        observed: ``(B,)`` P(seen by this age | converts, x, age).
        negative: ``(B,)`` P(does not convert | not seen by this age, x, age).
        clip: least ``observed`` that is divided by: a weight is at most ``1 / clip``.

    Returns:
        ``1 / observed`` of positives, ``negative`` of the rest (equations 8 and 9 of the paper).
    """
    return label / observed.clamp(min=clip) + (1 - label) * negative


class FeedbackShiftWeighting(FeedbackWeighting):
    """FSIW on rows of any age.

    Batch keys: ``seen_by_age`` ``(B,)``, P(seen by this age | converts, x, age), and
    ``stays_negative`` ``(B,)``, P(does not convert | not seen by this age, x, age). Without the
    latter it follows from the former and the learner's own prediction:
    ``(1 - p) / (1 - p + p (1 - seen))``. Rows that are ``final`` ``(B,)`` weigh 1.
    """

    def __init__(self, *, clip: float = LEAST_OBSERVED) -> None:
        super().__init__(clip=1 / clip)
        self.least = clip

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """Both forms are one: a row an entity and age tilts nothing."""
        label = batch["label"].to(probabilities.dtype)
        seen = batch["seen_by_age"].clamp(0.0, 1.0)
        if "stays_negative" in batch:
            stays = batch["stays_negative"].clamp(0.0, 1.0)
        else:
            p = clip_probability(probabilities[:, 1])
            stays = (1 - p) / (1 - p * seen)
        if "final" in batch:
            seen, stays = (torch.where(batch["final"], 1.0, each) for each in (seen, stays))
        weights = shift_weights(label, seen, stays, clip=self.least)
        return torch.stack([(1 - label) * weights, label * weights], 1)
