"""Nets of an hour's features: how they are trained, asked, followed and kept."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from torch import Tensor

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.labels import target
from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.estimators.risk.explained import ExplainsHours
from foretell.estimators.risk.parts import held_out, stated
from foretell.learners.artefact import load_artefact, readable, save_artefact
from foretell.learners.contract import Batch
from foretell.learners.restoring import restored
from foretell.learners.risk.asking import AT_ONCE, asked
from foretell.learners.risk.examples import (
    HourExamples,
    StayExamples,
    checked_rows,
    require_finite,
    row_mask,
)
from foretell.learners.risk.feed_forward import RiskLearner
from foretell.learners.risk.ranking import auroc
from foretell.learners.risk.stream import Memory, RiskStream
from foretell.training import FitResult, Strategy, fit, use_threads
from foretell.training.private import PrivacyStatement, PrivateTraining

Net = TypeVar("Net", bound=RiskLearner)


class HourlyNet(ExplainsHours, BaseEstimator, Generic[Net]):
    """Risk of the onset within the next hours, from the features of each hour, by any net.

    Subclasses name their hyper-parameters, make the net and say what moved it.

    Attributes:
        features_: the fitted feature builder; None after training on a matrix.
        encoder_: the fitted encoder, or None.
        learner_: the net.
        offset_: what is added to its log-odds for the rate of the training part.
        privacy_: the statement of private training, or None.
    """

    features: str
    horizon: float
    hidden: Sequence[int]
    negatives: int
    positives: int
    unit: Literal["row", "stay"]
    stays: int
    epochs: float
    max_steps: int | None
    learning_rate: float
    weight_decay: float
    schedule: str
    validation_size: float
    validate_every: int | None
    patience: int | None
    random_state: int
    threads: int | None
    device: str
    n_knots: int = 0
    learner_: Net

    @abstractmethod
    def _net(self, width: int) -> Net:
        """An untrained net of ``width`` inputs.

        Raises:
            ParameterError: a hyper-parameter out of its range.
        """

    def _prepare(self, features: NDArray[np.float32]) -> None:
        """What the net learns of (R, F) training hours before it is trained; nothing by default."""

    def _fits_a_matrix(self) -> None:
        """Raises a ParameterError where the net must know what each feature is."""

    def fit(
        self,
        X: Stays | ArrayLike,
        y: ArrayLike | None = None,
        *,
        validation: Stays | tuple[ArrayLike, ArrayLike] | None = None,
        rows: ArrayLike | None = None,
        strategies: Sequence[Strategy] = (),
    ) -> Self:
        """Trains on stays, or on scaled features and labels.

        Args:
            X: stays with their onset: hours before it are trained on; or (R, F) features without
                missing values, such as :meth:`CausalFeatureBuilder.transform` gives.
            y: (R,) labels where X is a matrix.
            validation: stays, or features and labels, to stop by. Without it, a share of the
                patients is held out (of stays; a matrix then has no validation). Private training
                uses none: choosing weights by raw data would break its guarantee.
            rows: (R,) mask of further restrictions, such as a subsample of hours.
            strategies: what changes the training.

        Raises:
            DataError: no hour at risk, or one class only.
            ParameterError: a hyper-parameter out of its range.
            TrainingError: training failed, or strategies cannot be combined.
        """
        self._check()
        private = [s for s in strategies if isinstance(s, PrivateTraining)]
        lengths: NDArray[np.int64] | None = None
        self.features_: CausalFeatureBuilder | None = None
        if isinstance(X, Stays):
            stays = X
            if validation is None and self.validation_size > 0 and not private and rows is None:
                stays, validation = held_out(stays, self.validation_size)
            wanted = target(stays, self.horizon)
            kept = wanted.at_risk if rows is None else wanted.at_risk & row_mask(rows, stays.n_rows)
            builder = CausalFeatureBuilder(self.features, schema=stays.schema)
            self.features_ = builder.fit(stays, kept)
            features, label = builder.transform(stays, kept), wanted.label[kept]
            lengths = np.bincount(stays.stay_of_row()[kept], minlength=len(stays))
            lengths = lengths[lengths > 0]
        else:
            if y is None:
                raise ParameterError("a matrix of features needs labels: fit(X, y)")
            self._fits_a_matrix()
            features, label = checked_rows(X, y)
            if rows is not None:
                features, label = features[np.asarray(rows)], label[np.asarray(rows)]
        return self._train(features, label, lengths, validation, strategies, private)

    def _train(
        self,
        features: NDArray[np.float32],
        label: NDArray[np.int8],
        lengths: NDArray[np.int64] | None,
        validation: Stays | tuple[ArrayLike, ArrayLike] | None,
        strategies: Sequence[Strategy],
        private: list[PrivateTraining],
    ) -> Self:
        self.encoder_ = PiecewiseLinearEncoder(self.n_knots).fit(features) if self.n_knots else None
        share = self.positives / (self.positives + self.negatives)
        rate = float(label.mean())
        self.offset_ = 0.0
        examples: HourExamples | StayExamples
        if self.unit == "stay":
            if lengths is None:
                raise ParameterError("unit='stay' needs Stays, not a matrix")
            examples = StayExamples(features, label, lengths, self.encoder_)
            size, pass_ = self.stays, len(lengths) / self.stays
        else:
            size = self.positives + self.negatives
            pass_ = (len(label) - label.sum()) / self.negatives
            if not 0 < rate < 1:
                raise DataError(
                    f"{int(label.sum())} of {len(label)} hours are positive",
                    hint="Both classes are needed",
                )
            odds = share / (1 - share) / (rate / (1 - rate))
            self.offset_ = -math.log(odds)
            if private:
                # Every hour has the same chance of being drawn; classes are weighed instead.
                weight = np.where(label == 1, share / rate, (1 - share) / (1 - rate))
                examples = HourExamples(features, label, self.encoder_, weight=weight)
            else:
                examples = HourExamples(features, label, self.encoder_, positives=share)
        width = features.shape[1] if self.encoder_ is None else self.encoder_.n_outputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.learner_ = self._net(width)
        self._prepare(features)
        self.n_features_in_ = features.shape[1]
        pass_ = max(1, round(pass_))
        every = self.validate_every or max(1, pass_ // 2)
        score = None if validation is None or private else self._validation(validation)
        self.result_: FitResult = fit(
            self.learner_, examples, strategies=strategies, validation=score,
            max_steps=self.max_steps or max(1, round(self.epochs * pass_)), batch_size=size,
            learning_rate=self.learning_rate, weight_decay=self.weight_decay,
            schedule=self.schedule, validate_every=every,
            patience=self.patience if score is not None else None,
            best_weights=not private, seed=self.random_state, threads=self.threads,
            device=self.device,
        )  # fmt: skip
        self.privacy_: PrivacyStatement | None = None
        if private:
            self.privacy_ = stated(private[0].statement(), self.unit)
        self.is_fitted_ = True
        return self

    def _validation(self, given: Stays | tuple[ArrayLike, ArrayLike]) -> Any:
        """Minus the AUROC on given hours, as a function of the learner."""
        if isinstance(given, Stays):
            wanted = target(given, self.horizon)
            builder = self._builder()
            X, y = builder.transform(given, wanted.at_risk), wanted.label[wanted.at_risk]
        else:
            X, y = checked_rows(*given)
        if math.isnan(auroc(np.zeros(len(y)), y)):
            raise DataError(
                "the validation part has one class only",
                hint="Give more patients to stop by, or set validation_size=0",
            )

        def score(learner: Net) -> float:
            return -auroc(self._logits(learner, X), y)

        return score

    def decision_function(self, X: Stays | ArrayLike) -> NDArray[np.float64]:
        """(R,) log-odds of the onset within the horizon, for every hour.

        Raises:
            NotFittedError: before ``fit``.
            DataError: a feature is not finite; what the builder's ``transform`` makes always is.
        """
        self._require_fit()
        with use_threads(self.threads):
            if not isinstance(X, Stays):
                features = np.asarray(X, np.float32)
                logits = self._logits(self.learner_, features)
                require_finite(features)
                return logits + self.offset_
            builder = self._builder()
            parts = [
                self._logits(self.learner_, builder.transform(c)) for c in X.chunks(8 * AT_ONCE)
            ]
        return np.concatenate([*parts, np.zeros(0)]) + self.offset_

    def predict_proba(self, X: Stays | ArrayLike) -> NDArray[np.float64]:
        """(R, 2) probabilities of no onset and of the onset within the horizon, for every hour."""
        risk = 1 / (1 + np.exp(-self.decision_function(X)))
        return np.stack([1 - risk, risk], axis=1)

    def losses(self, stays: Stays) -> NDArray[np.float32]:
        """(N,) mean loss of each stay's hours at risk; NaN where it has none."""
        wanted = target(stays, self.horizon)
        z = self.decision_function(stays)
        each = np.logaddexp(0.0, np.where(wanted.label == 1, -z, z))
        stay = stays.stay_of_row()
        hours = np.bincount(stay, wanted.at_risk, minlength=len(stays))
        sums = np.bincount(stay, np.where(wanted.at_risk, each, 0.0), minlength=len(stays))
        return np.where(hours > 0, sums / np.maximum(hours, 1), np.nan).astype(np.float32)

    def stream(self, *, site: str | None = None, **described: Any) -> RiskStream:
        """The live form for one stay; see :meth:`CausalFeatureBuilder.stream` for the arguments."""
        self._require_fit()
        return RiskStream(self, self._builder().stream(site=site, **described))

    def memory(self) -> Memory:
        """Nothing is carried but what the features carry."""
        return {}

    def advance(self, memory: Memory, features: NDArray[np.float32]) -> tuple[float, Memory]:
        """The risk of an hour with scaled features (F,)."""
        return float(self.predict_proba(features[None])[0, 1]), memory

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors; see :mod:`foretell.learners.artefact`."""
        self._require_fit()
        config = {
            "parameters": self.get_params(deep=False) | {"hidden": list(self.hidden)},
            "features": None if self.features_ is None else self.features_.to_dict(),
            "encoder": None if self.encoder_ is None else self.encoder_.to_dict(),
            "n_features": self.n_features_in_,
            "offset": self.offset_,
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
            told, encoder = config["features"], config["encoder"]
            model.features_ = None if told is None else CausalFeatureBuilder.from_dict(told)
            model.encoder_ = None if encoder is None else PiecewiseLinearEncoder.from_dict(encoder)
            model.n_features_in_ = int(config["n_features"])
            model.offset_ = float(config["offset"])
            if not math.isfinite(model.offset_):
                raise ValueError("the offset of the log-odds is not finite")
            known = model.encoder_.knots if model.encoder_ is not None else None
            if known is not None and len(known) != model.n_features_in_:
                raise ValueError("the encoder has another number of features")
            if model.features_ is not None and model.features_.n_features != model.n_features_in_:
                raise ValueError("the features have another number than the net")
            width = model.n_features_in_ if known is None else model.encoder_.n_outputs  # type: ignore[union-attr]
            model.learner_ = restored(lambda: model._net(width), arrays)
            saved = config["privacy"]
            model.privacy_ = None if saved is None else PrivacyStatement.from_dict(saved)
        model.is_fitted_ = True
        return model

    @property
    def classes_(self) -> NDArray[np.int64]:
        """0 and 1."""
        return np.array([0, 1])

    def _logits(self, learner: Net, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._told(learner, features, lambda batch: learner(batch).logit.double())

    def _told(
        self, learner: Net, features: NDArray[np.float32], ask: Callable[[Batch], Tensor]
    ) -> NDArray[Any]:
        """(R, ...) what a net says of hours with scaled features (R, F), so many at once."""
        if features.ndim != 2 or features.shape[1] != self.n_features_in_:
            raise ParameterError(
                f"features must be (R, {self.n_features_in_}), not {features.shape}"
            )
        return asked(learner, features, ask, self.encoder_)

    def _builder(self) -> CausalFeatureBuilder:
        if self.features_ is None:
            raise NotFittedError(
                "this model was trained on a matrix: give scaled features instead of stays"
            )
        return self.features_

    def _check(self) -> None:
        if self.unit not in ("row", "stay"):
            raise ParameterError(f"unit must be 'row' or 'stay', not {self.unit!r}")
        for name in ("negatives", "positives", "stays"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(f"{name} must be a whole number from 1, not {value!r}")
        if not self.horizon > 0:
            raise ParameterError(f"horizon must be positive, not {self.horizon}")
        if self.max_steps is None and not self.epochs > 0:
            raise ParameterError(f"epochs must be positive, not {self.epochs}")
        if not 0 <= self.validation_size < 1:
            raise ParameterError(f"validation_size must lie in [0, 1), not {self.validation_size}")

    def _require_fit(self) -> None:
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(stays) first")
