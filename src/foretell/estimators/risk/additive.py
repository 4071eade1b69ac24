"""A neural additive model of the risk of an hour whose channels fade with their age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.errors import ParameterError
from foretell.estimators.risk.hourly_net import HourlyNet
from foretell.learners.risk.additive import AdditiveRiskLearner, AdditiveShape, Fading
from foretell.learners.risk.attributions import METHODS, Method
from foretell.learners.risk.examples import require_finite
from foretell.training import use_threads


class AdditiveRisk(HourlyNet[AdditiveRiskLearner]):
    """Risk of the onset within the next hours, as a sum of what each feature says, faded by age.

    Every feature has a small net of its own (a neural additive model, Agarwal et al., NeurIPS
    2021) that says 0 in the mean of the training hours. What a channel says is weighed by the hours
    since it was measured, after COMPOSER (Shashikumar et al., npj Digital Medicine 4:134, 2021), so
    that by construction the risk moves towards the mean of the population in this channel, and
    never away, while the channel grows old and all else stays as it is.
    :mod:`foretell.learners.risk.additive` has the proof, and what holds when all grow old at once.

    Hours since measurements, counts of them and whether there were any are not given to the net.
    Batches, the correction of the log-odds and stopping are those of
    :class:`~foretell.estimators.FeedForwardRisk`.

    Args:
        features: name of the features; ``last`` and ``since`` must be among their blocks.
        horizon: hours ahead within which the onset counts.
        fading: ``"exponential"``: ``exp(-a t)`` with one learned rate: monotone when one channel
            grows old, and when all do together; not for features with ratios. ``"sigmoid"``: each
            channel at its own rate, ``2 (1 - sigmoid(a_c t))`` as published: monotone when one
            channel grows old.
        hidden: units of the layers of each feature's net.
        dropout: share of contributions that are dropped in training.
        negatives: hours without onset in a batch.
        positives: hours with one.
        unit: see :class:`~foretell.estimators.FeedForwardRisk`, as for all that follows.
        stays: stays in a batch where ``unit`` is ``"stay"``.
        epochs: passes over the negative hours, or over the stays; ``max_steps`` when given.
        max_steps: steps of the optimizer.
        learning_rate: the highest of the schedule.
        weight_decay: on matrices.
        schedule: of the learning rate, by name.
        validation_size: share of patients held out to stop by where no validation part is given.
        validate_every: steps between validations; None for half a pass.
        patience: validations without a better AUROC after which training stops.
        random_state: of everything that is random.
        threads: of torch on a CPU; None for the physical cores this process may use.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.

    Attributes:
        features_: the fitted feature builder.
        learner_: the net.
        offset_: what is added to its log-odds for the rate of the training part.
        privacy_: the statement of private training, or None.

    Example:
        >>> model = AdditiveRisk().fit(train, validation=validation)  # doctest: +SKIP
        >>> model.contributions(test).sum(axis=1)  # doctest: +SKIP
    """

    def __init__(
        self,
        features: str = "p19-v1",
        *,
        horizon: float = 4,
        fading: Fading = "exponential",
        hidden: Sequence[int] = (16,),
        dropout: float = 0.0,
        negatives: int = 512,
        positives: int = 64,
        unit: Literal["row", "stay"] = "row",
        stays: int = 64,
        epochs: float = 4,
        max_steps: int | None = None,
        learning_rate: float = 3e-2,
        weight_decay: float = 0.1,
        schedule: str = "one_cycle",
        validation_size: float = 0.1,
        validate_every: int | None = None,
        patience: int | None = 6,
        random_state: int = 0,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        self.features = features
        self.horizon = horizon
        self.fading = fading
        self.hidden = hidden
        self.dropout = dropout
        self.negatives = negatives
        self.positives = positives
        self.unit = unit
        self.stays = stays
        self.epochs = epochs
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.validation_size = validation_size
        self.validate_every = validate_every
        self.patience = patience
        self.random_state = random_state
        self.threads = threads
        self.device = device

    def represent(
        self, X: Stays | ArrayLike, *, layer: Literal["first", "last"] = "last"
    ) -> NDArray[np.float32]:
        """(R, T) contributions of every hour, the only layer: of ``learner_.columns``.

        Args:
            X: stays, or scaled features.
            layer: either name.

        Raises:
            DataError: a feature is not finite.
        """
        self._require_fit()
        X = self._builder().transform(X) if isinstance(X, Stays) else np.asarray(X, np.float32)
        require_finite(X)
        with use_threads(self.threads):
            return self._terms(self.learner_, X)

    def contributions(
        self,
        stays: Stays,
        rows: ArrayLike | None = None,
        *,
        method: Method = "integrated_gradients",
    ) -> NDArray[np.float64]:
        """(R, F) by how much each feature moves the log-odds, away from the population's mean.

        Exact, whatever the method is called: the sum is the difference of the log-odds to what they
        are in the mean of the population. Features that are not given to the net have 0.

        Args:
            stays: any.
            rows: (R,) mask or ascending numbers of the hours that are explained.
            method: any of those of the other nets.
        """
        self._require_fit()
        if method not in METHODS:
            raise ParameterError(f"method must be one of {METHODS}, not {method!r}")
        features = self._builder().transform(stays, rows)
        found = np.zeros(features.shape)
        with use_threads(self.threads):
            found[:, list(self.learner_.columns)] = self._terms(self.learner_, features)
        return found

    def _terms(
        self, learner: AdditiveRiskLearner, features: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return self._told(learner, features, learner.encode)

    def _logits(
        self, learner: AdditiveRiskLearner, features: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        # Added up in double precision: what one channel loses must not drown in rounding others.
        terms = self._terms(learner, features)
        return np.asarray(terms.sum(axis=1, dtype=np.float64) + float(learner.bias.detach()))

    def _net(self, width: int) -> AdditiveRiskLearner:
        return AdditiveRiskLearner(self._shape(width))

    def _prepare(self, features: NDArray[np.float32]) -> None:
        self.learner_.meet(features)

    def _plain(self, width: int) -> AdditiveShape:
        return AdditiveShape(
            width, hidden=tuple(self.hidden), dropout=self.dropout, form=self.fading
        )

    def _shape(self, width: int) -> AdditiveShape:
        plain, builder = self._plain(width), self._builder()
        since = {
            channel: int(column)
            for channel in builder.schema.names
            for column in builder.columns(block="since", channel=channel)
        }
        unseen = [builder.columns(block=b) for b in ("since", "never", "count")]
        left_out = np.concatenate(unseen).tolist()
        ratios = builder.spec.ratios
        fading = []
        for i, name in enumerate(builder.names):
            channel, colon, _ = name.partition(":")
            if i in left_out or not (colon or name in ratios):
                continue
            of = (channel,) if colon else ratios[name]
            if any(c not in since for c in of):
                raise ParameterError(
                    f"{name} cannot fade: AdditiveRisk needs features with the block 'since'"
                )
            fading.append((i, tuple(since[c] for c in of)))
        return replace(plain, fading=tuple(fading), left_out=tuple(left_out))

    def _check(self) -> None:
        super()._check()
        self._plain(1)

    def _fits_a_matrix(self) -> None:
        raise ParameterError("AdditiveRisk needs stays, not a matrix: values fade by their hours")
