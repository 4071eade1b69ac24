"""What all estimators of language share: training, losses, saving."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.data.text.table import TextTable
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.learners.artefact import load_artefact, readable, save_artefact
from foretell.learners.contract import Learner
from foretell.learners.restoring import restored
from foretell.training import FitResult, Strategy, fit, use_threads
from foretell.training.private import PrivacyStatement, PrivateTraining


class ReadExamples(Protocol):
    """Examples that know which row of their table each of them comes from."""

    rows: NDArray[np.int64]

    def __len__(self) -> int: ...

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Tensors of some examples."""
        ...


@dataclass(eq=False, repr=False, kw_only=True)
class LanguageEstimator(BaseEstimator, ABC):
    """An estimator with one learner and one reader; a dataclass, whose fields are its parameters.

    Scikit-learn reads parameters off the signature of ``__init__``, which dataclasses write out
    with the fields of all their bases: each is declared once.

    Args:
        epochs: passes over the data; ``max_steps`` when given.
        max_steps: steps of the optimizer.
        batch_size: examples a step.
        accumulate: micro-batches a step. Private draws come sorted by length, so that four of them
            save most of the padding.
        learning_rate: the highest of the schedule.
        weight_decay: on matrices.
        optimizer: by name; see :func:`foretell.training.fit`.
        schedule: of the learning rate, by name.
        gradient_clip: largest norm of the batch's gradient; None for no limit.
        validate_every: steps between validations.
        patience: validations without a better score after which training stops.
        random_state: of everything that is random.
        threads: of torch on a CPU; None for the physical cores this process may use.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        precision: ``32-true``, ``64-true``, ``bf16-true`` or ``bf16-mixed``.
        checkpoint: folder for checkpoints.
        resume: go on from the checkpoint there.
        progress: draw a progress line.
    """

    reads: ClassVar[type[TextTable]]
    at_once: ClassVar[int] = 256

    epochs: float = 12
    max_steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    optimizer: str = "adam"
    schedule: str = "constant"
    gradient_clip: float | None = None
    validate_every: int = 100
    patience: int | None = None
    random_state: int = 0
    threads: int | None = None
    device: str = "auto"
    precision: str = "32-true"
    checkpoint: str | None = None
    resume: bool = False
    progress: bool = False

    @abstractmethod
    def _learn(self, data: Any) -> Any:
        """The reader of a training part."""

    @abstractmethod
    def _make(self, *, trained: bool = False) -> Learner:
        """The learner for ``reader_``; with weights of its own to begin with, unless trained."""

    @abstractmethod
    def _examples(self, data: Any, *, training: bool = False) -> ReadExamples:
        """Examples as ``reader_`` reads them."""

    @abstractmethod
    def _restore(self, config: dict[str, Any]) -> None:
        """Takes back what :meth:`_state` gave."""

    def _state(self) -> dict[str, Any]:
        """JSON values, besides parameters, that the learner is made of."""
        return {"reader": self.reader_.to_dict()}

    def _parameters(self) -> dict[str, Any]:
        """Parameters as JSON values."""
        parameters = self.get_params(deep=False)
        if not isinstance(parameters.get("vocabulary"), (int, type(None))):
            parameters["vocabulary"] = list(parameters["vocabulary"])
        return parameters

    def _published(self) -> list[str]:
        """What a guarantee of privacy takes for public."""
        return []

    def _require_labels(self, data: Any) -> None:
        """Refuses data to train on that lack what is to be learned."""

    def _fit(self, data: Any, strategies: Sequence[Strategy], validation: Any | None) -> Self:
        self._check()
        name = type(self).__name__
        if not isinstance(data, self.reads):
            raise DataError(
                f"a {self.reads.__name__} is needed, not a {type(data).__name__}",
                hint=f"Make one with a class method of foretell.data.text.{self.reads.__name__}",
            )
        self._require_labels(data)
        if len(data.splits) > 1:
            warnings.warn(
                f"{name} trains on all parts ({', '.join(data.splits)}): give data.part('train') "
                "to keep the others for judging",
                stacklevel=3,
            )
        private = [s for s in strategies if isinstance(s, PrivateTraining)]
        self.reader_ = self._learn(data)
        examples = self._examples(data, training=True)
        size = min(self.batch_size, len(examples))
        steps = self.max_steps or max(1, int(self.epochs * len(examples) / size))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.learner_: Any = self._make()
        self.result_: FitResult = fit(
            self.learner_, examples, strategies=strategies,
            validation=None if validation is None else self._examples(validation),
            max_steps=steps, batch_size=max(1, size // self.accumulate),
            best_weights=not private, **self._training(),
        )  # fmt: skip
        self.learner_.float()
        self.privacy_: PrivacyStatement | None = None
        if private:
            statement = private[0].statement()
            public = (*statement.assumptions, *self._published())
            self.privacy_ = replace(statement, assumptions=public)
        self.is_fitted_ = True
        return self

    def _training(self) -> dict[str, Any]:
        """Arguments of :func:`foretell.training.fit` that are parameters."""
        return {
            "accumulate": self.accumulate, "optimizer": self.optimizer,
            "learning_rate": self.learning_rate, "weight_decay": self.weight_decay,
            "schedule": self.schedule, "gradient_clip": self.gradient_clip,
            "validate_every": self.validate_every, "patience": self.patience,
            "seed": self.random_state, "threads": self.threads, "device": self.device,
            "precision": self.precision, "resume": self.resume, "progress": self.progress,
            "checkpoint": None if self.checkpoint is None else Path(self.checkpoint),
        }  # fmt: skip

    def _outputs(self, examples: ReadExamples) -> Iterator[tuple[NDArray[np.int64], Any, Any]]:
        """Indices, batch and output, batch by batch."""
        with use_threads(self.threads), torch.inference_mode():
            for begin in range(0, len(examples), self.at_once):
                chosen = np.arange(begin, min(begin + self.at_once, len(examples)))
                batch = examples.batch(chosen)
                yield chosen, batch, self.learner_(batch)

    def losses(self, data: Any) -> NDArray[np.float32]:
        """Score of each row ``(n,)`` in nats, as in training; what membership attacks read.

        Labels that training never saw count as 0. A row that was cut into several examples has the
        mean of theirs.

        Raises:
            NotFittedError: before ``fit``.
        """
        self._require_fit()
        examples = self._examples(data)
        found, times = np.zeros(len(data), np.float64), np.zeros(len(data))
        for chosen, batch, output in self._outputs(examples):
            np.add.at(found, examples.rows[chosen], self.learner_.score(output, batch).numpy())
            np.add.at(times, examples.rows[chosen], 1)
        return (found / np.maximum(times, 1)).astype(np.float32)

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors; see :mod:`foretell.learners.artefact`."""
        self._require_fit()
        config = {
            "parameters": self._parameters(),
            **self._state(),
            "privacy": None if self.privacy_ is None else self.privacy_.to_dict(),
        }
        arrays = {n: t.cpu().numpy() for n, t in self.learner_.state_dict().items()}
        save_artefact(folder, type(self).__name__, config, arrays)

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
            model._restore(config)
            model.learner_ = restored(lambda: model._make(trained=True), arrays)
            saved = config["privacy"]
            model.privacy_ = None if saved is None else PrivacyStatement.from_dict(saved)
        model.is_fitted_ = True
        return model

    def _counts(self) -> tuple[str, ...]:
        """Parameters that are whole numbers from 1."""
        return ("batch_size", "accumulate")

    def _shares(self) -> tuple[str, ...]:
        """Parameters in [0, 1)."""
        return ()

    def _check(self) -> None:
        for name in self._counts():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(f"{name} must be a whole number from 1, not {value!r}")
        if self.batch_size % self.accumulate:
            raise ParameterError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate "
                f"({self.accumulate})"
            )
        for name in self._shares():
            if not 0 <= getattr(self, name) < 1:
                raise ParameterError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if self.max_steps is None and not self.epochs > 0:
            raise ParameterError(f"epochs must be positive, not {self.epochs}")

    def _require_fit(self) -> None:
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit first")
