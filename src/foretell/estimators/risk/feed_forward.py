"""The feed-forward risk net as scikit-learn users know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.errors import ParameterError
from foretell.estimators.risk.hourly_net import HourlyNet
from foretell.learners.risk.attributions import (
    Method,
    by_feature,
    gradient_contributions,
)
from foretell.learners.risk.examples import encoded, require_finite
from foretell.learners.risk.feed_forward import FeedForwardRiskLearner, FeedForwardShape
from foretell.learners.risk.weighting import AgingColumns
from foretell.training import use_threads

TimeSince = Literal["feature", "weight", "drop"]


class FeedForwardRisk(HourlyNet[FeedForwardRiskLearner]):
    """Risk of the onset within the next hours, from the features of each hour.

    Every feature is given as it is and in a piecewise-linear encoding (Gorishniy, Rubachev and
    Babenko, NeurIPS 2022). Batches hold ``negatives`` and ``positives`` hours in the mean, drawn
    with replacement; the log-odds are corrected for it afterwards, so that predictions are
    probabilities at the rate of the training part. Training ends with the weights that rank hours
    of held-out patients best (AUROC).

    Args:
        features: name of the features; see :class:`~foretell.data.clinical.FeatureSpec`.
        horizon: hours ahead within which the onset counts.
        hidden: units of the layers.
        dropout: share of units dropped.
        n_knots: quantiles of the piecewise-linear encoding; 0 for none.
        time_since: what is made of the hours since each measurement: ``"feature"`` gives them to
            the net, ``"weight"`` lets values fade with them instead (COMPOSER's weighting module),
            ``"drop"`` does neither. The last two need ``n_knots=0`` and stays.
        negatives: hours without onset in a batch.
        positives: hours with one.
        unit: ``"row"``: an example is an hour; ``"stay"``: an example is a stay with the mean loss
            of its hours, for training that is private for stays. Then a batch holds ``stays``
            stays, and classes are not balanced.
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
        features_: the fitted feature builder; None after training on a matrix.
        encoder_: the fitted encoder, or None.
        learner_: the net.
        offset_: what is added to its log-odds for the rate of the training part.
        privacy_: the statement of private training, or None.

    Example:
        >>> model = FeedForwardRisk().fit(train, validation=validation)  # doctest: +SKIP
        >>> risk = model.predict_proba(test)[:, 1]  # doctest: +SKIP
        >>> live = model.stream(age=63, sex="male", unit="MICU")  # doctest: +SKIP
        >>> live.step(row)  # doctest: +SKIP
    """

    def __init__(
        self,
        features: str = "p19-v1",
        *,
        horizon: float = 4,
        hidden: Sequence[int] = (512, 64),
        dropout: float = 0.3,
        n_knots: int = 7,
        time_since: TimeSince = "feature",
        negatives: int = 512,
        positives: int = 32,
        unit: Literal["row", "stay"] = "row",
        stays: int = 64,
        epochs: float = 4,
        max_steps: int | None = None,
        learning_rate: float = 5e-4,
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
        self.hidden = hidden
        self.dropout = dropout
        self.n_knots = n_knots
        self.time_since = time_since
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
        self, X: Stays | ArrayLike, *, layer: Literal["first", "last"] = "first"
    ) -> NDArray[np.float32]:
        """(R, D) a hidden layer of every hour.

        Args:
            X: stays, or scaled features.
            layer: ``"first"``, which may be stored instead of the hours, or ``"last"``, which the
                log-odds are read from.

        Raises:
            DataError: a feature is not finite.
        """
        self._require_fit()
        X = self._builder().transform(X) if isinstance(X, Stays) else np.asarray(X, np.float32)
        require_finite(X)
        learner = self.learner_
        shown = learner.last_hidden if layer == "last" else learner.encode
        with use_threads(self.threads):
            return self._told(learner, X, shown)

    def contributions(
        self,
        stays: Stays,
        rows: ArrayLike | None = None,
        *,
        method: Method = "integrated_gradients",
    ) -> NDArray[np.float64]:
        """(R, F) by how much each feature moves the log-odds, away from the mean hour.

        That is the builder's ``reference()``, with flags and hours since at their means, too: to
        lack a test that nearly nobody has moves nearly nothing.

        Args:
            stays: any.
            rows: (R,) mask or ascending numbers of the hours that are explained.
            method: see :func:`~foretell.learners.risk.attributions.gradient_contributions`.
        """
        self._require_fit()
        features = self._builder().transform(stays, rows)
        size = features.shape[1]
        owners = np.arange(size)
        baseline = encoded(self._builder().reference()[None], self.encoder_)
        if self.encoder_ is not None:
            owners = self.encoder_owners()
        device = next(self.learner_.parameters()).device
        parts = [np.zeros((0, size))]
        with use_threads(self.threads):
            for at in range(0, len(features), 512):
                x = encoded(features[at : at + 512], self.encoder_).to(device)
                found = gradient_contributions(
                    lambda x: self.learner_({"x": x}).logit, x, baseline.to(device), method=method
                )
                parts.append(by_feature(found.cpu().numpy(), owners, size))
        return np.concatenate(parts)

    def encoder_owners(self) -> NDArray[np.int64]:
        """(E,) the feature that each input of the net is made of."""
        knots = [] if self.encoder_ is None or self.encoder_.knots is None else self.encoder_.knots
        bins = [max(len(k) - 1, 0) for k in knots]
        return np.concatenate(
            [np.arange(self.n_features_in_), np.repeat(np.arange(len(bins)), bins)]
        )

    def _shape(self, width: int) -> FeedForwardShape:
        return FeedForwardShape(width, tuple(self.hidden), self.dropout, self._aging())

    def _aging(self) -> AgingColumns | None:
        """Which inputs are weighed by their age, or not seen."""
        how = self.time_since
        if how == "feature" or getattr(self, "features_", None) is None:
            return None
        builder = self._builder()
        hours, never = builder.columns(block="since"), builder.columns(block="never")
        last = builder.columns(block="last")
        if len(last) != len(hours):
            raise ParameterError(
                f"time_since={how!r} needs features with the blocks 'last' and 'since'"
            )
        pairs = zip(last.tolist(), hours.tolist(), strict=True) if how == "weight" else ()
        return AgingColumns(tuple(pairs), (*hours.tolist(), *never.tolist()))

    def _check(self) -> None:
        super()._check()
        if self.n_knots != 0 and self.n_knots < 2:
            raise ParameterError(f"n_knots must be 0 or at least 2, not {self.n_knots}")
        how = self.time_since
        if how not in ("feature", "weight", "drop"):
            raise ParameterError(f"time_since is 'feature', 'weight' or 'drop', not {how!r}")
        if how != "feature" and self.n_knots:
            raise ParameterError(f"time_since={how!r} needs n_knots=0, not {self.n_knots}")
        self._shape(1)

    def _fits_a_matrix(self) -> None:
        if self.time_since != "feature":
            raise ParameterError(f"time_since={self.time_since!r} needs stays, not a matrix")

    def _net(self, width: int) -> FeedForwardRiskLearner:
        return FeedForwardRiskLearner(self._shape(width))
