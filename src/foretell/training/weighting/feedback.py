"""Strategies that learn from labels which may still change.

A row's loss under any of these methods is ``sum_k m_k * -log f_k(x)``: masses ``m_k`` on the
labels it may end with. A method that only weighs has one mass a row, on the label observed; a
method of soft labels has several, and its rows enter a step once for each label. Masses come from
the learner's own prediction, without gradient, and from what auxiliary models predicted for the
rows, which stands in the batch:

============================  ======================================================================
``label``                     (B,) int64 label the row carries
``copied``                    (B,) 1 where the row repeats an entity after its label rose
``second``                    (B,) 1 where the row is an entity's second emission (DEFER, DDFM)
``survival``                  (B, J) chance that an entity that goes beyond label j shows it first
``delayed_positive``          (B,) p_dp of an auxiliary net; without it, own prediction x survival
``real_negative``             (B,) p_rn of an auxiliary net; without it, from the two above
``positive``                  (B,) p of an auxiliary net; without it, own prediction
============================  ======================================================================
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Batch
from foretell.training.context import Context
from foretell.training.strategy import Strategy
from foretell.training.weighting import exact, published
from foretell.training.weighting.exact import EPSILON, clip_probability

Form = Literal["exact", "published"]


class Belief(NamedTuple):
    """What is believed of each row of a binary problem: all ``(B,)``.

    Attributes:
        p: ``P(Y = 1 | x)``.
        delayed: ``P(Y = 1, D > e | x)``.
        real: ``P(Y = 0 | unconverted by e, x)``.
    """

    p: Tensor
    delayed: Tensor
    real: Tensor


class FeedbackWeighting(Strategy):
    """Base: masses on the labels a row may end with; sub-classes say which.

    Args:
        weights: ``exact``, or ``published`` for the weights of the papers.
        clip: largest mass.
        floor: least weight of a row on the label it carries, so that a step in which every row
            is bound to change its label still has a gradient.

    Attributes:
        soft: whether rows carry mass on other labels than their own.
        rows: rows weighed since :meth:`reset`.
        total: their summed weights.
        squares: their summed squared weights.
    """

    soft = False

    def __init__(self, weights: Form = "exact", *, clip: float = 10.0, floor: float = 1e-3) -> None:
        if weights not in ("exact", "published"):
            raise ParameterError(f"weights must be 'exact' or 'published', not {weights!r}")
        if not 0 <= floor < clip:
            raise ParameterError(f"0 <= floor < clip must hold, not floor {floor}, clip {clip}")
        self.weights: Form = weights
        self.clip, self.floor = float(clip), float(floor)
        self.reset()

    def reset(self) -> None:
        """Starts the count of the effective sample size afresh."""
        self.rows, self.total, self.squares = 0, 0.0, 0.0

    @property
    def effective_share(self) -> float:
        """Effective sample size over the number of rows; 1 when all weigh the same."""
        if not self.rows or not self.squares:
            return 1.0
        return self.total**2 / self.squares / self.rows

    @abstractmethod
    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """Masses ``(B, K)`` given the learner's detached probabilities ``(B, K)``.

        ``batch["label"]`` is the label each row carries.
        """

    def row_masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """:meth:`masses`, clipped: ``(B, K)``."""
        masses = self.masses(clip_probability(probabilities), batch).clamp(0.0, self.clip)
        own = batch["label"][:, None]
        least = masses.gather(1, own).clamp(min=self.floor)
        return masses.scatter(1, own, least)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        """Repeats the rows of soft labels, once for each label; the one it carries is kept."""
        if not self.soft:
            return batch
        labels = int(getattr(context.learner, "labels", 2))
        copies = {
            key: value.repeat(labels, *[1] * (value.ndim - 1)) for key, value in batch.items()
        }
        copies["observed"] = copies["label"]
        rows = len(batch["label"])
        copies["label"] = torch.arange(labels, device=copies["label"].device).repeat_interleave(
            rows
        )
        return copies

    def weigh(self, scores: Tensor, batch: Batch, context: Context) -> Tensor:
        """The mass on each row's label ``(B,)``."""
        label = batch["label"]
        seen = batch if "observed" not in batch else {**batch, "label": batch["observed"]}
        probabilities = context.output.log_probabilities.detach().exp()
        masses = self.row_masses(probabilities, seen)
        weights = masses.gather(1, label[:, None])[:, 0]
        rows = len(weights)
        if self.soft:  # the first copies stand for the rows
            rows //= masses.shape[1]
            masses = masses[:rows].sum(1)
        else:
            masses = weights
        self.rows += rows
        self.total += float(masses.sum())
        self.squares += float((masses * masses).sum())
        return weights

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters."""
        return {"weights": self.weights, "clip": self.clip, "floor": self.floor}


def belief(probabilities: Tensor, batch: Batch) -> Belief:
    """What auxiliary nets say where there are any, else the learner's own with the survival.

    Raises:
        TrainingError: neither is in the batch.
    """
    p = clip_probability(batch["positive"]) if "positive" in batch else probabilities[:, 1]
    if "delayed_positive" in batch:
        delayed = clip_probability(batch["delayed_positive"])
    elif "survival" in batch:
        delayed = p * batch["survival"][:, 0].clamp(0.0, 1.0)
    else:
        raise TrainingError(
            "rows of delayed feedback need the key 'survival' (chance that a conversion comes "
            f"after the waiting time) or 'delayed_positive'; the batch has {sorted(batch)}"
        )
    if "positive" in batch:  # two nets need not agree
        delayed = torch.minimum(delayed, p * (1 - EPSILON))
    real = batch.get("real_negative")
    real = exact.real_negative(p, delayed) if real is None else clip_probability(real)
    return Belief(p, delayed, real)


def _hard(label: Tensor, weights: Tensor) -> Tensor:
    """Masses ``(B, 2)`` of rows that weigh on the label they carry only."""
    return torch.stack([(1 - label) * weights, label * weights], 1)


class FakeNegativeWeighting(FeedbackWeighting):
    """FNW (Ktena et al. 2019): rows are negatives at once and are copied on conversion."""

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """``(1, 1 - p)`` exact, ``(1 + p, (1 - p)(1 + p))`` published; p is the learner's own."""
        label = batch["label"].to(probabilities.dtype)
        form = exact.fnw if self.weights == "exact" else published.fnw
        return _hard(label, form(label, probabilities[:, 1]))


class ElapsedTimeSampling(FeedbackWeighting):
    """ES-DFM (Yang et al. 2021): labels after a waiting time, positive copies of late ones."""

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """``(1, p_rn)`` exact, both times ``1 + p_dp`` published."""
        label = batch["label"].to(probabilities.dtype)
        what = belief(probabilities, batch)
        if self.weights == "exact":
            return _hard(label, exact.esdfm(label, what.real))
        return _hard(label, published.esdfm(label, what.real, what.delayed))


class RealNegativeDuplicates(FeedbackWeighting):
    """DEFER (Gu et al. 2021): every entity again, with its final label."""

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """The same in both forms."""
        label = batch["label"].to(probabilities.dtype)
        what = belief(probabilities, batch)
        return _hard(label, exact.defer(label, what.p, what.delayed))


class FakeNegativeLabels(FeedbackWeighting):
    """DEFUSE (Chen et al. 2022): rows of ES-DFM, four kinds of them with their own weights."""

    soft = True

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """Published, or divided by ``1 + p_dp``."""
        label = batch["label"].to(probabilities.dtype)
        what = belief(probabilities, batch)
        form = exact.defuse if self.weights == "exact" else published.defuse
        copied = batch["copied"].to(label.dtype)
        positive, negative = form(label, copied, what.real, what.delayed)
        return torch.stack([negative, positive], 1)


class BiFakeNegativeLabels(FeedbackWeighting):
    """Bi-DEFUSE (Chen et al. 2022): two heads, conversions in the waiting time and after it.

    The learner's four columns are no and yes of the first head, no and yes of the second. The
    first is trained on first emissions without weights, the second with DEFUSE's, the latent
    share of fake negatives being its own prediction.
    """

    soft = True

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """``(B, 4)``."""
        label = batch["label"].to(probabilities.dtype)
        copied = batch["copied"].to(label.dtype)
        after, within = probabilities[:, 3], probabilities[:, 1]
        fake = (after / (1 - within)).clamp(0.0, 1.0)
        delayed = (
            clip_probability(batch["delayed_positive"]) if "delayed_positive" in batch else after
        )
        positive, negative = published.bidefuse_after(label, copied, fake, delayed)
        if self.weights == "exact":
            positive, negative = positive / (1 + delayed), negative / (1 + delayed)
        first = 1 - copied
        return torch.stack([first * (1 - label), first * label, negative, positive], 1)

    def row_masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """Clipped; a row's label is no column here, so that there is no floor."""
        return self.masses(clip_probability(probabilities), batch).clamp(0.0, self.clip)


class UnbiasedLabelCorrection(FeedbackWeighting):
    """ULC (Wang et al. 2023): one row an entity, unconverted ones with a soft label."""

    soft = True

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """The same in both forms: one row an entity tilts nothing."""
        label = batch["label"].to(probabilities.dtype)
        positive, negative = published.ulc(label, belief(probabilities, batch).real)
        return torch.stack([negative, positive], 1)


class DuallyEnhancedLabels(FeedbackWeighting):
    """DDFM (Dai et al. 2023): unconverted rows again with their final labels, both soft."""

    soft = True

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """Published, or divided by the mass of an entity's rows, ``2 - p + p_dp``."""
        label = batch["label"].to(probabilities.dtype)
        what = belief(probabilities, batch)
        form = exact.ddfm if self.weights == "exact" else published.ddfm
        second = batch["second"].to(label.dtype)
        positive, negative = form(label, second, what.real, what.p, what.delayed)
        return torch.stack([negative, positive], 1)


class FunnelWeighting(FeedbackWeighting):
    """Labels none, engaged, converted: a row counts as much as its label is likely to stay.

    With auxiliary finality classifiers, the batch holds ``finality`` ``(B, J)``, the chance that
    each changeable label is final; otherwise the learner's own probabilities and ``survival``
    ``(B, J)`` give it (self-consistent).
    """

    def masses(self, probabilities: Tensor, batch: Batch) -> Tensor:
        """``(B, K)``; there is no published form."""
        label = batch["label"]
        if "finality" in batch:
            final = batch["finality"].clamp(EPSILON, 1.0)
            stays = final.new_ones(len(final), probabilities.shape[1] - final.shape[1])
            final = torch.cat([final, stays], 1)
        else:
            final = exact.finality(probabilities, batch["survival"].clamp(0.0, 1.0))
        rows = torch.zeros_like(probabilities)
        return rows.scatter(1, label[:, None], final.gather(1, label[:, None]))
