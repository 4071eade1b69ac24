"""What the tabular networks share: validation of tables, training, prediction, saving."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from foretell.errors import ParameterError
from foretell.estimators.uncertainty.provider import binary_target
from foretell.estimators.uncertainty.saving import classes_from_json, classes_to_json
from foretell.learners.artefact import load_artefact, readable, save_artefact
from foretell.learners.contract import Learner
from foretell.learners.restoring import restored
from foretell.learners.tabular.features import FeatureTransform
from foretell.training import FitResult, TensorExamples, fit, use_threads

_PREDICTED_AT_ONCE = 8192
_LEAST_TO_VALIDATE = 200


class TabularClassifier(ClassifierMixin, BaseEstimator):
    """Base of the binary classifiers that train one network on a table.

    A sub-class says what is learned (:meth:`_make_learner`) and what is predicted.

    Args:
        hidden_sizes: widths of the network's hidden layers.
        epochs: passes over the training rows.
        min_steps: steps of the optimizer at least, however few the rows.
        batch_size: rows a step.
        learning_rate: the highest of the schedule.
        weight_decay: on matrices, not on biases.
        validation_fraction: share of the rows, drawn class by class, on which the best weights
            are chosen; 0 for none. Tables below 200 rows are never split.
        patience: validations, one an epoch, without a better score after which training stops;
            None to go on. The learning rate rises over the first third of the training: a small
            patience may stop it before it has begun.
        categorical_features: numbers or names of columns that hold codes 0, 1, 2, ... and are
            embedded; a code unknown to the fit counts as 0.
        embedding_size: width of each embedding.
        random_state: seed of everything that is random.
        threads: of torch on a CPU; None for the physical cores this process may use.
        device: ``auto``, ``cpu``, ``cuda``.
    """

    classes_: NDArray[Any]
    learner_: Any
    n_features_in_: int

    def __init__(
        self,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        epochs: int = 20,
        min_steps: int = 300,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        categorical_features: Sequence[int | str] | None = None,
        embedding_size: int = 8,
        random_state: Any = None,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        self.hidden_sizes = hidden_sizes
        self.epochs = epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.categorical_features = categorical_features
        self.embedding_size = embedding_size
        self.random_state = random_state
        self.threads = threads
        self.device = device

    @abstractmethod
    def _make_learner(self) -> Learner:
        """An untrained learner for ``features_`` and ``class_weights_``."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains the network.

        Args:
            X: ``(n, d)`` numbers, missing ones NaN; categorical columns hold codes.
            y: ``(n,)`` two classes.
            sample_weight: ``(n,)`` how much each row counts.

        Raises:
            ValueError: a table or target that cannot be used.
            ParameterError: a hyper-parameter out of its range.
            TrainingError: a loss that is not finite.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan",
                             ensure_min_samples=2)  # fmt: skip
        target = binary_target(self, y)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not 0 <= self.validation_fraction < 1:
            raise ParameterError(
                f"validation_fraction must lie in [0, 1), not {self.validation_fraction!r}"
            )
        random = check_random_state(self.random_state)
        seed = int(random.randint(np.iinfo(np.int32).max))
        held = _held_out(target, self.validation_fraction, np.random.default_rng(seed))
        counts = np.bincount(target[~held], weights=weight[~held], minlength=2)
        if not counts.min() > 0:
            raise ValueError(f"sample_weight leaves nothing of one class: sums {counts.tolist()}")
        self.class_weights_ = counts
        self.features_ = FeatureTransform.fit(
            X[~held], tuple(self._categorical_columns()), self._column_names()
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learner = self._make_learner()
        rows = int((~held).sum())
        size = min(self.batch_size, rows)
        epoch = max(1, rows // max(size, 1))
        self.history_: FitResult = fit(
            learner,
            self._examples(X[~held], target[~held], weight[~held]),
            validation=self._examples(X[held], target[held], weight[held]) if held.any() else None,
            max_steps=max(self.min_steps, math.ceil(self.epochs * rows / max(size, 1))),
            batch_size=size,
            optimizer=self._optimizer(),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            validate_every=epoch,
            patience=self.patience if held.any() else None,
            seed=seed,
            threads=self.threads,
            device=self.device,
        )
        self.learner_ = learner.eval()
        return self

    def batches(self, X: Any) -> Iterator[dict[str, Tensor]]:
        """A validated table as the learner's batches, in order."""
        check_is_fitted(self)
        values = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan",
                               reset=False)  # fmt: skip
        for begin in range(0, len(values), _PREDICTED_AT_ONCE):
            yield self.features_(values[begin : begin + _PREDICTED_AT_ONCE])

    def predict(self, X: Any) -> NDArray[Any]:
        """The likelier class ``(n,)`` of each row."""
        check_is_fitted(self)
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(np.intp)]

    @abstractmethod
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities ``(n, 2)`` of the two classes, in the order of ``classes_``."""

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors; see :mod:`foretell.learners.artefact`."""
        check_is_fitted(self)
        parameters = self.get_params(deep=False)
        if not isinstance(parameters["random_state"], int | np.integer):
            parameters["random_state"] = None
        config = {
            "parameters": parameters,
            "classes": classes_to_json(self.classes_),
            "n_features": self.n_features_in_,
            "names": getattr(self, "feature_names_in_", np.array([])).tolist(),
            "features": self.features_.to_dict(),
            "class_weights": self.class_weights_,
        }
        arrays = {k: v.cpu().numpy() for k, v in self.learner_.state_dict().items()}
        save_artefact(folder, type(self).__name__, config, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: the folder is damaged, newer, or holds something else.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            parameters = config["parameters"]
            parameters["hidden_sizes"] = tuple(parameters["hidden_sizes"])
            model = cls(**parameters)
            model.classes_ = classes_from_json(config["classes"])
            model.n_features_in_ = config["n_features"]
            if config["names"]:
                model.feature_names_in_ = np.array(config["names"], dtype=object)
            model.features_ = FeatureTransform.from_dict(config["features"])
            model.class_weights_ = np.array(config["class_weights"])
            model.learner_ = restored(model._make_learner, arrays)
        return model

    def _optimizer(self) -> str:
        return "adamw"

    def _run(self, X: Any, function: Any) -> list[Any]:
        """``function(learner, batch)`` of every batch, without gradients."""
        with use_threads(self.threads), torch.inference_mode():
            return [function(self.learner_, batch) for batch in self.batches(X)]

    def _examples(self, X: NDArray, target: NDArray, weight: NDArray) -> TensorExamples:
        columns = self.features_(X)
        columns["label"] = torch.from_numpy(target.astype(np.int64))
        columns["weight"] = torch.from_numpy(weight.astype(np.float32))
        return TensorExamples(columns)

    def _trunk_arguments(self) -> dict[str, Any]:
        """What a trunk is built from."""
        return {
            "width": self.features_.width,
            "cardinalities": self.features_.cardinalities,
            "hidden_sizes": tuple(self.hidden_sizes),
            "embedding": self.embedding_size,
            "batch_norm": False,
        }

    def _column_names(self) -> tuple[str, ...]:
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            return tuple(f"x{i}" for i in range(self.n_features_in_))
        return tuple(str(name) for name in names)

    def _categorical_columns(self) -> list[int]:
        names = getattr(self, "feature_names_in_", None)
        columns = []
        for column in () if self.categorical_features is None else self.categorical_features:
            if isinstance(column, str):
                known = [] if names is None else list(names)
                if column not in known:
                    raise ParameterError(
                        f"categorical_features names {column!r}; the table's columns are {known}"
                    )
                columns.append(known.index(column))
            else:
                columns.append(int(column))
        return columns

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        tags.non_deterministic = self.random_state is None
        return tags


def _held_out(target: NDArray, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rows to validate on: the same share of each class, none where rows are few."""
    held = np.zeros(len(target), bool)
    if share == 0 or len(target) < _LEAST_TO_VALIDATE:
        return held
    for value in (0, 1):
        rows = np.flatnonzero(target == value)
        held[rng.permutation(rows)[: round(share * len(rows))]] = True
    return held
