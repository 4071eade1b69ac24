"""A classifier that decides by score and uncertainty, for a precision that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import check_cv
from sklearn.utils import Tags, _safe_indexing, get_tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from foretell.decisions.thresholds.binning import Binning
from foretell.decisions.thresholds.fit import fit_decision_surface
from foretell.decisions.thresholds.proposal import Method
from foretell.decisions.thresholds.report import SurfaceReport
from foretell.decisions.thresholds.surface import DecisionSurface
from foretell.errors import ParameterError
from foretell.estimators.uncertainty import (
    CallableUncertainty,
    EnsembleUncertainty,
    LaplaceUncertainty,
    MCDropoutUncertainty,
    PosteriorNetworkClassifier,
    Uncertain,
    UncertaintyProvider,
    from_learner,
)
from foretell.estimators.uncertainty.provider import binary_target, check_fit, check_predict
from foretell.estimators.uncertainty.saving import (
    classes_from_json,
    classes_to_json,
    load_estimator,
    save_estimator,
)
from foretell.learners.artefact import load_artefact, readable, save_artefact

Uncertainty = Literal["ensemble", "mc_dropout", "laplace", "posterior_network"]


class UncertaintyThresholdClassifier(ClassifierMixin, BaseEstimator):
    """The most recall at a precision, with one score threshold for each level of uncertainty.

    Scores and uncertainties of rows that the model was not fitted on choose a
    :class:`DecisionSurface`; see :func:`fit_decision_surface` for what it promises of them. With
    ``cv`` a number or a splitter these are out-of-fold scores of models like the final one, which
    is then fitted on all rows; with ``"prefit"`` the rows given to :meth:`fit` must be new to the
    model. A surface that was chosen on rows is optimistic about them; ``guarantee="ltt"`` bounds
    the chance that the precision is missed on new rows, for rows that are exchangeable with those
    of the surface. Out-of-fold rows are only nearly that: the final model has seen more rows than
    the models that scored them. For the guarantee as stated use ``cv="prefit"``.

    Args:
        estimator: what scores. A classifier, made uncertain as ``uncertainty`` says; an
            :class:`UncertaintyProvider`, which knows already; None for the default of
            ``uncertainty``. With ``cv="prefit"`` anything that :func:`from_learner` takes.
        uncertainty: ``ensemble``, ``mc_dropout``, ``laplace``, ``posterior_network``, or a function
            of X that returns ``(n,)``. Ignored where the estimator is a provider.
        min_precision: target precision in (0, 1).
        method: of the surface: ``mist``, ``ew_dp``, ``vw_dp``, ``milp`` or ``single``.
        n_levels: uncertainty levels.
        n_bins: score bins at most.
        binning: ``score_then_uncertainty`` or ``uncertainty_then_score``.
        monotone_levels: thresholds may not fall with the uncertainty.
        guarantee: ``ltt`` for the finite-sample guarantee.
        delta: accepted probability that the guarantee fails.
        abstain: a third outcome where precision is in doubt: :meth:`predict` gives
            ``abstain_label``.
        abstain_label: what is predicted then; ``auto`` is -1 for numbers and booleans (predictions
            are then integers) and ``"abstain"`` for text.
        missing: what a NaN uncertainty is: an ``error``, or a ``level`` of its own.
        surface_options: further arguments of :func:`fit_decision_surface`.
        cv: number of folds, a scikit-learn splitter, or ``"prefit"``.
        pos_label: the class whose precision and recall count; the second of the classes when None.
        random_state: seed of the models and the surface.

    Attributes:
        classes_: ``(2,)`` the classes, ascending.
        provider_: the uncertainty provider.
        surface_: the :class:`DecisionSurface`.
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        estimator: Any = None,
        uncertainty: Uncertainty | Callable[[Any], Any] = "ensemble",
        *,
        min_precision: float = 0.9,
        method: Method = "mist",
        n_levels: int = 4,
        n_bins: int | None = None,
        binning: Binning = "score_then_uncertainty",
        monotone_levels: bool = False,
        guarantee: Literal["ltt"] | None = None,
        delta: float = 0.1,
        abstain: bool = False,
        abstain_label: Any = "auto",
        missing: Literal["error", "level"] = "error",
        surface_options: Mapping[str, Any] | None = None,
        cv: Any = 5,
        pos_label: Any = None,
        random_state: int | None = 0,
    ) -> None:
        self.estimator = estimator
        self.uncertainty = uncertainty
        self.min_precision = min_precision
        self.method = method
        self.n_levels = n_levels
        self.n_bins = n_bins
        self.binning = binning
        self.monotone_levels = monotone_levels
        self.guarantee = guarantee
        self.delta = delta
        self.abstain = abstain
        self.abstain_label = abstain_label
        self.missing = missing
        self.surface_options = surface_options
        self.cv = cv
        self.pos_label = pos_label
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits the model (unless ``cv="prefit"``) and the decision surface.

        Args:
            X: ``(n, d)`` whatever the model takes.
            y: ``(n,)`` two classes.
            sample_weight: ``(n,)``, for the model and for the surface.

        Raises:
            ParameterError: an option out of its range, or no way from the estimator to an
                uncertainty.
            DataError: scores or uncertainties that are not finite.
        """
        if not isinstance(self.cv, str):
            X, y = check_fit(self, X, y)
        target = binary_target(self, y)
        if isinstance(self.cv, str):
            if self.cv != "prefit":
                raise ParameterError(
                    f"cv must be 'prefit', a number of folds or a splitter, not {self.cv!r}"
                )
            self._take_fitted()
        positive = target == self._positive_position()
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        if isinstance(self.cv, str):
            seen = self._see(self.provider_, X)
        else:
            seen = self._fit_folds(X, self.classes_[target], target, weight)
        self._resolve_abstention()
        self.surface_: DecisionSurface = fit_decision_surface(
            seen.score,
            seen.uncertainty,
            positive.astype(np.int8),
            min_precision=self.min_precision,
            method=self.method,
            n_levels=self.n_levels,
            n_bins=self.n_bins,
            binning=self.binning,
            sample_weight=weight,
            monotone_levels=self.monotone_levels,
            guarantee=self.guarantee,
            delta=self.delta,
            abstain=self.abstain,
            missing=self.missing,
            random_state=0 if self.random_state is None else self.random_state,
            **dict(self.surface_options or {}),
        )
        return self

    def _take_fitted(self) -> None:
        """The provider of a model that is fitted already, and its classes."""
        if self.estimator is None:
            raise ParameterError("cv='prefit' needs an estimator that is fitted")
        method: Any = self.uncertainty
        fitted_ensemble = isinstance(self.estimator, list | tuple) or hasattr(
            self.estimator, "estimators_"
        )
        if method == "ensemble" and not fitted_ensemble:
            method = "auto"  # the default of a parameter that does not fit is no wish
        self.provider_ = from_learner(self.estimator, method)
        known = getattr(self.estimator, "classes_", None)
        if known is not None:
            known = np.asarray(known)
            if len(known) != 2 or not np.isin(self.classes_, known).all():
                raise ParameterError(
                    f"the estimator was fitted on the classes {known.tolist()}, y has "
                    f"{self.classes_.tolist()}"
                )
            self.classes_ = known
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator, name):
                setattr(self, name, getattr(self.estimator, name))

    def _fit_folds(
        self, X: Any, labels: NDArray, target: NDArray, weight: NDArray[np.float64] | None
    ) -> Uncertain:
        """Out-of-fold scores of models like the final one, which is fitted too."""
        splitter = check_cv(self.cv, target, classifier=True)
        score, uncertainty = np.full(len(target), np.nan), np.full(len(target), np.nan)
        seen = np.zeros(len(target), bool)
        model = self._make_provider()
        # The final model first: it refuses a table that cannot be used in its own words.
        self.provider_ = _fit_provider(clone(model), X, labels, weight)
        for train, test in splitter.split(X, target):
            part = None if weight is None else weight[train]
            fold = _fit_provider(clone(model), _safe_indexing(X, train), labels[train], part)
            score[test], uncertainty[test] = self._see(fold, _safe_indexing(X, test))
            seen[test] = True
        if not seen.all():
            raise ParameterError(
                f"the splitter {type(splitter).__name__} leaves {int((~seen).sum())} of "
                f"{len(seen)} rows in no test part; for splits in time fit the model first and "
                "use cv='prefit' on later rows"
            )
        return Uncertain(score, uncertainty)

    def _make_provider(self) -> Any:
        """An unfitted provider."""
        if isinstance(self.estimator, UncertaintyProvider):
            if not hasattr(self.estimator, "fit"):
                raise ParameterError(
                    f"{type(self.estimator).__name__} is fitted already: use cv='prefit'"
                )
            return self.estimator
        seed = self.random_state
        if callable(self.uncertainty):
            return CallableUncertainty(self.estimator, self.uncertainty)
        if self.uncertainty == "ensemble":
            return EnsembleUncertainty(self.estimator, random_state=seed)
        if self.uncertainty == "mc_dropout":
            return MCDropoutUncertainty(self.estimator, random_state=seed)
        if self.uncertainty == "laplace":
            return LaplaceUncertainty(self.estimator, random_state=seed)
        if self.uncertainty == "posterior_network":
            if self.estimator is not None:
                raise ParameterError(
                    "uncertainty='posterior_network' is a model of its own: leave estimator out, "
                    "or give a PosteriorNetworkClassifier(...) as estimator"
                )
            return PosteriorNetworkClassifier(random_state=seed)
        raise ParameterError(
            "uncertainty must be ensemble, mc_dropout, laplace, posterior_network or a function "
            f"of X, not {self.uncertainty!r}"
        )

    def _positive_position(self) -> int:
        if self.pos_label is None:
            return 1
        at = np.flatnonzero(self.classes_ == self.pos_label)
        if len(at) == 0:
            raise ParameterError(
                f"pos_label={self.pos_label!r} is not among the classes {self.classes_.tolist()}"
            )
        return int(at[0])

    def _see(self, provider: UncertaintyProvider, X: Any) -> Uncertain:
        """Score of the positive class and its uncertainty."""
        seen = provider(X)
        if self._positive_position() == 1:
            return seen
        return Uncertain(1.0 - seen.score, seen.uncertainty)

    def _look(self, X: Any) -> Uncertain:
        """What the fitted model says of new rows."""
        check_is_fitted(self)
        if not isinstance(self.cv, str):
            X = check_predict(self, X)
        return self._see(self.provider_, X)

    def _resolve_abstention(self) -> None:
        text = self.classes_.dtype.kind in "OUS"
        label = self.abstain_label
        if isinstance(label, str) and label == "auto":
            label = "abstain" if text else -1
        if self.abstain and label in self.classes_.tolist():
            raise ParameterError(
                f"abstain_label={label!r} is one of the classes: give another abstain_label"
            )
        self.abstain_label_ = label

    def uncertain(self, X: Any) -> Uncertain:
        """Score ``(n,)`` of the positive class and its uncertainty ``(n,)``."""
        return self._look(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """Decisions ``(n,)``: a class, or ``abstain_label_`` where nothing is decided."""
        check_is_fitted(self)
        decision = self.surface_.predict(*self._look(X))
        positive = self._positive_position()
        labels = self.classes_[np.where(decision == 1, positive, 1 - positive)]
        if not self.abstain:
            return labels
        kind = np.array([self.abstain_label_])
        if labels.dtype.kind == "b":
            labels = labels.astype(np.int8)
        both = np.result_type(labels, kind) if labels.dtype.kind != "O" else np.dtype(object)
        return np.where(decision == -1, kind.astype(both), labels.astype(both))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Recalibrated probabilities ``(n, 2)`` of ``classes_``, given score and uncertainty."""
        check_is_fitted(self)
        probability = self.surface_.predict_proba(*self._look(X))
        return probability if self._positive_position() == 1 else probability[:, ::-1]

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Above 0 ``(n,)`` exactly where :meth:`predict` gives the positive class.

        With ``pos_label`` the first of the classes the sign is turned, as scikit-learn has it: the
        second class is then on the positive side, and 0.
        """
        check_is_fitted(self)
        margin = self.surface_.decision_function(*self._look(X))
        return margin if self._positive_position() == 1 else -margin

    def report(self, X: Any, y: Any, sample_weight: Any = None) -> SurfaceReport:
        """Precision and recall on labelled rows, by level and beside the single threshold."""
        check_is_fitted(self)
        positive = np.asarray(y) == self.classes_[self._positive_position()]
        seen = self._look(X)
        return self.surface_.report(*seen, positive.astype(np.int8), sample_weight)

    def save(self, folder: str | Path) -> None:
        """Writes the model and the surface as JSON and safetensors, without pickle.

        Raises:
            ArtefactError: the model inside cannot be written so (trees of scikit-learn, say, or a
                function); pickle works for all.
        """
        check_is_fitted(self)
        folder = Path(folder)
        parameters = self.get_params(deep=False)
        for name in ("estimator", "uncertainty", "cv"):
            del parameters[name]
        save_estimator(self.provider_, folder / "provider")
        config = {
            "parameters": parameters,
            "classes": classes_to_json(self.classes_),
            "abstain_label": self.abstain_label_,
            "surface": self.surface_.to_json(),
        }
        save_artefact(folder, type(self).__name__, config, {})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote; the model stands in ``estimator`` with ``cv="prefit"``.

        Raises:
            ArtefactError: the folder is damaged, newer, or holds something else.
        """
        config, _ = load_artefact(folder, cls.__name__)
        provider = load_estimator(Path(folder) / "provider")
        with readable(folder, cls.__name__):
            model = cls(provider, cv="prefit", **config["parameters"])
            model.classes_ = classes_from_json(config["classes"])
            model.abstain_label_ = config["abstain_label"]
            model.surface_ = DecisionSurface.from_json(config["surface"])
        model.provider_ = provider
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(provider, name):
                setattr(model, name, getattr(provider, name))
        return model

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        if not isinstance(self.cv, str):
            inner = get_tags(self._make_provider())
            tags.input_tags = inner.input_tags
            tags.non_deterministic = inner.non_deterministic
        return tags


def _fit_provider(model: Any, X: Any, labels: NDArray, weight: NDArray[np.float64] | None) -> Any:
    return model.fit(X, labels) if weight is None else model.fit(X, labels, sample_weight=weight)
