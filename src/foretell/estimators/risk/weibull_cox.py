"""The linear Weibull-Cox model as scikit-learn users know it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foretell.estimators.risk.survival import SurvivalRisk
from foretell.learners.risk.stream import Memory
from foretell.learners.risk.weibull import LinearWeibullLearner, SurvivalLearner


class WeibullCox(SurvivalRisk):
    """Linear Weibull-Cox model: log hazard ratios that add up over the features of an hour.

    Args:
        features: see :class:`DeepAISE`, as all that follow.
        horizon: hours ahead at which times are censored.
        score_horizon: hours ahead of which ``predict_proba`` speaks.
        n_knots: quantiles of the piecewise-linear encoding; 0 for a strictly linear model.
        encoded: features, or blocks of them, that are also given encoded.
        well_per_septic: non-septic stays kept for each septic one.
        stays: stays in a batch.
        epochs: passes over the stays.
        max_steps: steps of the optimizer.
        learning_rate: the highest of the one-cycle schedule.
        weight_decay: on matrices.
        validation_size: share of patients held out.
        validate_every: steps between validations.
        patience: validations without gain.
        random_state: of everything that is random.
        threads: of torch on a CPU.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
    """

    def __init__(
        self,
        features: str = "p19-v1",
        *,
        horizon: float = 12,
        score_horizon: float = 4,
        n_knots: int = 0,
        encoded: Sequence[str] = (),
        well_per_septic: float | None = 5.0,
        stays: int = 128,
        epochs: float = 6,
        max_steps: int | None = None,
        learning_rate: float = 1e-2,
        weight_decay: float = 0.1,
        validation_size: float = 0.1,
        validate_every: int | None = None,
        patience: int | None = None,
        random_state: int = 0,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        self.features = features
        self.horizon = horizon
        self.score_horizon = score_horizon
        self.n_knots = n_knots
        self.encoded = encoded
        self.well_per_septic = well_per_septic
        self.stays = stays
        self.epochs = epochs
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_size = validation_size
        self.validate_every = validate_every
        self.patience = patience
        self.random_state = random_state
        self.threads = threads
        self.device = device

    @property
    def coef_(self) -> NDArray[np.float64]:
        """(E,) log hazard ratio of one standard deviation of each input."""
        self._require_fit()
        return self.learner_.head.weight.detach()[0].double().numpy()

    def _learner(self, inputs: int, rate: float) -> SurvivalLearner:
        return LinearWeibullLearner(inputs, rate=rate)

    def _step(self, x: Tensor, state: Memory) -> tuple[float, Memory]:
        return float(self.learner_.decode(x[:, None], {}).predictor[0, 0]), {}
