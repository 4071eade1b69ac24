"""Monte Carlo dropout: a trained network as a bag of thinned ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.estimators.uncertainty.ensemble import _check_measure, summarise
from foretell.estimators.uncertainty.fitting import fit_inner, networks_of, positive_probability
from foretell.estimators.uncertainty.network import NetworkClassifier
from foretell.estimators.uncertainty.provider import Uncertain, UncertainClassifier


class MCDropoutUncertainty(UncertainClassifier):
    """Predicts with dropout left on; the score is the draws' mean, the uncertainty their spread.

    With dropout, a network is a draw from an approximate posterior over its weights (Gal and
    Ghahramani 2016, eq. 6 and 8). One draw keeps the same units for all rows, as one set of
    weights would: predictions are the same for a seed, whichever rows are asked for together.

    Args:
        estimator: a classifier around a torch network with dropout layers, such as
            :class:`NetworkClassifier` (the default, with dropout 0.2) or a
            ``DelayedFeedbackClassifier`` on a base of one's own with dropout.
        n_draws: number of thinned networks.
        uncertainty: ``std``, ``mutual_information`` or ``range`` of the draws, as for
            :class:`EnsembleUncertainty`.
        random_state: seed of the draws, and of the default network.

    Attributes:
        classes_: ``(2,)`` the classes, ascending.
        estimator_: the fitted classifier.
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        n_draws: int = 30,
        uncertainty: str = "std",
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.n_draws = n_draws
        self.uncertainty = uncertainty
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits the classifier.

        Raises:
            ParameterError: a hyper-parameter out of its range, or a network without dropout.
        """
        random = check_random_state(self.random_state)
        self.seed_ = int(random.randint(np.iinfo(np.int32).max))
        if self.estimator is None:
            inner: Any = NetworkClassifier(dropout=0.2, random_state=self.seed_)
        else:
            inner = clone(self.estimator)
        return self._adopt(fit_inner(self, inner, X, y, sample_weight))

    def _adopt(self, fitted: Any) -> Self:
        """Takes a classifier that is fitted."""
        if self.n_draws < 2:
            raise ParameterError(f"n_draws must be at least 2 for a spread, not {self.n_draws!r}")
        _check_measure(self.uncertainty)
        if not dropout_layers(fitted):
            raise ParameterError(
                f"{type(fitted).__name__} has no dropout layer with a rate above 0: Monte Carlo "
                "dropout has nothing to draw. Give its network dropout, or use an ensemble"
            )
        if not hasattr(self, "seed_"):
            random = check_random_state(self.random_state)
            self.seed_ = int(random.randint(np.iinfo(np.int32).max))
        self.estimator_ = fitted
        self.classes_ = np.asarray(fitted.classes_)
        return self

    def draws(self, X: Any) -> NDArray[np.float64]:
        """Scores ``(n, n_draws)`` of the positive class by each thinned network."""
        check_is_fitted(self)
        columns = []
        for number in range(self.n_draws):
            with thinned(self.estimator_, self.seed_, number):
                columns.append(positive_probability(self.estimator_, X))
        return np.column_stack(columns)

    def __call__(self, X: Any) -> Uncertain:
        """Mean and spread of the draws."""
        return summarise(self.draws(X), self.uncertainty)

    @property
    def n_features_in_(self) -> int:
        """Columns of the table of the fit."""
        return int(self.estimator_.n_features_in_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = NetworkClassifier() if self.estimator is None else self.estimator
        tags.input_tags = get_tags(inner).input_tags
        tags.non_deterministic = get_tags(inner).non_deterministic and self.random_state is None
        return tags


_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def dropout_layers(estimator: Any) -> list[nn.Module]:
    """Dropout layers with a rate above 0 of all networks that an estimator holds."""
    return [
        layer
        for network in networks_of(estimator)
        for layer in network.modules()
        if isinstance(layer, _DROPOUTS) and layer.p > 0
    ]


@contextmanager
def thinned(estimator: Any, seed: int, draw: int) -> Iterator[None]:
    """Within it the estimator's networks predict with the units of one draw dropped.

    The layers' outputs are replaced, whatever mode the networks are in; nothing of them is
    changed, and batch normalisation keeps its running figures.
    """
    handles = []

    def mask_of(number: int, layer: Any) -> Any:
        masks: dict[int, Tensor] = {}

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            values = inputs[0]
            # Dropout drops units, the last axis; its siblings drop channels, the second.
            axis = values.ndim - 1 if isinstance(module, nn.Dropout) else 1
            size = values.shape[axis]
            if size not in masks:
                rng = np.random.default_rng([seed, draw, number, size])
                kept = (rng.random(size) >= layer.p) / (1.0 - layer.p) if layer.p < 1 else None
                masks[size] = torch.from_numpy(np.zeros(size) if kept is None else kept)
            shape = [1] * values.ndim
            shape[axis] = size
            return values * masks[size].to(values.device, values.dtype).view(shape)

        return hook

    try:
        for number, layer in enumerate(dropout_layers(estimator)):
            handles.append(layer.register_forward_hook(mask_of(number, layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()
