"""Ensembles: where members that saw other samples disagree, the score is uncertain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import Tags, _safe_indexing, check_random_state, get_tags
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    has_fit_parameter,
)

from foretell.errors import ParameterError
from foretell.estimators.uncertainty.provider import (
    Uncertain,
    UncertainClassifier,
    UncertaintyProvider,
    binary_target,
    check_fit,
    check_predict,
)


class EnsembleUncertainty(UncertainClassifier):
    """Bags a classifier; the score is the members' mean, the uncertainty their spread.

    Each member is a clone, fitted on a bootstrap sample (Breiman 1996) with a seed of its own: any
    scikit-learn classifier with ``predict_proba``, a foretell one, or a pipeline. Rows are drawn
    in proportion to ``sample_weight``, so that members need not take weights.

    Args:
        estimator: what is bagged; a decision tree with 20 rows a leaf when None.
        n_members: number of members M.
        max_samples: rows of a bootstrap sample, as a share of all rows.
        bootstrap: whether rows are drawn with replacement. Without it and with all rows, members
            differ by their seeds only (deep ensembles, Lakshminarayanan et al. 2017).
        uncertainty: ``std`` of the members' scores; ``mutual_information`` of label and member in
            nats, the part of the predictive entropy that is due to disagreement; ``range``
            between the members' highest and lowest score.
        n_jobs: members fitted at once, as joblib counts.
        random_state: seed of samples and members.

    Attributes:
        classes_: ``(2,)`` the classes, ascending.
        estimators_: the M members.
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        n_members: int = 12,
        max_samples: float = 1.0,
        bootstrap: bool = True,
        uncertainty: str = "std",
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.n_members = n_members
        self.max_samples = max_samples
        self.bootstrap = bootstrap
        self.uncertainty = uncertainty
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits the members.

        Args:
            X: ``(n, d)`` whatever the estimator takes.
            y: ``(n,)`` two classes.
            sample_weight: ``(n,)`` relative chances of a row to be drawn; without ``bootstrap``
                they are handed to the members.

        Raises:
            ParameterError: a hyper-parameter out of its range, or weights that members do not take.
        """
        if self.n_members < 2:
            raise ParameterError(
                f"n_members must be at least 2 for a spread, not {self.n_members!r}"
            )
        if not 0 < self.max_samples <= 1:
            raise ParameterError(f"max_samples must lie in (0, 1], not {self.max_samples!r}")
        _check_measure(self.uncertainty)
        X, y = check_fit(self, X, y)
        target = binary_target(self, y)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        base = DecisionTreeClassifier(min_samples_leaf=20) if self.estimator is None else None
        random = check_random_state(self.random_state)
        seeds = random.randint(np.iinfo(np.int32).max, size=self.n_members)
        labels = self.classes_[target]
        self.estimators_ = Parallel(n_jobs=self.n_jobs)(
            delayed(self._fit_member)(base or self.estimator, int(seed), X, labels, target, weight)
            for seed in seeds
        )
        return self

    def _fit_member(
        self,
        base: Any,
        seed: int,
        X: Any,
        labels: NDArray,
        target: NDArray,
        weight: NDArray[np.float64] | None,
    ) -> Any:
        member = clone(base)
        seeded = {
            name: seed
            for name in member.get_params(deep=True)
            if name == "random_state" or name.endswith("__random_state")
        }
        member.set_params(**seeded)
        if not self.bootstrap and self.max_samples == 1.0:
            if weight is None:
                return member.fit(X, labels)
            if not has_fit_parameter(member, "sample_weight"):
                raise ParameterError(
                    f"{type(member).__name__} takes no sample_weight: use bootstrap=True, which "
                    "draws rows in proportion to it"
                )
            return member.fit(X, labels, sample_weight=weight)
        rows = _draw(target, weight, self.max_samples, self.bootstrap, np.random.default_rng(seed))
        return member.fit(_safe_indexing(X, rows), labels[rows])

    def member_scores(self, X: Any) -> NDArray[np.float64]:
        """Scores ``(n, M)`` of the positive class by each member."""
        check_is_fitted(self)
        X = check_predict(self, X)
        return positive_scores(self.estimators_, self.classes_[1], X)

    def __call__(self, X: Any) -> Uncertain:
        """Mean and spread of the members' scores."""
        return summarise(self.member_scores(X), self.uncertainty)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if self.estimator is None:
            tags.input_tags.allow_nan = True
            tags.input_tags.sparse = True
        else:
            tags.input_tags = get_tags(self.estimator).input_tags
        return tags


class FittedEnsemble(UncertaintyProvider):
    """Members that are fitted already: a random forest's trees, or any list of classifiers.

    Args:
        members: classifiers with ``predict_proba`` over the same two classes.
        positive: the class whose probability is the score; the second of the first member's
            classes when None.
        uncertainty: as for :class:`EnsembleUncertainty`.
    """

    def __init__(
        self, members: Sequence[Any], positive: Any = None, uncertainty: str = "std"
    ) -> None:
        if len(members) < 2:
            raise ParameterError(f"a spread needs at least 2 members, not {len(members)}")
        _check_measure(uncertainty)
        self.members = list(members)
        self.positive = _second_class(self.members[0]) if positive is None else positive
        self.uncertainty = uncertainty

    def __call__(self, X: Any) -> Uncertain:
        """Mean and spread of the members' scores."""
        return summarise(positive_scores(self.members, self.positive, X), self.uncertainty)


def positive_scores(members: Sequence[Any], positive: Any, X: Any) -> NDArray[np.float64]:
    """Scores ``(n, M)``: each member's probability of the class ``positive``."""
    columns = []
    for member in members:
        probabilities = np.asarray(member.predict_proba(X), np.float64)
        at = np.flatnonzero(np.asarray(member.classes_) == positive)
        # A member that never saw the class gives it no chance.
        columns.append(probabilities[:, at[0]] if len(at) else np.zeros(len(probabilities)))
    return np.column_stack(columns)


def summarise(scores: NDArray[np.float64], uncertainty: str) -> Uncertain:
    """Mean and spread of scores ``(n, M)`` over members or draws."""
    mean = scores.mean(axis=1)
    if uncertainty == "std":
        # Equal members have no spread; the mean's rounding must not give them one.
        spread = np.where(np.ptp(scores, axis=1) == 0, 0.0, scores.std(axis=1))
    elif uncertainty == "range":
        spread = np.ptp(scores, axis=1)
    else:
        gain = _binary_entropy(mean) - _binary_entropy(scores).mean(axis=1)
        spread = np.maximum(gain, 0.0)
    return Uncertain(mean, spread)


MEASURES = ("std", "mutual_information", "range")


def _check_measure(uncertainty: str) -> None:
    if uncertainty not in MEASURES:
        raise ParameterError(
            f"uncertainty must be one of {', '.join(MEASURES)}, not {uncertainty!r}"
        )


def _binary_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(p, 1e-300, 1.0)
    outside = np.clip(1.0 - p, 1e-300, 1.0)
    return -(p * np.log(inside) + (1.0 - p) * np.log(outside))


def _draw(
    target: NDArray,
    weight: NDArray[np.float64] | None,
    share: float,
    replace: bool,
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Rows of one sample; a class that a draw misses is drawn from once."""
    size = max(2, round(share * len(target)))
    chances = None if weight is None else weight / weight.sum()
    if chances is not None and not replace:
        size = min(size, int((chances > 0).sum()))
    rows = rng.choice(len(target), size=size, replace=replace, p=chances)
    for value in (0, 1):
        if not (target[rows] == value).any():
            pool = np.flatnonzero((target == value) & (True if weight is None else weight > 0))
            if len(pool):
                rows[rng.integers(size)] = rng.choice(pool)
    return np.sort(rows)


def _second_class(member: Any) -> Any:
    classes = np.asarray(member.classes_)
    if len(classes) != 2:
        raise ParameterError(
            f"{type(member).__name__} has {len(classes)} classes; decisions with uncertainty need 2"
        )
    return classes[1]
