"""A classifier retrained at one instant on labels that are not final yet."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from foretell.data.events import EventLog
from foretell.errors import DataError, NotMatureError, ParameterError
from foretell.estimators.feedback.recalibration import (
    IsotonicMap,
    LogitShift,
    fit_recalibration,
)
from foretell.estimators.feedback.snapshot_auxiliary import (
    check_classifier,
    default_classifier,
    with_seed,
)
from foretell.estimators.feedback.snapshot_corrector import (
    SnapshotCorrector,
    categorical_mask,
    not_mature,
    split_log,
)
from foretell.estimators.feedback.snapshot_view import SnapshotView, draw_ages, funnel_stages
from foretell.training.weighting.exact import effective_sample_size

FloatArray = NDArray[np.float64]

SNAPSHOT_METHODS = ("naive", "history", "fsiw", "soft", "funnel", "average", "oracle")
_FEW = 0.1  # share of effective rows below which weights are an alarm


class SnapshotClassifier(ClassifierMixin, BaseEstimator):
    """Any scikit-learn classifier, trained at ``now`` as if all labels were final.

    Methods:
        ``"naive"``: labels visible now, as they are: too few positives.
        ``"history"``: only entities whose window is over: right labels, old rows.
        ``"fsiw"``, ``"soft"``: see :class:`SnapshotCorrector`.
        ``"funnel"``: a model of each step - engagement, conversion of those who engaged - with
            importance weights; served is their product. Engagement is known within hours, which
            mends most of the shortage of labels.
        ``"average"``: the mean of the probabilities of several methods.
        ``"oracle"``: final labels of the same rows, for experiments: needs the complete log.

    How the funnel is weighed: with ``weights="plain"`` the second step is FSIW among those who have
    engaged by now. They engaged early, and convert more often than later ones, so that the product
    is too high and wants a recalibration. ``weights="exact"`` (default) weighs that selection
    away, see :mod:`foretell.estimators.feedback.snapshot_weights`.

    How a recalibration is learned: comparing today's model with old final labels would learn the
    drift between then and now and undo the correction. Instead the whole training is replayed on
    matured entities, with the labels that were visible at the ages of today's rows, and its error
    on matured entities that took no part in the fit is mapped away.

    ``fit(X, y)`` with arrays takes the labels as final and trains the estimator on them.

    Args:
        estimator: classifier whose ``fit`` takes ``sample_weight``; None for boosted trees.
        method: see above; ``"auto"`` is ``"funnel"`` with an engagement and ``"fsiw"`` without.
        engagement: kinds of outcomes before the conversion, any of which counts; a sequence of
            sequences is a funnel of several stages. ``"naive"``, ``"history"`` and ``"oracle"``
            make no use of it.
        weights: ``"exact"`` or ``"plain"``, of the funnel.
        recalibration: ``"shift"`` (one parameter on the logit), ``"isotonic"`` or None;
            ``"auto"`` is a shift for the plain funnel and None otherwise.
        average: the methods whose probabilities ``"average"`` averages.
        auxiliary: classifier for the auxiliary probabilities; None for gradient-boosted trees.
        clip: least probability that divides a weight.
        replicates: ages at which each matured entity is looked at.
        folds: of the replay.
        random_state: seed of ages, folds and of estimators whose own seed is open.

    Attributes:
        estimators_: the fitted classifiers, by name.
        model_card_: what was done, in values that JSON holds: method, instant, numbers of rows,
            effective sample size of each training set, shift, warnings.
    """

    def __init__(
        self,
        estimator: Any = None,
        method: str = "auto",
        *,
        engagement: str | Sequence[Any] = (),
        weights: Literal["exact", "plain"] = "exact",
        recalibration: Literal["auto", "shift", "isotonic"] | None = "auto",
        average: Sequence[str] = ("fsiw", "funnel"),
        auxiliary: Any = None,
        clip: float = 0.05,
        replicates: int = 4,
        folds: int = 3,
        random_state: int = 0,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.engagement = engagement
        self.weights = weights
        self.recalibration = recalibration
        self.average = average
        self.auxiliary = auxiliary
        self.clip = clip
        self.replicates = replicates
        self.folds = folds
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        now: Any = None,
        since: Any = -np.inf,
        history: tuple[Any, Any] | None = None,
    ) -> SnapshotClassifier:
        """Trains on a log at an instant, ``fit(log, now)``, or on final labels, ``fit(X, y)``.

        Args:
            X: an :class:`~foretell.data.EventLog`, or features (n, d).
            y: the instant ``now`` where ``X`` is a log, else labels (n,).
            sample_weight: (n,) where ``X`` is an array.
            now: the instant, another way.
            since: train on entities from this time on; with ``"history"``, this has no effect.
            history: begin (inclusive) and end (exclusive) of the times of the matured entities
                that delays (and ``"history"``) are learned from; all of them where None.

        Raises:
            NotMatureError: the method learns from matured entities and there is none that
                converted; it names the earliest instant at which there will be.
            ParameterError: a parameter is out of range, or methods and data do not go together.
        """
        if isinstance(X, EventLog):
            instant = y if now is None else now
            if instant is None:
                raise ParameterError("fit(log, now) needs an instant: the log's last is log.now")
            if sample_weight is not None:
                raise ParameterError("a log brings its own weights; sample_weight must be None")
            return self._fit_log(X, instant, since, history)
        return self._fit_final(X, y, sample_weight)

    def predict_proba(self, X: Any) -> FloatArray:
        """Probabilities (n, 2) of the classes, for features (n, d) or the entities of a log."""
        check_is_fitted(self, "estimators_")
        if isinstance(X, EventLog):
            X = self._features(X)
        else:
            X = validate_data(
                self, X, reset=False, dtype=None, ensure_all_finite=not self._takes_nan(),
            )  # fmt: skip
        if not hasattr(self, "components_"):
            return self.estimators_["final"].predict_proba(X)
        p = self._combine(self.components_, X)
        if self.map_ is not None:
            p = self.map_(p)
        return np.column_stack([1 - p, p])

    def predict(self, X: Any) -> NDArray:
        """The class (n,) that is more probable."""
        if not hasattr(self, "components_"):
            check_is_fitted(self, "estimators_")
        p = self.predict_proba(X)
        return self.classes_[np.argmax(p, axis=1)]

    def predict_engagement(self, X: Any) -> FloatArray:
        """Probability (n,) of the first engagement stage.

        Raises:
            ParameterError: the method has no model of engagement.
        """
        check_is_fitted(self, "estimators_")
        models = getattr(self, "components_", {}).get("funnel")
        if models is None:
            raise ParameterError("only methods with a funnel have a model of engagement")
        X = self._features(X) if isinstance(X, EventLog) else np.asarray(X)
        return _positive(models[0], X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = self._takes_nan()
        return tags

    # ------------------------------------------------------------------ final labels

    def _fit_final(self, X: Any, y: Any, sample_weight: Any) -> SnapshotClassifier:
        self._check()
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        X, y = validate_data(self, X, y, dtype=None, ensure_all_finite=not self._takes_nan())
        classes = np.unique(y)
        from sklearn.utils.multiclass import check_classification_targets

        check_classification_targets(y)
        if len(classes) > 2:
            raise ValueError(
                f"Only binary classification is supported. The target has {len(classes)} classes"
            )
        if len(classes) < 2:
            raise ValueError("Classifier can't train when only one class is present in y")
        model = self._make(None)
        self._fit_estimator(model, X, y, sample_weight)
        for name in ("components_", "map_", "log_features_", "vocabularies_"):
            if hasattr(self, name):
                delattr(self, name)
        self.estimators_ = {"final": model}
        self.classes_ = classes
        self.model_card_ = {"method": "final labels", "rows": len(y)}
        return self

    # ------------------------------------------------------------------ a log at an instant

    def _fit_log(
        self, log: EventLog, now: Any, since: Any, history: tuple[Any, Any] | None
    ) -> SnapshotClassifier:
        self._check()
        method, parts = self._method(), self._parts()
        if any(part in ("fsiw", "funnel") for part in parts):
            log.require_monotone(f"method {method!r}")
        view, targets, past_rows = split_log(log, now, since, history)
        categorical = categorical_mask(view)
        stages = funnel_stages(self.engagement)
        past = SnapshotView.of(view.select(past_rows), stages)
        seen = SnapshotView.of(view.select(targets), stages)
        truth = self._truth(log, view, targets) if "oracle" in parts else None
        self.n_features_in_ = len(view.feature_names)
        self.log_features_ = view.feature_names
        self.vocabularies_ = dict(view.vocabularies)
        self._notes: list[str] = []
        card: dict[str, Any] = {
            "method": method,
            "parts": list(parts),
            "now": view.now,
            "unit": view.unit,
            "window": view.window,
            "engagement": [list(kinds) for kinds in stages],
            "weights": self.weights,
            "rows": len(seen),
            "rows_matured": int(seen.matured.sum()),
            "rows_history": len(past),
            "visible_positives": int(seen.visible.sum()),
            "clip": self.clip,
        }
        try:
            self.components_, sizes = self._train(parts, past, seen, categorical, truth, note=True)
        except NotMatureError as error:
            raise not_mature(view, error.problem) from None
        self.classes_ = np.array([0, 1])
        self.estimators_ = {
            name if len(models) == 1 else f"{name}_{k}": model
            for name, models in self.components_.items()
            for k, model in enumerate(models)
        }
        self.map_ = self._learn_map(parts, past, seen, categorical)
        card["effective_sample_size"] = sizes
        card.update(
            {"recalibration": None, "shift": 0.0} if self.map_ is None else self.map_.describe()
        )
        card["warnings"] = list(self._notes)
        self.model_card_ = card
        return self

    def _train(
        self,
        parts: Sequence[str],
        past: SnapshotView,
        seen: SnapshotView,
        categorical: NDArray[np.bool_],
        truth: NDArray[np.bool_] | None = None,
        note: bool = False,
    ) -> tuple[dict[str, list[Any]], dict[str, Any]]:
        """The models of each part, and the effective sizes of what they were trained on."""
        components: dict[str, list[Any]] = {}
        sizes: dict[str, Any] = {}
        for part in parts:
            sets = self._rows(part, past, seen, categorical, truth, note)
            models = []
            for k, (X, y, weight) in enumerate(sets):
                name = part if len(sets) == 1 else f"{part}_{k}"
                effective = effective_sample_size(weight)
                sizes[name] = {
                    "rows": len(y), "effective": effective, "mean_label": _mean(y, weight),
                    "largest_weight": float(weight.max()) if len(weight) else 0.0,
                }  # fmt: skip
                if note and len(y) and effective < _FEW * len(y):
                    self._warn(
                        f"the {len(y):,} rows of {name!r} are worth {effective:,.0f} rows of equal "
                        "weight: nearly every label is expected to change"
                    )
                models.append(self._fit_weighted(X, y, weight, categorical, name, note))
            components[part] = models
        return components, sizes

    def _rows(
        self,
        part: str,
        past: SnapshotView,
        seen: SnapshotView,
        categorical: NDArray[np.bool_],
        truth: NDArray[np.bool_] | None,
        note: bool,
    ) -> list[tuple[FloatArray, NDArray, FloatArray]]:
        """Training sets of a part, one a model."""
        if part == "naive":
            return [(seen.X, seen.visible, np.ones(len(seen)))]
        if part == "oracle":
            assert truth is not None
            return [(seen.X, truth, np.ones(len(seen)))]
        if part == "history":
            if not past.final.any():
                raise NotMatureError("no matured entity converted yet")
            return [(past.X, past.final, np.ones(len(past)))]
        corrector = SnapshotCorrector(
            part,  # type: ignore[arg-type]
            self.engagement if part != "fsiw" else (),
            weights=self.weights,
            auxiliary=self.auxiliary,
            clip=self.clip,
            replicates=self.replicates,
            random_state=self.random_state,
        )
        if part == "fsiw":
            past, seen = past.conversions(), seen.conversions()
        corrector._fit_views(past, seen, categorical)
        if note:
            self._notes += [f"too few examples of {what}" for what in corrector.fallbacks_]
        steps = len(seen.reach) if part == "funnel" else 1
        sets = []
        for k in range(steps):
            at, y, weight = corrector._step(seen, k) if steps > 1 else corrector._correct(seen)
            sets.append((seen.X[at], y, weight))
        return sets

    def _fit_weighted(
        self,
        X: FloatArray,
        y: NDArray,
        weight: FloatArray,
        categorical: NDArray[np.bool_],
        name: str,
        note: bool,
    ) -> Any:
        y = np.asarray(y).astype(np.int64)
        if len(y) == 0:
            raise NotMatureError(f"there is no row to train {name!r} on: nobody has engaged yet")
        if y.min() == y.max():
            if note:
                self._warn(f"all {len(y):,} rows of {name!r} have label {y[0]}: it is a constant")
            model = DummyClassifier(strategy="prior")
            return model.fit(X, y, sample_weight=weight)
        model = self._make(categorical)
        self._fit_estimator(model, X, y, None if np.all(weight == 1) else weight)
        return model

    def _learn_map(
        self,
        parts: Sequence[str],
        past: SnapshotView,
        seen: SnapshotView,
        categorical: NDArray[np.bool_],
    ) -> LogitShift | IsotonicMap | None:
        """What the training gets wrong when it is replayed on matured entities."""
        kind = self.recalibration
        if kind == "auto":
            kind = "shift" if "funnel" in parts and self.weights == "plain" else None
        if kind is None or not any(part in ("fsiw", "soft", "funnel") for part in parts):
            return None
        parts = [part for part in parts if part in ("fsiw", "soft", "funnel")]
        rng = np.random.default_rng(self.random_state)
        rows, ages = draw_ages(past, seen, 1, rng)
        if len(rows) < 2 * self.folds:
            return None
        then = past.select(rows).aged(ages)
        fold = rng.permutation(len(rows)) % self.folds
        p = np.empty(len(rows))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                for k in range(self.folds):
                    rest = fold != k
                    components, _ = self._train(
                        parts, past.select(rows[rest]), then.select(rest), categorical
                    )
                    p[~rest] = self._combine(components, then.X[~rest])
        except NotMatureError:
            self._warn("too few conversions have matured to replay the training: no recalibration")
            return None
        return fit_recalibration(kind, p, then.final)

    def _combine(self, components: dict[str, list[Any]], X: Any) -> FloatArray:
        """Probability (n,) of a conversion: products over steps, means over parts."""
        total = np.zeros(len(X))
        for models in components.values():
            p = np.ones(len(X))
            for model in models:
                p = p * _positive(model, X)
            total += p
        return total / len(components)

    def _truth(
        self, log: EventLog, view: EventLog, targets: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Final labels of the rows, from the complete log."""
        same = log.select(log.times <= view.now).select(targets)
        if not same.matured.all():
            raise NotMatureError(
                "method 'oracle' takes final labels, and the log ends before they are final",
                float(same.deadlines.max()),
            )
        return same.label().astype(bool)

    # ------------------------------------------------------------------ parameters

    def _check(self) -> None:
        for name in self._parts():
            if name not in SNAPSHOT_METHODS or name in ("auto", "average"):
                raise ParameterError(
                    f"method must be one of {('auto', *SNAPSHOT_METHODS)}, not {name!r}"
                )
        if not self._parts():
            raise ParameterError("average must name at least one method")
        SnapshotCorrector(
            weights=self.weights,
            clip=self.clip,
            replicates=self.replicates,
            auxiliary=self.auxiliary,
        )._check()
        if "funnel" in self._parts() and not funnel_stages(self.engagement):
            raise ParameterError("method 'funnel' needs engagement=, a kind before the conversion")
        if self.recalibration not in (None, "auto", "shift", "isotonic"):
            raise ParameterError(
                f"recalibration must be 'auto', 'shift', 'isotonic' or None, not "
                f"{self.recalibration!r}"
            )
        if self.folds < 2:
            raise ParameterError(f"folds must be at least 2, not {self.folds!r}")
        if self.estimator is not None:
            check_classifier(self.estimator, "estimator")

    def _method(self) -> str:
        if self.method == "auto":
            return "funnel" if funnel_stages(self.engagement) else "fsiw"
        return self.method

    def _parts(self) -> tuple[str, ...]:
        method = self._method()
        return tuple(self.average) if method == "average" else (method,)

    def _make(self, categorical: NDArray[np.bool_] | None) -> Any:
        if self.estimator is None:
            return default_classifier(categorical, self.random_state)
        return with_seed(clone(self.estimator), self.random_state)

    def _fit_estimator(self, model: Any, X: Any, y: Any, weight: Any) -> None:
        if weight is None:
            model.fit(X, y)
        elif has_fit_parameter(model, "sample_weight"):
            model.fit(X, y, sample_weight=weight)
        else:
            raise ParameterError(
                f"{type(model).__name__}.fit takes no sample_weight, which corrections need"
            )

    def _takes_nan(self) -> bool:
        if self.estimator is None:
            return True
        try:
            from sklearn.utils import get_tags

            return bool(get_tags(self.estimator).input_tags.allow_nan)
        except AttributeError:
            return False

    def _features(self, log: EventLog) -> FloatArray:
        """Features of a log, which must be those of the fit."""
        if not hasattr(self, "vocabularies_"):
            return log.matrix()
        names = list(self.log_features_)
        if list(log.feature_names) != names:
            raise DataError(
                f"the log has the features {list(log.feature_names)}, the fit had {names}"
            )
        X = log.matrix()
        for column, name in enumerate(names):
            old, new = self.vocabularies_.get(name), log.vocabularies.get(name)
            if old == new:
                continue
            if old is None or new is None:
                raise DataError("a feature is a category in one log only", column=name)
            # Codes belong to a vocabulary; names that the fit did not know are unknown, 0.
            table = {value: code for code, value in enumerate(old, start=1)}
            codes = np.array([0, *(table.get(value, 0) for value in new)], float)
            X[:, column] = codes[X[:, column].astype(np.int64)]
        return X

    def _warn(self, message: str) -> None:
        self._notes.append(message)
        warnings.warn(message, UserWarning, stacklevel=5)


def _positive(model: Any, X: Any) -> FloatArray:
    """Probability (n,) of label 1 from a classifier that may know one label only."""
    p = model.predict_proba(X)
    classes = list(model.classes_)
    return p[:, classes.index(1)] if 1 in classes else np.zeros(len(p))


def _mean(y: NDArray, weight: FloatArray) -> float:
    total = float(weight.sum())
    return float((weight * y).sum()) / total if total > 0 else float("nan")
