"""A plain neural classifier of tables: what dropout and Laplace make uncertain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from foretell.estimators.uncertainty.tabular import TabularClassifier
from foretell.learners.tabular.dropout import DropoutTrunk
from foretell.learners.tabular.response import ResponseNet


class NetworkClassifier(TabularClassifier):
    """A binary classifier: dense layers with dropout, and logistic regression on top.

    Args:
        hidden_sizes: see :class:`~foretell.estimators.uncertainty.tabular.TabularClassifier`, as
            for all others.
        dropout: share of each layer's outputs that is dropped in training.
        epochs: passes over the training rows.
        min_steps: steps of the optimizer at least.
        batch_size: rows a step.
        learning_rate: the highest of the schedule.
        weight_decay: on matrices.
        validation_fraction: share of the rows to choose the best weights on.
        patience: validations without a better score after which training stops.
        categorical_features: columns of codes.
        embedding_size: width of each embedding.
        random_state: seed.
        threads: of torch on a CPU.
        device: ``auto``, ``cpu``, ``cuda``.

    Attributes:
        classes_: ``(2,)`` the classes, ascending.
        learner_: the trained network.
        history_: how training went.
    """

    def __init__(
        self,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        dropout: float = 0.1,
        epochs: int = 20,
        min_steps: int = 300,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
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
        self.dropout = dropout

    def _make_learner(self) -> ResponseNet:
        learner = ResponseNet(DropoutTrunk(dropout=self.dropout, **self._trunk_arguments()))
        # The last bias starts at the base rate: rare classes need not be learned first.
        share = float(self.class_weights_[1] / self.class_weights_.sum())
        if learner.head.bias.device.type != "meta":
            with torch.no_grad():
                learner.head.bias.fill_(float(np.log(share) - np.log1p(-share)))
        return learner

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``(n, 2)``."""
        check_is_fitted(self)
        parts = self._run(X, lambda learner, batch: learner(batch).log_probabilities)
        return torch.cat(parts).double().exp().numpy()
