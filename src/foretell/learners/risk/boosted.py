"""The boosted anchor: trees that learn what an alarm would be worth, or whether the onset comes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from foretell.data.clinical.labels import challenge_label, target
from foretell.data.clinical.splits import held_out_patients
from foretell.data.clinical.stays import Stays
from foretell.data.clinical.utility import challenge_utility_rows
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.learners.artefact import load_artefact, readable, save_artefact
from foretell.learners.risk.additive_trees import AdditiveTrees
from foretell.learners.risk.anchor_features import AnchorFeatures
from foretell.learners.risk.attributions import contribution_table, last_rows, row_numbers
from foretell.learners.risk.stream import Memory, RiskStream


class BoostedRisk(BaseEstimator):
    """Boosted trees on hand-crafted features of each hour.

    With ``learns="utility"`` the trees regress what an alarm of this hour would gain over silence
    under the utility of the 2019 challenge, as its winners did (Morrill et al., Critical Care
    Medicine 48(10), 2020); :meth:`predict` alarms above :attr:`threshold_`, which is chosen on
    held-out patients. With ``learns="onset"`` they learn the probability of the onset within
    ``horizon`` hours from the hours before it.

    All septic stays are trained on, and a share of the others that stands for all of them by its
    weight.

    Args:
        learns: ``"utility"`` or ``"onset"``.
        features: kind of :class:`AnchorFeatures`: ``"full"``, ``"vitals"`` or ``"time-blind"``.
        signature_hours: look-back of path signatures; 0 for none.
        horizon: hours ahead within which the onset counts.
        trees: number of trees.
        learning_rate: factor on each tree.
        leaves: of a tree, at most.
        leaf_rows: least training rows of a leaf.
        feature_share: of the features that a tree looks at.
        row_share: of the training rows that a tree looks at.
        l2: penalty on leaf values.
        extra: whether split points are drawn at random (extremely randomised trees).
        well_share: share of the non-septic stays that is trained on.
        validation_size: share of patients held out to choose the threshold where no validation
            part is given.
        backend: ``"lightgbm"`` (extra ``trees``), ``"sklearn"`` (histogram boosting, without
            ``extra`` and shares), or ``"auto"``: the first that is installed.
        random_state: of everything that is random.
        threads: of the boosting library.

    Attributes:
        features_: makes the features.
        trees_: the fitted trees.
        threshold_: alarms are at scores from here on; 0 gains nothing, in the mean, where
            ``learns`` is ``"utility"``.
        backend_: what grew the trees.
    """

    def __init__(
        self,
        learns: Literal["utility", "onset"] = "utility",
        *,
        features: Literal["full", "vitals", "time-blind"] = "full",
        signature_hours: int = 0,
        horizon: float = 4,
        trees: int = 200,
        learning_rate: float = 0.05,
        leaves: int = 31,
        leaf_rows: int = 1000,
        feature_share: float = 0.3,
        row_share: float = 0.5,
        l2: float = 20.0,
        extra: bool = True,
        well_share: float = 0.5,
        validation_size: float = 0.1,
        backend: Literal["auto", "lightgbm", "sklearn"] = "auto",
        random_state: int = 0,
        threads: int = 1,
    ) -> None:
        self.learns = learns
        self.features = features
        self.signature_hours = signature_hours
        self.horizon = horizon
        self.trees = trees
        self.learning_rate = learning_rate
        self.leaves = leaves
        self.leaf_rows = leaf_rows
        self.feature_share = feature_share
        self.row_share = row_share
        self.l2 = l2
        self.extra = extra
        self.well_share = well_share
        self.validation_size = validation_size
        self.backend = backend
        self.random_state = random_state
        self.threads = threads

    def fit(
        self,
        stays: Stays,
        *,
        validation: Stays | None = None,
        cache: tuple[AnchorFeatures, NDArray[np.float32]] | None = None,
    ) -> Self:
        """Grows the trees.

        Args:
            stays: to learn from, with their onset.
            validation: stays to choose the threshold on; else a share of the patients.
            cache: features and their table (R, F) of exactly these stays, to save making them
                again; then give ``validation``, too, or ``validation_size=0``.

        Raises:
            DataError: no onset, or the stays of the challenge's utility have none before their end.
            ParameterError: a hyper-parameter out of its range.
        """
        self._check()
        if cache is not None and validation is None and self.validation_size > 0:
            raise ParameterError("a cache needs validation=..., or validation_size=0")
        if validation is None and self.validation_size > 0:
            train, held = held_out_patients(stays, self.validation_size)
            if np.isfinite(held.onset).any() and np.isfinite(train.onset).any():
                stays, validation = train, held
        septic = np.isfinite(stays.onset)
        if not septic.any():
            raise DataError("no stay has an onset", hint="Give stays with their label or onset")
        rng = np.random.default_rng(self.random_state)
        kept = septic | (rng.random(len(stays)) < self.well_share)
        share = max(1, int(kept.sum() - septic.sum())) / max(1, int((~septic).sum()))
        stay = stays.stay_of_row()
        rows = kept[stay]
        if self.learns == "utility":
            wanted = challenge_utility_rows(challenge_label(stays), stays.lengths).gain
        else:
            onset = target(stays, self.horizon)
            rows &= onset.at_risk
            wanted = onset.label.astype(np.float64)
        weight = np.where(septic, 1.0, 1 / share)[stay][rows]
        y = wanted[rows]
        if not len(y) or not y.max() > 0 or len(np.unique(y)) < 2:
            raise DataError("no hour would gain by an alarm", hint="Look at the onsets")
        if validation is not None and not np.isfinite(validation.onset).any():
            raise DataError(
                "no validation stay has an onset: any threshold that alarms would look too low",
                hint="Give more patients to choose the threshold on, or set validation_size=0",
            )
        if cache is None:
            self.features_ = AnchorFeatures(
                self.features, signature_hours=self.signature_hours, schema=stays.schema
            )
            X = self.features_.raw(stays, rows)
        else:
            self.features_, table = cache
            X = table[rows] if not rows.all() else table
        self.trees_ = self._grow(X, y, weight)
        del X
        self.threshold_ = 0.0
        if validation is not None:
            self.threshold_ = self._best_threshold(validation)
        elif self.learns == "onset":
            self.threshold_ = float(np.average(y, weights=weight))
        self.is_fitted_ = True
        return self

    def decision_function(self, stays: Stays) -> NDArray[np.float64]:
        """(R,) score of every hour: the gain of an alarm, or the log-odds of the onset.

        Raises:
            NotFittedError: before ``fit``.
        """
        self._require_fit()
        return self._scores(stays)

    def predict(self, stays: Stays) -> NDArray[np.bool_]:
        """(R,) whether the score of an hour reaches :attr:`threshold_`."""
        found = self.decision_function(stays)
        return (found if self.learns == "utility" else _logistic(found)) >= self.threshold_

    def predict_proba(self, stays: Stays) -> NDArray[np.float64]:
        """(R, 2) probabilities of no onset and of the onset within ``horizon`` hours.

        Raises:
            ParameterError: the trees learned the utility, which is no probability.
        """
        if self.learns != "onset":
            raise ParameterError("what alarms gain is no probability: train with learns='onset'")
        risk = _logistic(self.decision_function(stays))
        return np.stack([1 - risk, risk], axis=1)

    def contributions(self, stays: Stays, rows: ArrayLike | None = None) -> NDArray[np.float64]:
        """(R, F) Shapley values of hours' scores: with ``trees_.expected`` they add up to them.

        Args:
            stays: any.
            rows: (R,) mask or ascending numbers of the hours that are explained.
        """
        self._require_fit()
        return self.trees_.contributions(self.features_.raw(stays, self._mask(stays, rows)))

    def explain(
        self, stays: Stays, rows: ArrayLike | None = None, *, top: int = 10
    ) -> pl.DataFrame:
        """The features that moved the scores of hours most, in words.

        Args:
            stays: any.
            rows: see :meth:`contributions`; the last hour of each stay by default.
            top: features of an hour that are listed.

        Returns:
            See :func:`~foretell.learners.risk.attributions.contribution_table`.
        """
        self._require_fit()
        chosen = last_rows(stays) if rows is None else row_numbers(rows)
        X = self.features_.raw(stays, self._mask(stays, chosen))
        return contribution_table(
            self.trees_.contributions(X), X, self.features_.names, self.features_.schema,
            top=top, rows=chosen,
        )  # fmt: skip

    @staticmethod
    def _mask(stays: Stays, rows: ArrayLike | None) -> NDArray[np.bool_] | None:
        if rows is None:
            return None
        mask = np.zeros(stays.n_rows, bool)
        mask[row_numbers(rows)] = True
        return mask

    def stream(self, **described: Any) -> RiskStream:
        """The live form for one stay; see :meth:`CausalFeatureBuilder.stream` for the arguments."""
        self._require_fit()
        return RiskStream(self, self.features_.stream(**described))

    def memory(self) -> Memory:
        """Nothing is carried but what the features carry."""
        return {}

    def advance(self, memory: Memory, features: NDArray[np.float32]) -> tuple[float, Memory]:
        """The score of an hour with features (F,): the gain of an alarm, or a probability."""
        found = self.trees_.predict(features[None])
        if self.learns == "onset":
            found = _logistic(found)
        return float(found[0]), memory

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors; see :mod:`foretell.learners.artefact`."""
        self._require_fit()
        config = {
            "parameters": self.get_params(deep=False),
            "features": self.features_.to_dict(),
            "threshold": self.threshold_,
            "backend": self.backend_,
        }
        save_artefact(folder, type(self).__name__, config, self.trees_.to_arrays())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: the folder is damaged, newer, or holds something else.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            model = cls(**config["parameters"])
            model._check()
            model.features_ = AnchorFeatures.from_dict(config["features"])
            model.trees_ = AdditiveTrees.from_arrays(arrays)
            model.threshold_ = float(config["threshold"])
            if np.isnan(model.threshold_):
                raise ValueError("the threshold is not a number")
            model.backend_ = str(config["backend"])
            if model.trees_.n_features != model.features_.n_features:
                raise ValueError("the trees have another number of features")
        model.is_fitted_ = True
        return model

    def _scores(self, stays: Stays) -> NDArray[np.float64]:
        parts = [self.trees_.predict(self.features_.raw(chunk)) for chunk in stays.chunks(100_000)]
        return np.concatenate([*parts, np.zeros(0)])

    def _best_threshold(self, stays: Stays) -> float:
        """The threshold of the highest utility on held-out stays."""
        scores = self._scores(stays)
        if self.learns == "onset":
            scores = _logistic(scores)
        gain = challenge_utility_rows(challenge_label(stays), stays.lengths).gain
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) != 0, True)
        totals = np.where(last, np.cumsum(gain[order]), -np.inf)
        best = int(np.argmax(totals))
        return float(scores[order[best]]) if totals[best] > 0 else float(np.inf)

    def _grow(
        self, X: NDArray[np.float32], y: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> AdditiveTrees:
        installed = importlib.util.find_spec("lightgbm") is not None
        if self.backend == "lightgbm" and not installed:
            raise ParameterError("backend='lightgbm' needs lightgbm: pip install 'foretell[trees]'")
        if self.backend == "sklearn" or not installed:
            self.backend_ = "sklearn"
            return self._grow_sklearn(X, y, weight)
        # Optional: what is saved needs no boosting library to be read.
        import lightgbm

        self.backend_ = "lightgbm"
        parameters = {
            "objective": "regression" if self.learns == "utility" else "binary",
            "learning_rate": self.learning_rate, "num_leaves": self.leaves,
            "min_child_samples": self.leaf_rows, "feature_fraction": self.feature_share,
            "bagging_fraction": self.row_share, "bagging_freq": 1, "lambda_l2": self.l2,
            "extra_trees": self.extra, "max_bin": 63, "num_threads": self.threads,
            "seed": self.random_state, "deterministic": True, "force_row_wise": True,
            "verbose": -1,
        }  # fmt: skip
        data = lightgbm.Dataset(X, y, weight=weight)
        return AdditiveTrees.from_lightgbm(lightgbm.train(parameters, data, self.trees))

    def _grow_sklearn(
        self, X: NDArray[np.float32], y: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> AdditiveTrees:
        from sklearn.ensemble import (
            HistGradientBoostingClassifier,
            HistGradientBoostingRegressor,
        )

        kind = (
            HistGradientBoostingRegressor
            if self.learns == "utility"
            else HistGradientBoostingClassifier
        )
        model = kind(
            max_iter=self.trees, learning_rate=self.learning_rate, max_leaf_nodes=self.leaves,
            min_samples_leaf=self.leaf_rows, l2_regularization=self.l2, max_bins=63,
            max_features=self.feature_share, early_stopping=False, random_state=self.random_state,
        )  # fmt: skip
        # scikit-learn finds no bins for a column that nobody measured; a constant is never split.
        never = np.isnan(X).all(axis=0)
        if never.any():
            X = np.where(never, np.float32(0), X)
        model.fit(X, y if self.learns == "utility" else y.astype(np.int64), sample_weight=weight)
        return AdditiveTrees.from_sklearn(model)

    def _check(self) -> None:
        if self.learns not in ("utility", "onset"):
            raise ParameterError(f"learns must be 'utility' or 'onset', not {self.learns!r}")
        if self.backend not in ("auto", "lightgbm", "sklearn"):
            raise ParameterError(
                f"backend must be 'auto', 'lightgbm' or 'sklearn', not {self.backend!r}"
            )
        for name in ("trees", "leaves", "leaf_rows", "threads"):
            value = getattr(self, name)
            least = 2 if name == "leaves" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ParameterError(f"{name} must be a whole number from {least}, not {value!r}")
        for name in ("feature_share", "row_share", "well_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ParameterError(f"{name} must lie in (0, 1], not {getattr(self, name)}")
        if not 0 <= self.validation_size < 1:
            raise ParameterError(f"validation_size must lie in [0, 1), not {self.validation_size}")
        for name in ("horizon", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} must be positive, not {getattr(self, name)}")

    def _require_fit(self) -> None:
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(stays) first")


class GBMVitals(BoostedRisk):
    """The onset within four hours from the last values of six vital signs: a named baseline.

    Systolic and diastolic pressure, heart and respiratory rate, saturation and temperature, as in
    the comparator of COMPOSER. Settings are those of :class:`BoostedRisk`, ``learns`` and
    ``features`` fixed.
    """

    def __init__(
        self,
        *,
        horizon: float = 4,
        trees: int = 200,
        well_share: float = 0.5,
        validation_size: float = 0.1,
        backend: Literal["auto", "lightgbm", "sklearn"] = "auto",
        random_state: int = 0,
        threads: int = 1,
    ) -> None:
        super().__init__(
            "onset", features="vitals", horizon=horizon, trees=trees, feature_share=1.0,
            well_share=well_share, validation_size=validation_size, backend=backend,
            random_state=random_state, threads=threads,
        )  # fmt: skip


def _logistic(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-scores))
