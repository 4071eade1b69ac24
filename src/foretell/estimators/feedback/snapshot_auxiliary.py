"""Models of what is still to come, learned on matured entities seen again at a younger age."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.utils import check_random_state

from foretell.errors import NotMatureError, ParameterError
from foretell.estimators.feedback.snapshot_view import SnapshotView, draw_ages

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LEAST_EXAMPLES = 20
_AGE_BINS = 10


class AuxiliaryModels:
    """Probabilities that a correction needs, each a classifier of its own.

    All are learned on matured entities, at ages borrowed from the rows to correct, so that nothing
    that is not known at the snapshot is ever seen. Features of the models are the entity's, its age
    and the share of its window that is over.

    Args:
        classifier: scikit-learn classifier, cloned for each probability; None for gradient-boosted
            trees.
        history: matured entities.
        targets: the entities to correct; only their ages are read.
        replicates: ages drawn for each matured entity.
        random_state: seed.
        categorical: (d,) mask of the features that are categories, for the default classifier.

    Raises:
        NotMatureError: there is no matured entity, or none that converted.
    """

    def __init__(
        self,
        classifier: Any,
        history: SnapshotView,
        targets: SnapshotView,
        *,
        replicates: int = 4,
        random_state: int = 0,
        categorical: NDArray[np.bool_] | None = None,
    ) -> None:
        if len(history) == 0 or not history.final.any():
            what = "entity has matured" if len(history) == 0 else "matured entity converted"
            raise NotMatureError(f"no {what} yet, so that delays cannot be learned")
        self._classifier, self._seed = classifier, random_state
        self._categorical = categorical
        rng = np.random.default_rng(random_state)
        self.rows, ages = draw_ages(history, targets, replicates, rng)
        self.past = history.select(self.rows).aged(ages)
        self.fallbacks: list[str] = []

    def learn(
        self, what: str, among: BoolArray, target: BoolArray, *, engagement: bool = False
    ) -> Probability:
        """A model of the probability of ``target`` among such rows.

        Args:
            what: name for messages.
            among: (m,) which of the rows of :attr:`past` are examples.
            target: (m,) what is to be told.
            engagement: whether the time since each engagement stage is known.
        """
        past, hit = self.past.select(among), target[among]
        if len(hit) == 0 or hit.all() or not hit.any():
            return Probability(constant=float(hit.all()) if len(hit) else 1.0)
        # Replicates of one entity are one example: it is entities that must be enough.
        owners = self.rows[among]
        least = min(len(np.unique(owners[hit])), len(np.unique(owners[~hit])))
        if least < LEAST_EXAMPLES:
            self.fallbacks.append(what)
            warnings.warn(
                f"only {least} matured entities to learn the probability of {what} from "
                f"({LEAST_EXAMPLES} are needed): its rate by age alone is taken instead",
                UserWarning,
                stacklevel=4,
            )
            return Probability(rate=_rate_by_age(past.age, hit))
        model = self._make()
        model.fit(_design(past, engagement), hit)
        return Probability(model=model, engagement=engagement)

    def _make(self) -> Any:
        if self._classifier is None:
            return default_classifier(self._categorical, self._seed)
        return with_seed(clone(self._classifier), self._seed)


@dataclass(frozen=True)
class Probability:
    """A probability of entities as they are seen: a classifier's, a rate by age, or a constant."""

    model: Any = None
    engagement: bool = False
    rate: tuple[FloatArray, FloatArray] | None = None
    constant: float = 1.0

    def __call__(self, view: SnapshotView) -> FloatArray:
        """Probabilities (n,)."""
        if self.model is not None and len(view):
            return self.model.predict_proba(_design(view, self.engagement))[:, 1]
        if self.rate is not None:
            edges, rates = self.rate
            return rates[np.searchsorted(edges, view.age)]
        return np.full(len(view), self.constant)


def _design(view: SnapshotView, engagement: bool) -> FloatArray:
    parts = [view.X, view.clock()]
    if engagement:
        parts.append(view.engagement())
    return np.hstack(parts)


def default_classifier(categorical: NDArray[np.bool_] | None, seed: int) -> Any:
    """Gradient-boosted trees, smooth enough for probabilities that become weights."""
    positions = None if categorical is None else np.flatnonzero(categorical)
    return HistGradientBoostingClassifier(
        max_iter=100,
        learning_rate=0.06,
        max_leaf_nodes=8,
        min_samples_leaf=60,
        early_stopping=False,
        categorical_features=positions if positions is not None and len(positions) else None,
        random_state=seed,
    )


def with_seed(estimator: Any, seed: int) -> Any:
    """Sets an open ``random_state``, nested ones included, so that a fit can be repeated."""
    rng = check_random_state(seed)
    open_ones = {
        key: int(rng.randint(np.iinfo(np.int32).max))
        for key, value in sorted(estimator.get_params(deep=True).items())
        if (key == "random_state" or key.endswith("__random_state")) and value is None
    }
    return estimator.set_params(**open_ones) if open_ones else estimator


def check_classifier(estimator: Any, name: str) -> None:
    """Checks that an object is a classifier with probabilities.

    Raises:
        ParameterError: it is not.
    """
    if not (hasattr(estimator, "fit") and hasattr(estimator, "predict_proba")):
        raise ParameterError(
            f"{name} must be a classifier with fit and predict_proba, not {estimator!r}"
        )


def _rate_by_age(age: FloatArray, hit: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Edges (b,) of bins of age and the share (b + 1,) of hits there, drawn to the overall one."""
    edges = np.unique(np.quantile(age, np.linspace(0, 1, _AGE_BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, age)
    count = np.bincount(bins, minlength=len(edges) + 1)
    hits = np.bincount(bins, hit, minlength=len(edges) + 1)
    return edges, (hits + 2 * hit.mean()) / (count + 2)
