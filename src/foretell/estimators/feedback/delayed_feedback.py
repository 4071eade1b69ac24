"""A classifier whose labels arrive late, trained as they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    column_or_1d,
    validate_data,
)
from torch import nn

from foretell.data.events import Emission, EventLog
from foretell.errors import DataError, ParameterError
from foretell.estimators.feedback.predictions import FeedbackPredictions
from foretell.estimators.feedback.saved import SavedFeedback
from foretell.estimators.feedback.updates import categorical_columns

FINAL = ("oracle", "wait", "ulc", "snapshot")
"""Protocols that can do with labels that are taken back."""


class DelayedFeedbackClassifier(FeedbackPredictions, SavedFeedback):
    """Predicts conversions whose labels take their time, and learns from labels not yet final.

    Two ways to train it. On a log: :meth:`fit_history` learns from what is final at a moment, and
    :meth:`partial_fit` goes on with the rows that a log emits after it, each weighed as its method
    says. On final labels, as any classifier: ``fit(X, y)``.

    Args:
        base: ``"mlp"``, or a ``torch.nn.Module`` that maps standardised numbers ``(B, width)`` to
            an encoding ``(B, out)``; the head is added to it. It is copied.
        method: ``auto``, which is ``funnel`` with an engagement and ``esdfm`` without; or a name
            in :data:`~foretell.estimators.feedback.METHODS`: ``vanilla``, ``wait``, ``oracle``,
            ``fnw``, ``fnc``, ``esdfm``, ``defer``, ``defuse``, ``bidefuse``, ``ulc``, ``ddfm``,
            ``dfm``, ``fsiw``, ``gdfm``, ``funnel``.
        engagement: kinds of outcomes that come before a conversion, for ``funnel``.
        strict: whether a conversion implies engagement.
        weights: ``exact``, or ``published`` as in the papers.
        auxiliary: ``self`` takes its own prediction and learns only delays from matured
            conversions; ``frozen`` trains the published auxiliary nets once, ``refresh`` updates
            them with every call on what has just matured. ``auto`` is ``self``, but ``frozen`` for
            methods with soft labels, whose target would become their own prediction.
        waiting_time: e, from exposure to the first row of an entity: a number in the log's unit,
            text such as ``"6h"``, or ``"auto"`` for the 10 % quantile of matured delays.
        hidden_sizes: units of the layers of ``"mlp"``.
        batch_norm: whether they are normalised, as the published networks are. Updates of about a
            hundred rows are steadier without: on both simulated streams of
            :func:`~foretell.data.simulators.funnel_stream` the divergence from the truth was 14
            to 33 % lower.
        embedding: dimensions of a categorical feature.
        learning_rate: of Adam, for pre-training and updates.
        batch_size: rows of a step.
        weight_decay: L2 penalty on matrices.
        epochs: passes of the pre-training.
        device: ``cpu``, ``cuda``, ...
        threads: of torch during training.
        random_state: seed of everything that is random.

    Attributes:
        classes_: the two labels.
        waiting_time_: e in the log's unit.
        n_features_in_: number of features.
        learner_: the trained network.
        updates_: calls of :meth:`partial_fit` that trained something.
        effective_share_: effective sample size of the weights over the rows, of the last update.
    """

    def __init__(
        self,
        base: str | nn.Module = "mlp",
        method: str = "auto",
        *,
        engagement: Sequence[str] | str = (),
        strict: bool = True,
        weights: Literal["exact", "published"] = "exact",
        auxiliary: Literal["auto", "self", "frozen", "refresh"] = "auto",
        waiting_time: float | str = "auto",
        hidden_sizes: Sequence[int] = (256, 256, 128),
        batch_norm: bool = False,
        embedding: int = 8,
        learning_rate: float = 1e-3,
        batch_size: int = 1024,
        weight_decay: float = 1e-6,
        epochs: int = 5,
        device: str = "cpu",
        threads: int | None = 1,
        random_state: Any = 0,
    ) -> None:
        self.base = base
        self.method = method
        self.engagement = engagement
        self.strict = strict
        self.weights = weights
        self.auxiliary = auxiliary
        self.waiting_time = waiting_time
        self.hidden_sizes = hidden_sizes
        self.batch_norm = batch_norm
        self.embedding = embedding
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.device = device
        self.threads = threads
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """NaN is allowed, more than two classes are not."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = False
        return tags

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> DelayedFeedbackClassifier:
        """Trains on final labels: no delays, no correction.

        Args:
            X: features ``(n, d)``, NaN where missing; all numeric.
            y: two classes ``(n,)``.
            sample_weight: ``(n,)``.

        Raises:
            DataError: not two classes.
        """
        matrix = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        codes = self._encode_classes(y, len(matrix))
        setting = self._setting(0.0, 1.0)
        self._start(setting, matrix, (), tuple(f"x{i}" for i in range(matrix.shape[1])))
        columns = self.method_.array_labels(codes)
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, matrix, dtype=np.float32)
            columns["weight"] = torch.from_numpy(weight)
        self._pretrain(self.transform_(matrix), columns)
        return self

    def fit_history(
        self, log: EventLog, until: Any = None, *, catch_up: bool = False
    ) -> DelayedFeedbackClassifier:
        """Learns from what is final at ``until``; nothing that happened later is looked at.

        Features are standardised on the entities seen by then, the model is trained on entities
        whose windows are over, and so are the auxiliary nets.

        Args:
            log: what happened.
            until: the moment; ``log.now``, or all of the log, where None.
            catch_up: whether to go on with the rows that the entities whose windows are not over
                have emitted until then. Without it, those entities are first seen when their
                labels rise, which makes the first window of updates somewhat too optimistic; the
                published comparisons do without.

        Raises:
            NotMatureError: the method needs auxiliary nets and no converted entity's window is
                over; it names the earliest workable moment.
            DataError: the log is empty.
        """
        view = log if until is None else log.until(until)
        if not len(view):
            raise DataError("the log holds no entity up to this moment")
        matured = view.select(np.flatnonzero(view.matured))
        delays = matured.delay()
        setting = self._setting(self._resolve_waiting(view, delays), view.window)
        if setting.waiting_time >= view.window:
            raise ParameterError(
                f"the waiting time {setting.waiting_time:g} must be shorter than the attribution "
                f"window {view.window:g}"
            )
        if self.protocol not in FINAL:
            view.require_monotone(f"method {self.method_name!r}")
        self.classes_ = np.array([0, 1])
        self._start(setting, view.matrix(), categorical_columns(view), view.feature_names)
        self._refreshed, self._matured = view.now, len(matured)
        if self.auxiliaries_ and not np.isfinite(delays).any():
            raise self._not_mature(view, len(matured))
        if len(matured):
            inputs = self.transform_(matured.matrix())
            for auxiliary in self.auxiliaries_:
                auxiliary.learn(matured, inputs)
            self._pretrain(inputs, self.method_.history(matured))
        if catch_up:
            self._catch_up(log, view)
        return self

    def partial_fit(
        self,
        rows: Emission | ArrayLike,
        y: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> DelayedFeedbackClassifier:
        """One pass over newly emitted rows, in their order; the optimizer goes on where it was.

        Args:
            rows: what ``log.emit(**clf.emission(), since=..., until=...)`` gave. Or features
                ``(n, d)`` with final labels ``y``, as scikit-learn's classifiers take them.
            y: final labels ``(n,)`` of features.
            classes: the two classes, at the first call with features.
            sample_weight: ``(n,)``, with features.

        Raises:
            NotMatureError: the method needs auxiliary nets: call :meth:`fit_history` first.
            ParameterError: the rows come of another protocol.
        """
        if y is not None:
            return self._partial_arrays(rows, y, classes, sample_weight)
        if not isinstance(rows, Emission):
            raise ParameterError(
                "partial_fit takes the rows of log.emit(...), or features with labels: "
                "partial_fit(X, y)"
            )
        self._check_rows(rows)
        if not len(rows):
            return self
        log = rows.log.until(float(rows.time.max()))
        if not hasattr(self, "method_"):
            self._start_from_rows(rows, log)
        self._refresh(log)
        chosen = self.method_.select(rows)
        if len(chosen):
            self._train(self._batch(chosen), self._update_strategies)
            self._watch()
            self.updates_ += 1
        return self

    def _partial_arrays(
        self, X: Any, y: ArrayLike, classes: ArrayLike | None, sample_weight: ArrayLike | None
    ) -> DelayedFeedbackClassifier:
        first = not hasattr(self, "method_")
        X = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=first)
        if first:
            known = np.unique(np.asarray(y if classes is None else classes))
            self._encode_classes(known, len(known))
            setting = self._setting(0.0, 1.0)
            self._start(setting, X, (), tuple(f"x{i}" for i in range(X.shape[1])))
        codes = np.searchsorted(self.classes_, np.asarray(y))
        wrong = (codes >= 2) | (self.classes_[np.minimum(codes, 1)] != np.asarray(y))
        if wrong.any():
            raise DataError(f"y holds labels that are not among {self.classes_.tolist()}")
        columns = self.method_.array_labels(codes.astype(np.int64))
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float32)
            columns["weight"] = torch.from_numpy(weight)
        self._train({**self.transform_(X), **columns}, self.method_.history_strategies())
        self.updates_ += 1
        return self

    def _encode_classes(self, y: ArrayLike, count: int) -> NDArray[np.int64]:
        values = column_or_1d(y, warn=True)
        check_consistent_length(np.zeros(count), values)
        check_classification_targets(values)
        self.classes_, codes = np.unique(values, return_inverse=True)
        if len(self.classes_) > 2:
            raise DataError(
                "Only binary classification is supported. The type of the target is "
                f"{type_of_target(values)}"
            )
        if len(self.classes_) < 2:
            raise DataError(
                f"Classifier can't train when only one class is present: all labels are "
                f"{self.classes_[0]!r}"
            )
        return codes.astype(np.int64)
