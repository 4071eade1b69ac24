"""The networks behind a classifier of late labels, and how they are trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from torch import nn

from foretell.data.events import Emission, EventLog
from foretell.errors import ParameterError
from foretell.estimators.feedback import methods as _methods  # noqa: F401  (registers them)
from foretell.estimators.feedback.auxiliary import FittedAuxiliary
from foretell.estimators.feedback.method import Columns, FeedbackMethod, Setting, get_method
from foretell.learners.tabular import FeatureTransform, ModuleTrunk, Trunk
from foretell.training import TensorExamples, fit
from foretell.training.online import CarriedOptimizer, Chronological

LEAST_STEPS = 100
"""Steps of a pre-training at least: a small log is seen more often than ``epochs`` says."""


class FeedbackModel(ClassifierMixin, BaseEstimator):
    """A method with its learner and auxiliary nets; hyper-parameters are its subclass's."""

    base: str | nn.Module
    method: str
    engagement: Sequence[str] | str
    strict: bool
    weights: Literal["exact", "published"]
    auxiliary: str
    waiting_time: float | str
    hidden_sizes: Sequence[int]
    batch_norm: bool
    embedding: int
    learning_rate: float
    batch_size: int
    weight_decay: float
    epochs: int
    device: str
    threads: int | None
    random_state: Any
    classes_: NDArray[Any]
    n_features_in_: int

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

    def _kinds(self) -> tuple[str, ...]:
        return (self.engagement,) if isinstance(self.engagement, str) else tuple(self.engagement)

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


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
