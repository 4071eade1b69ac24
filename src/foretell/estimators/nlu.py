"""Joint intent and slot models as scikit-learn users know them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.data.text import TextSet, Vocabulary
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.learners.artefact import load_artefact, save_artefact
from foretell.learners.language.encoders import ENCODERS
from foretell.learners.language.joint import JointLearner, JointShape
from foretell.learners.language.reader import TextExamples, TextReader, check_labelled
from foretell.learners.language.understanding import Understanding
from foretell.training import FitResult, Strategy, fit, use_threads
from foretell.training.private import PrivacyStatement, PrivateTraining

_AT_ONCE = 256
_PUBLIC_LABELS = "the lists of intents and slot tags are public"
_PUBLIC_WORDS = "the vocabulary is public, although it was read off the training part"


class NLU(BaseEstimator):
    """Natural language understanding: the intent of an utterance, and its slots.

    One network for both, trained from scratch on :class:`~foretell.data.TextSet` objects. A text
    classifier where there are intents only, a tagger where there are slots only.

    Args:
        encoder: ``"bilstm"`` or ``"transformer"`` (pre-norm).
        embedding: dimensions of a word.
        hidden: units of each direction of the LSTM, or width of the transformer.
        layers: of the encoder.
        heads: of the transformer.
        characters: whether words are also read letter by letter, by a convolution.
        dropout: share of embedded and encoded values dropped.
        unknown_rate: share of words hidden in training, so that unknown ones can be read.
        min_count: occurrences that a word of the training part needs to be known.
        vocabulary: to use instead of the words of the training part, a public one if training is
            private.
        epochs: passes over the data; ``max_steps`` when given.
        max_steps: steps of the optimizer.
        batch_size: utterances a step.
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

    Example:
        >>> from foretell.training.private import PrivateTraining
        >>> private = PrivateTraining(target_epsilon=8)  # doctest: +SKIP
        >>> model = NLU().fit(text, strategies=[private])  # doctest: +SKIP
        >>> print(model.privacy_)  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder: Literal["bilstm", "transformer"] = "bilstm",
        *,
        embedding: int = 64,
        hidden: int = 128,
        layers: int = 1,
        heads: int = 4,
        characters: bool = False,
        dropout: float = 0.0,
        unknown_rate: float = 0.0,
        min_count: int = 1,
        vocabulary: Sequence[str] | None = None,
        epochs: float = 12,
        max_steps: int | None = None,
        batch_size: int = 64,
        accumulate: int = 1,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        optimizer: str = "adam",
        schedule: str = "constant",
        gradient_clip: float | None = None,
        validate_every: int = 100,
        patience: int | None = None,
        random_state: int = 0,
        threads: int | None = None,
        device: str = "auto",
        precision: str = "32-true",
        checkpoint: str | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> None:
        self.encoder = encoder
        self.embedding = embedding
        self.hidden = hidden
        self.layers = layers
        self.heads = heads
        self.characters = characters
        self.dropout = dropout
        self.unknown_rate = unknown_rate
        self.min_count = min_count
        self.vocabulary = vocabulary
        self.epochs = epochs
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.validate_every = validate_every
        self.patience = patience
        self.random_state = random_state
        self.threads = threads
        self.device = device
        self.precision = precision
        self.checkpoint = checkpoint
        self.resume = resume
        self.progress = progress

    def fit(
        self,
        text: TextSet,
        *,
        strategies: Sequence[Strategy] = (),
        validation: TextSet | None = None,
    ) -> Self:
        """Trains on a set of utterances, all of them: give ``text.part("train")``.

        Args:
            text: utterances with intents, slots or both.
            strategies: what changes the training, ``PrivateTraining`` among them; used once.
            validation: utterances whose loss is logged; the weights that do best on it are kept,
                but not in private training, whose guarantee they would break.

        Raises:
            DataError: utterances without labels.
            ParameterError: a hyper-parameter out of its range.
            TrainingError: training failed, or strategies cannot be combined.
        """
        self._check()
        if not isinstance(text, TextSet):
            raise DataError(
                f"a TextSet is needed, not a {type(text).__name__}",
                hint="Make one with TextSet.from_texts or TextSet.from_frame",
            )
        check_labelled(text)
        if len(text.splits) > 1:
            warnings.warn(
                f"NLU trains on all parts ({', '.join(text.splits)}): give text.part('train') to "
                "keep the others for judging",
                stacklevel=2,
            )
        private = [s for s in strategies if isinstance(s, PrivateTraining)]
        self.reader_ = TextReader.learn(
            text,
            vocabulary=None if self.vocabulary is None else Vocabulary(self.vocabulary),
            min_count=self.min_count,
            characters=self.characters,
        )
        examples = TextExamples(text, self.reader_, unknown_rate=self.unknown_rate)
        size = min(self.batch_size, len(examples))
        steps = self.max_steps or max(1, int(self.epochs * len(examples) / size))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.learner_ = JointLearner(self._shape(self.reader_))
        self.result_: FitResult = fit(
            self.learner_, examples, strategies=strategies,
            validation=None if validation is None else TextExamples(validation, self.reader_),
            max_steps=steps, batch_size=max(1, size // self.accumulate),
            accumulate=self.accumulate, optimizer=self.optimizer,
            learning_rate=self.learning_rate, weight_decay=self.weight_decay,
            schedule=self.schedule, gradient_clip=self.gradient_clip,
            validate_every=self.validate_every, patience=self.patience,
            best_weights=not private, seed=self.random_state, threads=self.threads,
            device=self.device, precision=self.precision,
            checkpoint=None if self.checkpoint is None else Path(self.checkpoint),
            resume=self.resume, progress=self.progress,
        )  # fmt: skip
        self.learner_.float()
        self.privacy_: PrivacyStatement | None = None
        if private:
            statement = private[0].statement()
            public = [_PUBLIC_LABELS] + [_PUBLIC_WORDS] * (self.vocabulary is None)
            self.privacy_ = replace(statement, assumptions=(*statement.assumptions, *public))
        self.is_fitted_ = True
        return self

    def predict(self, text: TextSet | Sequence[str | Sequence[str]]) -> Understanding:
        """Intents and slots of utterances.

        Args:
            text: a set, or strings (cut at whitespace), or lists of tokens.

        Raises:
            NotFittedError: before ``fit``.
            DataError: an empty utterance.
        """
        self._require_fit()
        given = text if isinstance(text, TextSet) else TextSet.from_texts(text)
        examples = TextExamples(given, self.reader_)
        intents = np.zeros((len(given), len(self.reader_.intents)), np.float32)
        names = np.array(self.reader_.slots, dtype=object)
        tags: list[list[str]] = [[] for _ in range(len(given))]
        with use_threads(self.threads), torch.inference_mode():
            for begin in range(0, len(examples), _AT_ONCE):
                chosen = np.arange(begin, min(begin + _AT_ONCE, len(examples)))
                output = self.learner_(examples.batch(chosen))
                rows = examples.rows[chosen]
                intents[rows] = output.intent.softmax(-1).numpy()
                if len(names):
                    best = output.slots.argmax(-1).numpy()
                    lengths = examples.lengths[chosen]
                    for row, codes, length in zip(rows, best, lengths, strict=True):
                        tags[row] = names[codes[:length]].tolist()
        return Understanding(
            given.tokens, self.reader_.intents, intents, tags if len(names) else None
        )

    def predict_proba(self, text: TextSet | Sequence[str | Sequence[str]]) -> NDArray[np.float32]:
        """Chances of the intents ``(n, I)``, in the order of ``classes_``."""
        return self.predict(text).probabilities

    def losses(self, text: TextSet) -> NDArray[np.float32]:
        """Score of each utterance ``(n,)`` in nats, as in training; what membership attacks read.

        Labels that training never saw count as 0.
        """
        self._require_fit()
        examples = TextExamples(text, self.reader_)
        found = np.zeros(len(text), np.float32)
        with use_threads(self.threads), torch.inference_mode():
            for begin in range(0, len(examples), _AT_ONCE):
                chosen = np.arange(begin, min(begin + _AT_ONCE, len(examples)))
                losses = self.learner_.loss(examples.batch(chosen))
                found[examples.rows[chosen]] = losses.numpy()
        return found

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Intents in the order of the probabilities."""
        self._require_fit()
        return np.array(self.reader_.intents)

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors; see :mod:`foretell.learners.artefact`."""
        self._require_fit()
        parameters = self.get_params(deep=False)
        if self.vocabulary is not None:
            parameters["vocabulary"] = list(self.vocabulary)
        config = {
            "parameters": parameters,
            "reader": self.reader_.to_dict(),
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
        try:
            model = cls(**config["parameters"])
            model._check()
            model.reader_ = TextReader.from_dict(config["reader"])
            shape = model._shape(model.reader_)
            # Sizes first, without memory: a wrong file must not have gigabytes allocated.
            with torch.device("meta"):
                expected = JointLearner(shape).state_dict()
            for name, tensor in expected.items():
                if arrays[name].shape != tuple(tensor.shape):
                    raise ValueError(f"{name} has shape {arrays[name].shape}")
            with torch.random.fork_rng(devices=[]):
                model.learner_ = JointLearner(shape)
            state = {n: torch.from_numpy(arrays[n].copy()) for n in expected}
            model.learner_.load_state_dict(state)
            saved = config["privacy"]
            model.privacy_ = None if saved is None else PrivacyStatement.from_dict(saved)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ArtefactError(f"{folder} is not a readable {cls.__name__}: {error}") from error
        model.learner_.eval()
        model.is_fitted_ = True
        return model

    def _shape(self, reader: TextReader) -> JointShape:
        return JointShape(
            words=len(reader.words), intents=len(reader.intents), slots=len(reader.slots),
            encoder=self.encoder, embedding=self.embedding, hidden=self.hidden,
            layers=self.layers, heads=self.heads, dropout=self.dropout,
            characters=0 if reader.characters is None else len(reader.characters),
        )  # fmt: skip

    def _check(self) -> None:
        if self.encoder not in ENCODERS:
            raise ParameterError(
                f"encoder must be one of {', '.join(ENCODERS)}, not {self.encoder!r}"
            )
        for name in ("embedding", "hidden", "layers", "heads", "batch_size", "accumulate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(f"{name} must be a whole number from 1, not {value!r}")
        if self.batch_size % self.accumulate:
            raise ParameterError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate "
                f"({self.accumulate})"
            )
        for name in ("dropout", "unknown_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ParameterError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if self.max_steps is None and not self.epochs > 0:
            raise ParameterError(f"epochs must be positive, not {self.epochs}")

    def _require_fit(self) -> None:
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError("NLU is not fitted: call fit(text) first")
