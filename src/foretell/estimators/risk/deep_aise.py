"""DeepAISE as scikit-learn users know it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foretell.estimators.risk.survival import SurvivalRisk
from foretell.learners.risk.deep_aise import DeepAISELearner, DeepAISEShape
from foretell.learners.risk.stream import Memory
from foretell.learners.risk.weibull import SurvivalLearner


class DeepAISE(SurvivalRisk):
    """Recurrent Weibull-Cox model: risk from all hours of a stay so far.

    Args:
        features: name of the features; see :class:`~foretell.data.clinical.FeatureSpec`.
        hidden: units of the gated recurrent layers.
        layers: recurrent layers.
        dropout: share of units dropped.
        horizon: hours ahead at which times are censored.
        score_horizon: hours ahead of which ``predict_proba`` speaks.
        n_knots: quantiles of the piecewise-linear encoding.
        encoded: features, or blocks of them, that are also given encoded.
        well_per_septic: non-septic stays that are kept for each septic one, weighed to stand for
            all; None for all.
        stays: stays in a batch.
        epochs: passes over the stays; ``max_steps`` when given.
        max_steps: steps of the optimizer.
        learning_rate: the highest of the one-cycle schedule.
        weight_decay: on matrices.
        validation_size: share of patients held out to stop by where no validation part is given.
        validate_every: steps between validations; None for a pass.
        patience: validations without a better AUROC after which training stops.
        random_state: of everything that is random.
        threads: of torch on a CPU; None for the physical cores this process may use.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.

    Example:
        >>> model = DeepAISE().fit(train)  # doctest: +SKIP
        >>> model.predict_risk(test, horizons=[4, 8, 12])  # doctest: +SKIP
        >>> state = model.memory()  # doctest: +SKIP
        >>> state, risk = model.step(state, features)  # doctest: +SKIP
    """

    def __init__(
        self,
        features: str = "p19-v1",
        *,
        hidden: int = 64,
        layers: int = 1,
        dropout: float = 0.2,
        horizon: float = 12,
        score_horizon: float = 4,
        n_knots: int = 7,
        encoded: Sequence[str] = ("hour", "admission"),
        well_per_septic: float | None = 5.0,
        stays: int = 128,
        epochs: float = 12,
        max_steps: int | None = None,
        learning_rate: float = 5e-3,
        weight_decay: float = 0.1,
        validation_size: float = 0.1,
        validate_every: int | None = None,
        patience: int | None = None,
        random_state: int = 0,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        self.features = features
        self.hidden = hidden
        self.layers = layers
        self.dropout = dropout
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

    def memory(self) -> Memory:
        """The state of the recurrent layers before the first hour: ``{"state": (L, D)}``."""
        return {"state": np.zeros((self.layers, self.hidden), np.float32)}

    def _learner(self, inputs: int, rate: float) -> SurvivalLearner:
        return DeepAISELearner(DeepAISEShape(inputs, self.hidden, self.layers, self.dropout, rate))

    def _step(self, x: Tensor, state: Memory) -> tuple[float, Memory]:
        assert isinstance(self.learner_, DeepAISELearner)
        before = torch.from_numpy(np.asarray(state["state"], np.float32))[:, None]
        eta, after = self.learner_.advance(x, before)
        return float(eta[0]), {"state": after[:, 0].numpy()}
