"""Attack classifiers trained on shadow models' posteriors (Shokri et al. 2017)."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from foretell.audits.membership.attack import BoolArray, FloatArray, MembershipAttack
from foretell.errors import DataError, ParameterError

_FEW = 10


class ShadowClassifier(MembershipAttack):
    """One logistic regression a class tells members from others by the sorted posterior.

    Signals are log-posteriors ``(S, N, C)``, or scalars ``(S, N)``.

    Args:
        labels: ``(N,)`` codes of the true classes; one classifier for all when None. A class with
            fewer than 10 rows on a side takes the classifier of all.
        top: largest entries of the posterior that are looked at.
        C: inverse strength of the penalty.
        seed: of the rows that are taken when there are many.
        max_rows: training rows of a class at most.
    """

    _dimensions = (2, 3)

    def __init__(
        self,
        labels: ArrayLike | None = None,
        *,
        top: int = 10,
        C: float = 1.0,
        seed: int = 0,
        max_rows: int = 50_000,
    ) -> None:
        self.labels = labels
        self.top = top
        self.C = C
        self.seed = seed
        self.max_rows = max_rows

    def fit(self, shadow_signals: ArrayLike, shadow_membership: ArrayLike) -> Self:
        """Trains the attack classifiers; see :meth:`MembershipAttack.fit`."""
        return super().fit(shadow_signals, shadow_membership)

    def _fit(self, signals: FloatArray, membership: BoolArray) -> None:
        if self.top < 1:
            raise ParameterError(f"top must be at least 1, not {self.top}")
        if not membership.any() or membership.all():
            raise DataError("the shadow models have only members or none")
        examples = signals.shape[1]
        codes = np.zeros(examples, np.int64)
        if self.labels is not None:
            codes = np.asarray(self.labels, np.int64)
            if codes.shape != (examples,):
                raise DataError(f"labels {codes.shape} do not fit {examples} examples")
        self._codes = codes
        features = self._features(signals.reshape(-1, *signals.shape[2:]))
        member = membership.ravel()
        every = np.tile(codes, len(signals))
        rng = np.random.default_rng(self.seed)
        self.classifiers_: dict[int | None, Any] = {
            None: self._train(features, member, np.arange(len(member)), rng)
        }
        alone = []
        for code in np.unique(codes) if self.labels is not None else ():
            rows = np.flatnonzero(every == code)
            inside = int(member[rows].sum())
            if min(inside, len(rows) - inside) < _FEW:
                alone.append(int(code))
                continue
            self.classifiers_[int(code)] = self._train(features, member, rows, rng)
        if alone:
            self.flags_.append(
                f"{len(alone)} classes have fewer than {_FEW} rows on a side: the classifier of "
                "all classes judges them"
            )

    def _train(
        self,
        features: FloatArray,
        member: NDArray[np.bool_],
        rows: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> Any:
        if len(rows) > self.max_rows:
            rows = rng.choice(rows, self.max_rows, replace=False)
        # Balanced, since membership of shadows says nothing of the target's.
        model = LogisticRegression(C=self.C, class_weight="balanced", max_iter=200)
        pipeline = make_pipeline(StandardScaler(), model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return pipeline.fit(features[rows], member[rows])

    def _features(self, signals: FloatArray) -> FloatArray:
        """Log-posteriors, the largest first ``(n, min(top, C))``; scalars as they are."""
        if signals.ndim == 1:
            return signals[:, None]
        kept = min(self.top, signals.shape[1])
        return np.sort(signals, axis=1)[:, ::-1][:, :kept]

    def _score(self, signals: FloatArray) -> FloatArray:
        features = self._features(signals)
        scores = np.empty(len(features))
        for code in np.unique(self._codes):
            rows = np.flatnonzero(self._codes == code)
            model = self.classifiers_.get(int(code), self.classifiers_[None])
            scores[rows] = model.decision_function(features[rows])
        return scores
