"""A classifier whose labels arrive late, trained as they do."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import nn

from foretell.data.events import Emission, EventLog, Protocol
from foretell.errors import DataError, NotMatureError, ParameterError
from foretell.estimators.feedback import methods as _methods  # noqa: F401  (registers them)
from foretell.estimators.feedback.auxiliary import DelayNet, FittedAuxiliary
from foretell.estimators.feedback.method import Columns, FeedbackMethod, Setting, get_method
from foretell.learners.artefact import load_artefact, readable, save_artefact
from foretell.learners.tabular import FeatureTransform, ModuleTrunk, Trunk
from foretell.training import TensorExamples, fit
from foretell.training.online import CarriedOptimizer, Chronological
from foretell.training.weighting import FeedbackWeighting

LEAST_STEPS = 100
"""Steps of a pre-training at least: a small log is seen more often than ``epochs`` says."""
FINAL = ("oracle", "wait", "ulc", "snapshot")
"""Protocols that can do with labels that are taken back."""
CHUNK = 65_536
"""Rows predicted at once."""
CATCH_UP = 128
"""Rows of a step when the time before the first update is caught up with."""


class DelayedFeedbackClassifier(ClassifierMixin, BaseEstimator):
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

    # ------------------------------------------------------------------ what it is

    @property
    def method_name(self) -> str:
        """The method's name, with ``auto`` resolved."""
        if self.method == "auto":
            return "funnel" if self._kinds() else "esdfm"
        return self.method

    @property
    def protocol(self) -> str:
        """The protocol whose rows it is trained on: ``log.emit(clf.protocol, ...)``."""
        return get_method(self.method_name).protocol

    def emission(self) -> dict[str, Any]:
        """Arguments of ``log.emit`` that give the rows it is trained on: ``log.emit(**these)``."""
        kinds = self._kinds() if self.protocol == "funnel" else ()
        waiting = self.waiting_time_ if hasattr(self, "waiting_time_") else self.waiting_time
        ages = self.method_.ages if hasattr(self, "method_") else ()
        return {
            "protocol": Protocol("ages", self.waiting_time_, ages=ages) if ages else self.protocol,
            "waiting_time": 0.0 if waiting == "auto" else waiting,
            "engagement": kinds,
            "strict": self.strict,
        }

    def _kinds(self) -> tuple[str, ...]:
        return (self.engagement,) if isinstance(self.engagement, str) else tuple(self.engagement)

    def __sklearn_tags__(self) -> Any:
        """NaN is allowed, more than two classes are not."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = False
        return tags

    # ------------------------------------------------------------------ training

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
        self._start(setting, view.matrix(), _categorical(view), view.feature_names)
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

    # ------------------------------------------------------------------ prediction

    def predict_proba(self, X: ArrayLike | EventLog) -> NDArray[np.float64]:
        """Probabilities ``(n, 2)`` of no conversion and of one within the window."""
        inputs = self._inputs(X)
        parts = []
        with torch.inference_mode():
            for part in _chunks(inputs):
                columns: Columns = {}
                for auxiliary in self.auxiliaries_:
                    columns.update(auxiliary.columns(part, None))
                parts.append(self.method_.serve(self.learner_(part), columns).double().numpy())
        positive = np.concatenate(parts) if parts else np.zeros(0)
        return np.stack([1 - positive, positive], 1)

    def predict(self, X: ArrayLike | EventLog) -> NDArray:
        """The likelier class ``(n,)``."""
        positive = self.predict_proba(X)[:, 1]
        return self.classes_[(positive > 0.5).astype(int)]

    def predict_engagement(self, X: ArrayLike | EventLog) -> NDArray[np.float64]:
        """``P(E = 1 | x)`` ``(n,)``: an engagement before the window ends.

        Raises:
            ParameterError: the method has no engagement.
        """
        inputs = self._inputs(X)
        engaged = getattr(self.method_, "engaged", None)
        if engaged is None:
            raise ParameterError(
                f"method {self.method_name!r} does not model engagement; 'funnel' does"
            )
        with torch.inference_mode():
            parts = [engaged(self.learner_(part)).double().numpy() for part in _chunks(inputs)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def predict_delay(self, X: ArrayLike | EventLog, s: float) -> NDArray[np.float64]:
        """``P(D <= s | Y = 1, x)`` ``(n,)``; s in the log's unit.

        Raises:
            ParameterError: the method has no delay model.
        """
        inputs = self._inputs(X)
        for auxiliary in self.auxiliaries_:
            if isinstance(auxiliary.what, DelayNet):
                parts = [
                    auxiliary.what.delay_cdf(auxiliary.probabilities(part), float(s)).numpy()
                    for part in _chunks(inputs)
                ]
                return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
        own = getattr(self.method_, "delay_cdf", None)
        if own is None:
            raise ParameterError(
                f"method {self.method_name!r} with auxiliary={self.setting_.mode!r} has no delay "
                "model; 'esdfm' or 'funnel' with auxiliary='self', and 'dfm', have one"
            )
        with torch.inference_mode():
            parts = [own(self.learner_(part), float(s)).numpy() for part in _chunks(inputs)]
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)

    def sample_weight(self, rows: Emission) -> NDArray[np.float64]:
        """Weight ``(m,)`` that each row has now: of soft labels, the sum over its labels."""
        check_is_fitted(self, "learner_")
        self._check_rows(rows)
        if not len(rows):
            return np.zeros(0)
        kept = self.method_.select(rows)
        batch = self._batch(kept)
        with torch.inference_mode():
            probabilities = self.learner_(batch).log_probabilities.exp()
            weights = torch.ones(len(kept))
            for strategy in self._update_strategies:
                if isinstance(strategy, FeedbackWeighting):
                    weights = weights * strategy.row_masses(probabilities, batch).sum(1)
        result = np.zeros(len(rows))
        if len(kept) == len(rows):
            return weights.double().numpy()
        keys = {(e, s, k): i for i, (e, s, k) in enumerate(_keys(rows))}
        result[[keys[key] for key in _keys(kept)]] = weights.double().numpy()
        return result

    # ------------------------------------------------------------------ saving

    def save(self, folder: str | Path) -> None:
        """Writes the classifier, its optimizer's moments included: JSON and safetensors.

        Raises:
            ParameterError: ``base`` is a module of somebody's own, which cannot be written.
        """
        check_is_fitted(self, "learner_")
        if not isinstance(self.base, str):
            raise ParameterError(
                "a classifier with a module as base cannot be saved: save learner_.state_dict()"
            )
        arrays = {f"learner.{k}": v.cpu().numpy() for k, v in self.learner_.state_dict().items()}
        arrays |= {f"optimizer.{k}": v for k, v in self._optimizer.state().items()}
        nets = []
        for i, auxiliary in enumerate(self.auxiliaries_):
            state = auxiliary.net.state_dict()
            arrays |= {f"aux{i}.net.{k}": v.cpu().numpy() for k, v in state.items()}
            arrays |= {f"aux{i}.optimizer.{k}": v for k, v in auxiliary.optimizer.state().items()}
            arrays[f"aux{i}.constant"] = auxiliary.constant
            if isinstance(auxiliary.what, DelayNet):
                arrays[f"aux{i}.edges"] = auxiliary.what.edges
            nets.append({"name": auxiliary.what.name, "updates": auxiliary.updates})
        parameters = self.get_params(deep=False)
        if isinstance(parameters["random_state"], np.random.RandomState):
            parameters["random_state"] = self._seed
        config = {
            "parameters": {k: _jsonable(v) for k, v in parameters.items()},
            "setting": self.setting_.__dict__,
            "transform": self.transform_.to_dict(),
            "classes": self.classes_.tolist(),
            "features": self.n_features_in_,
            "names": list(getattr(self, "feature_names_in_", [])),
            "seed": self._seed,
            "updates": self.updates_,
            "fits": self._fits,
            "refreshed": self._refreshed,
            "matured": self._matured,
            "auxiliaries": nets,
            "method": self.method_.state(),
        }
        save_artefact(folder, type(self).__name__, config, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> DelayedFeedbackClassifier:
        """Reads what :meth:`save` wrote; training can go on.

        Raises:
            ArtefactError: the folder does not hold such a classifier.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            self = cls(**config["parameters"])
            self.classes_ = np.array(config["classes"])
            self.n_features_in_ = int(config["features"])
            if config["names"]:
                self.feature_names_in_ = np.array(config["names"], dtype=object)
            self._seed = int(config["seed"])
            values = {**config["setting"], "engagement": tuple(config["setting"]["engagement"])}
            self.transform_ = FeatureTransform.from_dict(config["transform"])
            self._build(Setting(**values))
            self.learner_.load_state_dict(_tensors(arrays, "learner."))
            self._optimizer.load_state(_part(arrays, "optimizer."))
            for i, (auxiliary, saved) in enumerate(
                zip(self.auxiliaries_, config["auxiliaries"], strict=True)
            ):
                auxiliary.net.load_state_dict(_tensors(arrays, f"aux{i}.net."))
                auxiliary.optimizer.load_state(_part(arrays, f"aux{i}.optimizer."))
                auxiliary.constant = arrays[f"aux{i}.constant"]
                auxiliary.updates = int(saved["updates"])
                if isinstance(auxiliary.what, DelayNet):
                    auxiliary.what.edges = arrays[f"aux{i}.edges"]
            self.updates_, self._fits = int(config["updates"]), int(config["fits"])
            self._refreshed, self._matured = float(config["refreshed"]), int(config["matured"])
            self.method_.restore(config["method"])
        return self

    # ------------------------------------------------------------------ inside

    def _setting(self, waiting: float, window: float) -> Setting:
        """The method's setting, checked."""
        kind = get_method(self.method_name)
        if self.auxiliary not in ("auto", "self", "frozen", "refresh"):
            raise ParameterError(
                f"auxiliary must be auto, self, frozen or refresh, not {self.auxiliary!r}"
            )
        mode = kind.modes[0] if self.auxiliary == "auto" else self.auxiliary
        if mode not in kind.modes:
            raise ParameterError(
                f"method {self.method_name!r} does not work with auxiliary={mode!r}: its soft "
                f"labels would be its own prediction; one of {', '.join(kind.modes)}"
            )
        if self.weights not in ("exact", "published"):
            raise ParameterError(f"weights must be 'exact' or 'published', not {self.weights!r}")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self._seed = int(self.random_state) if _whole(self.random_state) else int(seed)
        return Setting(
            float(waiting), float(window), mode, self.weights, self._kinds(), self.strict,
            self._seed,
        )  # fmt: skip

    def _resolve_waiting(self, log: EventLog, delays: NDArray[np.float64]) -> float:
        """The waiting time in the log's unit."""
        if isinstance(self.waiting_time, str) and self.waiting_time == "auto":
            seen = delays[np.isfinite(delays)]
            return float(np.quantile(seen, 0.1)) if len(seen) else 0.0
        return log.duration(self.waiting_time, "the waiting time")

    def _start(
        self,
        setting: Setting,
        matrix: NDArray[np.float64],
        categorical: tuple[int, ...],
        names: tuple[str, ...],
    ) -> None:
        """An untrained model for such features."""
        self.n_features_in_ = matrix.shape[1]
        self.transform_ = FeatureTransform.fit(matrix, categorical, names)
        self._build(setting)

    def _build(self, setting: Setting) -> None:
        self.setting_ = setting
        self.waiting_time_ = setting.waiting_time
        self.method_: FeedbackMethod = get_method(self.method_name)(setting)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self.learner_ = self.method_.learner(self._trunk).eval()
        training = {
            **self._training(), "epochs": self.epochs, "batch_size": self.batch_size,
            "least_steps": LEAST_STEPS,
        }  # fmt: skip
        self.auxiliaries_ = [
            FittedAuxiliary(what, self._trunk, self._seed + 1000 * (i + 1), training)
            for i, what in enumerate(self.method_.auxiliaries())
        ]
        self._optimizer = CarriedOptimizer("adam", self.learning_rate)
        self._update_strategies = self.method_.strategies()
        self._fits = self.updates_ = 0
        self._refreshed = -np.inf
        self._matured = 0
        self._alarmed = False
        self.effective_share_ = 1.0

    def _trunk(self, extra: int = 0) -> nn.Module:
        transform = self.transform_
        if isinstance(self.base, nn.Module):
            if transform.categorical or extra:
                raise ParameterError(
                    "a module as base takes standardised numbers only: encode categories first, "
                    "or use base='mlp'"
                )
            return ModuleTrunk(copy.deepcopy(self.base), transform.width)
        if self.base != "mlp":
            raise ParameterError(f"base must be 'mlp' or a torch.nn.Module, not {self.base!r}")
        return Trunk(
            transform.width, transform.cardinalities, tuple(self.hidden_sizes),
            embedding=self.embedding, batch_norm=self.batch_norm, extra=extra,
        )  # fmt: skip

    def _training(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "device": self.device,
            "threads": self.threads,
        }

    def _pretrain(self, inputs: Columns, columns: Columns) -> None:
        """Epochs over final labels."""
        count = len(columns["label"])
        size = min(self.batch_size, count)
        steps = max(self.epochs * -(-count // size), LEAST_STEPS)
        fit(
            self.learner_, TensorExamples({**inputs, **columns}), max_steps=steps, batch_size=size,
            strategies=self.method_.history_strategies(), optimizer=self._optimizer,
            schedule="constant", seed=self._seed, validate_every=steps, **self._training(),
        )  # fmt: skip
        self._fits += 1

    def _train(
        self, batch: Columns, strategies: Sequence[Any], batch_size: int | None = None
    ) -> None:
        """One pass in order."""
        examples = TensorExamples(batch)
        order = Chronological(self.batch_size if batch_size is None else batch_size)
        fit(
            self.learner_, examples, strategies=(order, *strategies),
            max_steps=order.steps(len(examples)), batch_size=order.batch_size,
            optimizer=self._optimizer, schedule="constant", seed=self._seed + self._fits,
            **self._training(),
        )  # fmt: skip
        self._fits += 1

    def _batch(self, rows: Emission) -> Columns:
        """Everything the strategies and the learner need of emitted rows."""
        inputs = self.transform_(rows.log.matrix(rows.entity))
        batch = {**inputs, **self.method_.columns(rows)}
        for auxiliary in self.auxiliaries_:
            batch.update(auxiliary.columns(inputs, rows))
        return batch

    def _refresh(self, log: EventLog) -> None:
        """Auxiliary nets learn from what has matured since the last update."""
        self._relearn(log)
        since, self._refreshed = self._refreshed, log.now
        if self.setting_.mode != "refresh" or not self.auxiliaries_:
            return
        recent = np.flatnonzero(log.matured & (log.deadlines > since))
        if not len(recent):
            return
        matured = log.select(recent)
        inputs = self.transform_(matured.matrix())
        for auxiliary in self.auxiliaries_:
            if not auxiliary.what.delays:
                auxiliary.refresh(matured, inputs)

    def _relearn(self, log: EventLog) -> None:
        """Nets that had too few examples learn anew when a fifth more entities have matured."""
        scarce = [auxiliary for auxiliary in self.auxiliaries_ if auxiliary.scarce]
        if not scarce:
            return
        matured = np.flatnonzero(log.matured)
        if len(matured) < 1.2 * self._matured + 1:
            return
        self._matured = len(matured)
        view = log.select(matured)
        inputs = self.transform_(view.matrix())
        for auxiliary in scarce:
            auxiliary.learn(view, inputs)

    def _watch(self) -> None:
        """Effective sample size of the last update, and the alarm."""
        shares = []
        for strategy in self._update_strategies:
            if isinstance(strategy, FeedbackWeighting):
                shares.append(strategy.effective_share)
                rows = strategy.rows
                strategy.reset()
        if not shares:
            return
        self.effective_share_ = min(shares)
        if self.effective_share_ < 0.1 and rows >= 20 and not self._alarmed:
            self._alarmed = True
            warnings.warn(
                f"the weights of the last {rows} rows are worth only "
                f"{self.effective_share_ * rows:.1f} rows of equal weight: nearly every label is "
                "expected to change. Lengthen waiting_time",
                UserWarning,
                stacklevel=3,
            )

    def _catch_up(self, log: EventLog, view: EventLog) -> None:
        """Rows of entities that are not in the history, in steps of few rows."""
        # The oracle alone is told final labels: its rows need the whole log.
        source = log if self.protocol == "oracle" else view
        rows = source.emit(**self.emission(), until=view.now)
        rows = self.method_.select(rows.select(~view.matured[rows.entity]))
        if len(rows):
            size = min(self.batch_size, CATCH_UP)
            self._train(self._batch(rows), self._update_strategies, size)
            self._watch()

    def _not_mature(self, view: EventLog, matured: int) -> NotMatureError:
        converted = np.isfinite(view.delay())
        ends = view.deadlines[converted] if converted.any() else view.deadlines
        return NotMatureError(
            f"method {self.method_name!r} learns from conversions whose window is over, and there "
            f"is none yet ({matured} entities have matured); 'fnw' and 'wait' need none",
            float(ends.min()),
        )

    def _start_from_rows(self, rows: Emission, log: EventLog) -> None:
        """A model without history, for methods that need none."""
        waiting = rows.protocol.waiting_time
        setting = self._setting(waiting, log.window)
        if get_method(self.method_name)(setting).auxiliaries():
            view = rows.log
            error = self._not_mature(view, int(view.matured.sum()))
            raise NotMatureError(f"call fit_history first: {error.problem}", error.earliest)
        self.classes_ = np.array([0, 1])
        self._start(setting, log.matrix(), _categorical(log), log.feature_names)
        self._refreshed = log.now

    def _check_rows(self, rows: Emission) -> None:
        waiting = self.waiting_time_ if hasattr(self, "waiting_time_") else 0.0
        kinds = self._kinds() if self.protocol == "funnel" else ()
        mine = Protocol(self.protocol, 0.0, kinds, self.strict)
        if mine.shape != rows.protocol.shape:
            raise ParameterError(
                f"method {self.method_name!r} takes the rows of protocol {self.protocol!r}, "
                f"not of {rows.protocol.name!r}: log.emit(**clf.emission(), ...)"
            )
        ages = self.method_.ages if hasattr(self, "method_") else ()
        if ages and tuple(ages) != tuple(rows.protocol.ages):
            raise ParameterError(
                f"the rows were emitted at the ages {list(rows.protocol.ages)}, the model expects "
                f"{list(ages)}: log.emit(**clf.emission(), ...)"
            )
        waits = mine.shape in ("rises", "copies", "once", "funnel") and hasattr(self, "method_")
        if waits and self.auxiliaries_ and not np.isclose(rows.protocol.waiting_time, waiting):
            raise ParameterError(
                f"the rows were emitted after a waiting time of {rows.protocol.waiting_time:g}, "
                f"the auxiliary nets learned {waiting:g}: log.emit(**clf.emission(), ...)"
            )

    def _inputs(self, X: ArrayLike | EventLog) -> Columns:
        check_is_fitted(self, "learner_")
        if isinstance(X, EventLog):
            return self.transform_(X.matrix())
        if len(self.transform_.categorical):
            values = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
            if values.shape[1] != self.n_features_in_:
                raise DataError(
                    f"X has {values.shape[1]} features, {self.n_features_in_} are expected"
                )
        else:
            values = validate_data(
                self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False
            )
        return self.transform_(values)

    def _encode_classes(self, y: ArrayLike, count: int) -> NDArray[np.int64]:
        from sklearn.utils.validation import check_consistent_length, column_or_1d

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


def _categorical(log: EventLog) -> tuple[int, ...]:
    names = set(log.categorical_features)
    return tuple(i for i, name in enumerate(log.feature_names) if name in names)


def _chunks(inputs: Columns) -> list[Columns]:
    count = len(inputs["numbers"])
    starts = range(0, count, CHUNK)
    return [{key: value[i : i + CHUNK] for key, value in inputs.items()} for i in starts]


def _keys(rows: Emission) -> list[tuple[int, int, int]]:
    return list(zip(rows.entity.tolist(), rows.stage.tolist(), rows.label.tolist(), strict=True))


def _part(arrays: dict[str, NDArray], prefix: str) -> dict[str, NDArray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _tensors(arrays: dict[str, NDArray], prefix: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v.copy()) for k, v in _part(arrays, prefix).items()}


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
