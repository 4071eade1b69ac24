"""The feed-forward risk net as scikit-learn users know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.labels import target
from foretell.data.clinical.stays import Stays
from foretell.errors import (
    DataError,
    NotFittedError,
    ParameterError,
)
from foretell.estimators.risk.explained import ExplainsHours
from foretell.estimators.risk.parts import held_out, stated
from foretell.learners.artefact import load_artefact, readable, save_artefact
from foretell.learners.restoring import restored
from foretell.learners.risk.attributions import (
    Method,
    by_feature,
    gradient_contributions,
)
from foretell.learners.risk.examples import HourExamples, StayExamples, checked_rows, encoded
from foretell.learners.risk.feed_forward import FeedForwardRiskLearner, FeedForwardShape
from foretell.learners.risk.ranking import auroc
from foretell.learners.risk.stream import Memory, RiskStream
from foretell.learners.risk.weighting import AgingColumns
from foretell.training import FitResult, Strategy, fit, use_threads
from foretell.training.private import PrivacyStatement, PrivateTraining

TimeSince = Literal["feature", "weight", "drop"]

_AT_ONCE = 8192


class FeedForwardRisk(ExplainsHours, BaseEstimator):
    """Risk of the onset within the next hours, from the features of each hour.

    Every feature is given as it is and in a piecewise-linear encoding (Gorishniy, Rubachev and
    Babenko, NeurIPS 2022). Batches hold ``negatives`` and ``positives`` hours in the mean, drawn
    with replacement; the log-odds are corrected for it afterwards, so that predictions are
    probabilities at the rate of the training part. Training ends with the weights that rank hours
    of held-out patients best (AUROC).

    Args:
        features: name of the features; see :class:`~foretell.data.clinical.FeatureSpec`.
        horizon: hours ahead within which the onset counts.
        hidden: units of the layers.
        dropout: share of units dropped.
        n_knots: quantiles of the piecewise-linear encoding; 0 for none.
        time_since: what is made of the hours since each measurement: ``"feature"`` gives them to
            the net, ``"weight"`` lets values fade with them instead (COMPOSER's weighting module),
            ``"drop"`` does neither. The last two need ``n_knots=0`` and stays.
        negatives: hours without onset in a batch.
        positives: hours with one.
        unit: ``"row"``: an example is an hour; ``"stay"``: an example is a stay with the mean loss
            of its hours, for training that is private for stays. Then a batch holds ``stays``
            stays, and classes are not balanced.
        stays: stays in a batch where ``unit`` is ``"stay"``.
        epochs: passes over the negative hours, or over the stays; ``max_steps`` when given.
        max_steps: steps of the optimizer.
        learning_rate: the highest of the schedule.
        weight_decay: on matrices.
        schedule: of the learning rate, by name.
        validation_size: share of patients held out to stop by where no validation part is given.
        validate_every: steps between validations; None for half a pass.
        patience: validations without a better AUROC after which training stops.
        random_state: of everything that is random.
        threads: of torch on a CPU; None for the physical cores this process may use.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.

    Attributes:
        features_: the fitted feature builder; None after training on a matrix.
        encoder_: the fitted encoder, or None.
        learner_: the net.
        offset_: what is added to its log-odds for the rate of the training part.
        privacy_: the statement of private training, or None.

    Example:
        >>> model = FeedForwardRisk().fit(train, validation=validation)  # doctest: +SKIP
        >>> risk = model.predict_proba(test)[:, 1]  # doctest: +SKIP
        >>> live = model.stream(age=63, sex="male", unit="MICU")  # doctest: +SKIP
        >>> live.step(row)  # doctest: +SKIP
    """

    def __init__(
        self,
        features: str = "p19-v1",
        *,
        horizon: float = 4,
        hidden: Sequence[int] = (512, 64),
        dropout: float = 0.3,
        n_knots: int = 7,
        time_since: TimeSince = "feature",
        negatives: int = 512,
        positives: int = 32,
        unit: Literal["row", "stay"] = "row",
        stays: int = 64,
        epochs: float = 4,
        max_steps: int | None = None,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.1,
        schedule: str = "one_cycle",
        validation_size: float = 0.1,
        validate_every: int | None = None,
        patience: int | None = 6,
        random_state: int = 0,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        self.features = features
        self.horizon = horizon
        self.hidden = hidden
        self.dropout = dropout
        self.n_knots = n_knots
        self.time_since = time_since
        self.negatives = negatives
        self.positives = positives
        self.unit = unit
        self.stays = stays
        self.epochs = epochs
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.validation_size = validation_size
        self.validate_every = validate_every
        self.patience = patience
        self.random_state = random_state
        self.threads = threads
        self.device = device

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
            kept = wanted.at_risk if rows is None else wanted.at_risk & np.asarray(rows, bool)
            builder = CausalFeatureBuilder(self.features, schema=stays.schema)
            self.features_ = builder.fit(stays, kept)
            features, label = builder.transform(stays, kept), wanted.label[kept]
            lengths = np.bincount(stays.stay_of_row()[kept], minlength=len(stays))
            lengths = lengths[lengths > 0]
        else:
            if y is None:
                raise ParameterError("a matrix of features needs labels: fit(X, y)")
            if self.time_since != "feature":
                raise ParameterError(f"time_since={self.time_since!r} needs stays, not a matrix")
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
            self.learner_ = FeedForwardRiskLearner(self._shape(width))
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

        def score(learner: FeedForwardRiskLearner) -> float:
            return -auroc(self._logits(learner, X), y)

        return score

    def decision_function(self, X: Stays | ArrayLike) -> NDArray[np.float64]:
        """(R,) log-odds of the onset within the horizon, for every hour.

        Raises:
            NotFittedError: before ``fit``.
        """
        self._require_fit()
        with use_threads(self.threads):
            if not isinstance(X, Stays):
                return self._logits(self.learner_, np.asarray(X, np.float32)) + self.offset_
            builder = self._builder()
            parts = [
                self._logits(self.learner_, builder.transform(c)) for c in X.chunks(8 * _AT_ONCE)
            ]
        return np.concatenate([*parts, np.zeros(0)]) + self.offset_

    def predict_proba(self, X: Stays | ArrayLike) -> NDArray[np.float64]:
        """(R, 2) probabilities of no onset and of the onset within the horizon, for every hour."""
        risk = 1 / (1 + np.exp(-self.decision_function(X)))
        return np.stack([1 - risk, risk], axis=1)

    def represent(
        self, X: Stays | ArrayLike, *, layer: Literal["first", "last"] = "first"
    ) -> NDArray[np.float32]:
        """(R, D) a hidden layer of every hour.

        Args:
            X: stays, or scaled features.
            layer: ``"first"``, which may be stored instead of the hours, or ``"last"``, which the
                log-odds are read from.
        """
        self._require_fit()
        X = self._builder().transform(X) if isinstance(X, Stays) else np.asarray(X, np.float32)
        learner = self.learner_
        shown, width = learner.encode, learner.shape.hidden[0]
        if layer == "last":
            shown, width = learner.last_hidden, learner.shape.hidden[-1]
        with use_threads(self.threads), torch.inference_mode():
            parts = [
                shown({"x": encoded(X[at : at + _AT_ONCE], self.encoder_)}).numpy()
                for at in range(0, len(X), _AT_ONCE)
            ]
        return np.concatenate([np.zeros((0, width), np.float32), *parts])

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

    def contributions(
        self,
        stays: Stays,
        rows: ArrayLike | None = None,
        *,
        method: Method = "integrated_gradients",
    ) -> NDArray[np.float64]:
        """(R, F) by how much each feature moves the log-odds, away from the mean hour.

        Args:
            stays: any.
            rows: (R,) mask or ascending numbers of the hours that are explained.
            method: see :func:`~foretell.learners.risk.attributions.gradient_contributions`.
        """
        self._require_fit()
        features = self._builder().transform(stays, rows)
        size = features.shape[1]
        owners = np.arange(size)
        baseline = encoded(np.zeros((1, size), np.float32), self.encoder_)
        if self.encoder_ is not None:
            owners = self.encoder_owners()
        device = next(self.learner_.parameters()).device
        parts = [np.zeros((0, size))]
        with use_threads(self.threads):
            for at in range(0, len(features), 512):
                x = encoded(features[at : at + 512], self.encoder_).to(device)
                found = gradient_contributions(
                    lambda x: self.learner_({"x": x}).logit, x, baseline.to(device), method=method
                )
                parts.append(by_feature(found.cpu().numpy(), owners, size))
        return np.concatenate(parts)

    def encoder_owners(self) -> NDArray[np.int64]:
        """(E,) the feature that each input of the net is made of."""
        knots = [] if self.encoder_ is None or self.encoder_.knots is None else self.encoder_.knots
        bins = [max(len(k) - 1, 0) for k in knots]
        return np.concatenate(
            [np.arange(self.n_features_in_), np.repeat(np.arange(len(bins)), bins)]
        )

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
            known = model.encoder_.knots if model.encoder_ is not None else None
            if known is not None and len(known) != model.n_features_in_:
                raise ValueError("the encoder has another number of features")
            if model.features_ is not None and model.features_.n_features != model.n_features_in_:
                raise ValueError("the features have another number than the net")
            width = model.n_features_in_ if known is None else model.encoder_.n_outputs  # type: ignore[union-attr]
            shape = model._shape(width)
            model.learner_ = restored(lambda: FeedForwardRiskLearner(shape), arrays)
            saved = config["privacy"]
            model.privacy_ = None if saved is None else PrivacyStatement.from_dict(saved)
        model.is_fitted_ = True
        return model

    @property
    def classes_(self) -> NDArray[np.int64]:
        """0 and 1."""
        return np.array([0, 1])

    def _logits(
        self, learner: FeedForwardRiskLearner, features: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        if features.ndim != 2 or features.shape[1] != self.n_features_in_:
            raise ParameterError(
                f"features must be (R, {self.n_features_in_}), not {features.shape}"
            )
        device = next(learner.parameters()).device
        parts = [np.zeros(0)]
        with torch.inference_mode():
            for at in range(0, len(features), _AT_ONCE):
                x = encoded(features[at : at + _AT_ONCE], self.encoder_).to(device)
                parts.append(learner({"x": x}).logit.double().cpu().numpy())
        return np.concatenate(parts)

    def _builder(self) -> CausalFeatureBuilder:
        if self.features_ is None:
            raise NotFittedError(
                "this model was trained on a matrix: give scaled features instead of stays"
            )
        return self.features_

    def _shape(self, width: int) -> FeedForwardShape:
        return FeedForwardShape(width, tuple(self.hidden), self.dropout, self._aging())

    def _aging(self) -> AgingColumns | None:
        """Which inputs are weighed by their age, or not seen."""
        how = self.time_since
        if how == "feature" or getattr(self, "features_", None) is None:
            return None
        builder = self._builder()
        hours, never = builder.columns(block="since"), builder.columns(block="never")
        last = builder.columns(block="last")
        if len(last) != len(hours):
            raise ParameterError(
                f"time_since={how!r} needs features with the blocks 'last' and 'since'"
            )
        pairs = zip(last.tolist(), hours.tolist(), strict=True) if how == "weight" else ()
        return AgingColumns(tuple(pairs), (*hours.tolist(), *never.tolist()))

    def _check(self) -> None:
        if self.unit not in ("row", "stay"):
            raise ParameterError(f"unit must be 'row' or 'stay', not {self.unit!r}")
        for name in ("negatives", "positives", "stays"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(f"{name} must be a whole number from 1, not {value!r}")
        if self.n_knots != 0 and self.n_knots < 2:
            raise ParameterError(f"n_knots must be 0 or at least 2, not {self.n_knots}")
        how = self.time_since
        if how not in ("feature", "weight", "drop"):
            raise ParameterError(f"time_since is 'feature', 'weight' or 'drop', not {how!r}")
        if how != "feature" and self.n_knots:
            raise ParameterError(f"time_since={how!r} needs n_knots=0, not {self.n_knots}")
        if self.max_steps is None and not self.epochs > 0:
            raise ParameterError(f"epochs must be positive, not {self.epochs}")
        if not 0 <= self.validation_size < 1:
            raise ParameterError(f"validation_size must lie in [0, 1), not {self.validation_size}")
        self._shape(1)

    def _require_fit(self) -> None:
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(stays) first")
