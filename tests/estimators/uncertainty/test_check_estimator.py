"""scikit-learn's own checks of every public estimator."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import _num_samples

from foretell.decisions.thresholds.classifier import UncertaintyThresholdClassifier
from foretell.estimators.uncertainty import (
    CallableUncertainty,
    EnsembleUncertainty,
    LaplaceUncertainty,
    MCDropoutUncertainty,
    NetworkClassifier,
    PosteriorNetworkClassifier,
)


class NoUncertainty:
    """A function whose name in test ids is the same in every process."""

    def __call__(self, X):
        return np.zeros(_num_samples(X))

    def __repr__(self) -> str:
        return "no_uncertainty"


small = {"epochs": 1, "min_steps": 60, "hidden_sizes": (16,), "random_state": 0, "threads": 1,
         "learning_rate": 1e-2}  # fmt: skip
ESTIMATORS = [
    NetworkClassifier(**small),
    PosteriorNetworkClassifier(latent_size=2, flow_layers=2, **small),
    EnsembleUncertainty(n_members=3, random_state=0),
    EnsembleUncertainty(LogisticRegression(), n_members=3, random_state=0),
    MCDropoutUncertainty(NetworkClassifier(**small), n_draws=3, random_state=0),
    LaplaceUncertainty(LogisticRegression()),
    LaplaceUncertainty(NetworkClassifier(**small), random_state=0),
    CallableUncertainty(LogisticRegression(), NoUncertainty()),
    UncertaintyThresholdClassifier(
        EnsembleUncertainty(n_members=3, random_state=0), min_precision=0.6, cv=3
    ),
    UncertaintyThresholdClassifier(LogisticRegression(), "laplace", min_precision=0.6, cv=3),
]

DRAWN = (
    "rows are drawn at random (mini-batches, bootstrap samples): a row of weight 2 and two rows "
    "lead to other draws"
)
FOLDED = "cross-validation deals two equal rows to two folds, a row of weight 2 to one"
DECIDED = (
    "predict decides for a precision, not at a probability of one half; scikit-learn excepts its "
    "TunedThresholdClassifierCV in the same way"
)
WEIGHTS = (
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
)


def expected(estimator) -> dict[str, str]:
    if isinstance(estimator, UncertaintyThresholdClassifier):
        return dict.fromkeys(WEIGHTS, FOLDED) | {"check_classifiers_train": DECIDED}
    exact = isinstance(estimator, CallableUncertainty) or (
        isinstance(estimator, LaplaceUncertainty)
        and isinstance(estimator.estimator, LogisticRegression)
    )
    return {} if exact else dict.fromkeys(WEIGHTS, DRAWN)


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected)
def test_check_estimator(estimator, check):
    check(estimator)
