"""Posterior networks as a classifier and an uncertainty provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from foretell.errors import ParameterError
from foretell.estimators.uncertainty.provider import (
    Uncertain,
    UncertainClassifier,
    beta_std,
)
from foretell.estimators.uncertainty.tabular import TabularClassifier
from foretell.learners.tabular.dirichlet import dirichlet_entropy
from foretell.learners.tabular.posterior_network import PosteriorNetwork
from foretell.learners.tabular.trunk import Trunk

MEASURES = ("negative_log_evidence", "differential_entropy", "std")


class PosteriorNetworkClassifier(TabularClassifier, UncertainClassifier):
    """Predicts a Beta distribution of the probability, from densities in a learned space.

    The score is the mean ``alpha_1 / (alpha_1 + alpha_0)``. The uncertainty is one of

    - ``negative_log_evidence``: ``-log(alpha_1 + alpha_0)``, monotone in the evidence;
    - ``differential_entropy`` of the Beta distribution in nats, the published choice; it depends
      on the score too, and is not monotone in the evidence where a concentration is below 1;
    - ``std``: the Beta distribution's standard deviation.

    See :class:`~foretell.learners.tabular.posterior_network.PosteriorNetwork` for the method, its
    papers and the criticism of it.

    Args:
        variant: ``per_class``, one flow for each class (PostNet), or ``single``, one flow (NatPN).
        uncertainty: ``negative_log_evidence``, ``differential_entropy`` or ``std``.
        latent_size: dimensions of the learned space.
        flow_layers: radial layers of a flow.
        entropy_weight: of the entropy in the loss.
        negative_sampling_rate: share of the negatives that was kept when the training rows were
            drawn; scores and evidence are for the population before that.
        hidden_sizes: see :class:`~foretell.estimators.uncertainty.tabular.TabularClassifier`, as
            for all others.
        epochs: passes over the training rows.
        min_steps: steps of the optimizer at least.
        batch_size: rows a step.
        learning_rate: the highest of the schedule, of Adam.
        weight_decay: on matrices.
        validation_fraction: share of the rows to choose the best weights on.
        patience: validations without a better score after which training stops.
        categorical_features: columns of codes.
        embedding_size: width of each embedding.
        random_state: seed.
        threads: of torch on a CPU.
        device: ``auto``, ``cpu``, ``cuda``.
    """

    def __init__(
        self,
        *,
        variant: str = "per_class",
        uncertainty: str = "negative_log_evidence",
        latent_size: int = 6,
        flow_layers: int = 8,
        entropy_weight: float = 1e-5,
        negative_sampling_rate: float = 1.0,
        hidden_sizes: Sequence[int] = (64, 64, 64),
        epochs: int = 20,
        min_steps: int = 300,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        categorical_features: Sequence[int | str] | None = None,
        embedding_size: int = 8,
        random_state: Any = None,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        super().__init__(
            hidden_sizes=hidden_sizes, epochs=epochs, min_steps=min_steps, batch_size=batch_size,
            learning_rate=learning_rate, weight_decay=weight_decay,
            validation_fraction=validation_fraction, patience=patience,
            categorical_features=categorical_features, embedding_size=embedding_size,
            random_state=random_state, threads=threads, device=device,
        )  # fmt: skip
        self.variant = variant
        self.uncertainty = uncertainty
        self.latent_size = latent_size
        self.flow_layers = flow_layers
        self.entropy_weight = entropy_weight
        self.negative_sampling_rate = negative_sampling_rate

    def _make_learner(self) -> PosteriorNetwork:
        if self.uncertainty not in MEASURES:
            raise ParameterError(
                f"uncertainty must be one of {', '.join(MEASURES)}, not {self.uncertainty!r}"
            )
        if not 0 < self.negative_sampling_rate <= 1:
            raise ParameterError(
                "negative_sampling_rate is the share of the negatives that was kept, in (0, 1], "
                f"not {self.negative_sampling_rate!r}"
            )
        learner = PosteriorNetwork(
            Trunk(**self._trunk_arguments()),
            self.class_weights_.tolist(),
            latent_size=self.latent_size,
            flow_layers=self.flow_layers,
            variant=self.variant,
            entropy_weight=self.entropy_weight,
        )
        learner.sampling_rates[0] = self.negative_sampling_rate
        return learner

    def _optimizer(self) -> str:
        return "adam"

    def concentration(self, X: Any) -> NDArray[np.float64]:
        """Concentrations ``(n, 2)`` of the Beta distributions, in the order of ``classes_``."""
        check_is_fitted(self)
        parts = self._run(
            X, lambda learner, batch: learner.population(learner.encode(batch)).concentration
        )
        return torch.cat(parts).double().numpy()

    def __call__(self, X: Any) -> Uncertain:
        """Score and uncertainty of each row."""
        alpha = self.concentration(X)
        total = alpha.sum(axis=1)
        score = alpha[:, 1] / total
        if self.uncertainty == "negative_log_evidence":
            return Uncertain(score, -np.log(total))
        if self.uncertainty == "std":
            return Uncertain(score, beta_std(alpha[:, 1], alpha[:, 0]))
        return Uncertain(score, dirichlet_entropy(torch.from_numpy(alpha)).numpy())

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``(n, 2)``: the Beta distributions' means."""
        return UncertainClassifier.predict_proba(self, X)
