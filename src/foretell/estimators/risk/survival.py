"""What the survival models have in common: a Weibull hazard ahead of every hour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

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
from foretell.learners.restoring import restored
from foretell.learners.risk.attributions import (
    Method,
    by_feature,
    gradient_contributions,
    row_numbers,
)
from foretell.learners.risk.examples import require_finite
from foretell.learners.risk.ranking import auroc
from foretell.learners.risk.stream import Memory, RiskStream
from foretell.learners.risk.survival_examples import (
    SurvivalExamples,
    SurvivalInputs,
    survival_times,
)
from foretell.learners.risk.weibull import (
    PREDICTORS,
    SHORTEST,
    SurvivalLearner,
    risk_within,
)
from foretell.training import FitResult, Strategy, fit, use_threads
from foretell.training.private import PrivacyStatement, PrivateTraining

_AT_ONCE = 64


class SurvivalRisk(ExplainsHours, BaseEstimator):
    """Base of the survival models: a Weibull hazard ahead of every hour.

    ``fit`` learns from hours before the onset, each censored ``horizon`` hours ahead or at the end
    of the record. Afterwards the scale of the hazard is set so that as many onsets are expected as
    there were (its maximum-likelihood value, in closed form), because the mean over stays that is
    trained on weighs hours of long stays less.
    """

    features: str
    horizon: float
    score_horizon: float
    n_knots: int
    encoded: Sequence[str]
    well_per_septic: float | None
    stays: int
    epochs: float
    max_steps: int | None
    learning_rate: float
    weight_decay: float
    validation_size: float
    validate_every: int | None
    patience: int | None
    random_state: int
    threads: int | None
    device: str

    def fit(
        self,
        stays: Stays,
        *,
        validation: Stays | None = None,
        strategies: Sequence[Strategy] = (),
    ) -> Self:
        """Trains on stays with their onset.

        Args:
            stays: to learn from; those whose onset comes with their first hour are left out.
            validation: stays to stop by (AUROC at ``score_horizon``); without it, a share of the
                patients is held out. Private training uses none.
            strategies: what changes the training.

        Raises:
            DataError: no hour at risk, or no onset.
            ParameterError: a hyper-parameter out of its range.
            TrainingError: training failed, or strategies cannot be combined.
        """
        self._check()
        private = [s for s in strategies if isinstance(s, PrivateTraining)]
        if validation is None and self.validation_size > 0 and not private:
            stays, validation = held_out(stays, self.validation_size)
        chosen, weight = self._chosen(stays)
        times = survival_times(chosen, self.horizon)
        if not times.event.any():
            raise DataError(f"no onset comes within {self.horizon:g} hours of any hour")
        self.features_ = CausalFeatureBuilder(self.features, schema=stays.schema)
        self.features_.fit(chosen, times.at_risk)
        features = self.features_.transform(chosen, times.at_risk)
        time, event = times.time[times.at_risk], times.event[times.at_risk]
        lengths = np.bincount(chosen.stay_of_row()[times.at_risk], minlength=len(chosen))
        weight, lengths = weight[lengths > 0], lengths[lengths > 0]
        self.inputs_ = SurvivalInputs.learn(features, self._encoded_columns(), self.n_knots)
        hours = np.repeat(weight, lengths)
        self.rate_ = float((hours * event).sum() / (hours * np.maximum(time, SHORTEST)).sum())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.learner_ = self._learner(self.inputs_.width(features.shape[1]), self.rate_)
        examples = SurvivalExamples(
            features, time, event, lengths, self.inputs_, weight=weight / weight.mean()
        )
        self.shift_ = 0.0
        size = min(self.stays, len(examples))
        pass_ = max(1, round(len(examples) / size))
        score = None if validation is None or private else self._validation(validation)
        self.result_: FitResult = fit(
            self.learner_, examples, strategies=strategies, validation=score,
            max_steps=self.max_steps or max(1, round(self.epochs * pass_)), batch_size=size,
            learning_rate=self.learning_rate, weight_decay=self.weight_decay,
            validate_every=self.validate_every or pass_,
            patience=self.patience if score is not None else None, best_weights=not private,
            seed=self.random_state, threads=self.threads, device=self.device,
        )  # fmt: skip
        self.privacy_: PrivacyStatement | None = None
        if private:
            # The scale is left alone: it would be read off the raw data once more.
            self.privacy_ = stated(private[0].statement(), "stay")
        else:
            self._calibrate(examples, hours, time, event)
        self.is_fitted_ = True
        return self

    def predict_risk(self, stays: Stays, horizons: ArrayLike | None = None) -> NDArray[np.float64]:
        """(R, K) risk of the onset within each horizon in hours, after every hour of stays.

        Raises:
            NotFittedError: before ``fit``.
        """
        horizons = [self.score_horizon] if horizons is None else horizons
        return risk_within(self.predictor(stays), horizons, *self._baseline())

    def predict_proba(self, stays: Stays) -> NDArray[np.float64]:
        """(R, 2) probabilities of no onset and of the onset within ``score_horizon`` hours."""
        risk = self.predict_risk(stays)[:, 0]
        return np.stack([1 - risk, risk], axis=1)

    def predictor(self, stays: Stays) -> NDArray[np.float64]:
        """(R,) eta of every hour: what the hazard is multiplied by, as a logarithm."""
        self._require_fit()
        found = np.zeros(stays.n_rows)
        with use_threads(self.threads):
            at = 0
            for chunk in stays.chunks():
                features = self.features_.transform(chunk)
                found[at : at + len(features)] = self._predictors(
                    self.learner_, features, chunk.lengths
                )
                at += len(features)
        return np.clip(found + self.shift_, *PREDICTORS)

    def stream(self, *, site: str | None = None, **described: Any) -> RiskStream:
        """The live form for one stay; see :meth:`CausalFeatureBuilder.stream` for the arguments."""
        self._require_fit()
        return RiskStream(self, self.features_.stream(site=site, **described))

    def memory(self) -> Memory:
        """What is carried from hour to hour, before the first one."""
        return {}

    def advance(self, memory: Memory, features: NDArray[np.float32]) -> tuple[float, Memory]:
        """Risk within ``score_horizon`` of an hour with scaled features (F,), and the memory."""
        state, risk = self.step(memory, features)
        return float(risk), state

    def step(
        self, state: Memory, features: NDArray[np.float32], horizons: ArrayLike | None = None
    ) -> tuple[Memory, NDArray[np.float64]]:
        """The state after an hour with scaled features (F,), and its risks: (), or (K,).

        Args:
            state: of the hour before; :meth:`memory` before the first.
            features: of the hour.
            horizons: in hours; ``score_horizon`` alone by default.

        Raises:
            DataError: a feature is not finite.
        """
        row = np.asarray(features, np.float32)[None]
        require_finite(row)
        with use_threads(self.threads), torch.inference_mode():
            x = torch.from_numpy(self.inputs_(row))
            eta, after = self._step(x, state)
        eta = float(np.clip(eta + self.shift_, *PREDICTORS))
        leads = self.score_horizon if horizons is None else horizons
        risk = risk_within(eta, leads, *self._baseline())
        return after, risk[0] if horizons is None else risk

    def contributions(
        self,
        stays: Stays,
        rows: ArrayLike | None = None,
        *,
        method: Method = "integrated_gradients",
    ) -> NDArray[np.float64]:
        """(R, F) by how much each feature moves eta, over all hours up to the one explained.

        What a feature did in earlier hours, and the net remembers, is counted with it; the
        baseline are hours in which every feature is at its mean.

        Args:
            stays: any.
            rows: (R,) mask or ascending numbers of the hours that are explained; all by default.
            method: see :func:`~foretell.learners.risk.attributions.gradient_contributions`.
        """
        self._require_fit()
        chosen = np.arange(stays.n_rows) if rows is None else row_numbers(rows)
        stay, offsets = stays.stay_of_row()[chosen], stays.offsets
        size = self.features_.n_features
        owners = self.inputs_.owners(size)
        found = np.zeros((len(chosen), size))
        mean = torch.from_numpy(self.inputs_(self.features_.reference()[None]))
        with use_threads(self.threads):
            for number in np.unique(stay):
                wanted = np.flatnonzero(stay == number)
                x = torch.from_numpy(
                    self.inputs_(self.features_.transform(stays.select([number])))
                )[None]
                for k in wanted:
                    past = x[:, : int(chosen[k] - offsets[number]) + 1]
                    mask = torch.ones(past.shape[:2], dtype=torch.bool)
                    moved = gradient_contributions(
                        partial(self._last, mask=mask), past, mean, method=method
                    )
                    found[k] = by_feature(moved.sum(1).numpy(), owners, size)[0]
        return found

    def _builder(self) -> CausalFeatureBuilder:
        return self.features_

    def _last(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B,) eta of the last hour."""
        return self.learner_({"x": x, "mask": mask}).predictor[:, -1]

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors; see :mod:`foretell.learners.artefact`."""
        self._require_fit()
        parameters = self.get_params(deep=False) | {"encoded": list(self.encoded)}
        config = {
            "parameters": parameters,
            "features": self.features_.to_dict(),
            "encoder": self.inputs_.encoder.to_dict(),
            "columns": self.inputs_.columns.tolist(),
            "rate": self.rate_,
            "shift": self.shift_,
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
            model.features_ = CausalFeatureBuilder.from_dict(config["features"])
            size = model.features_.n_features
            encoder = PiecewiseLinearEncoder.from_dict(config["encoder"])
            columns = np.array(config["columns"], np.int64)
            if len(encoder.knots or []) != len(columns) or encoder.keep:
                raise ValueError("the encoder does not fit its columns")
            if len(columns) and not (0 <= columns.min() and columns.max() < size):
                raise ValueError("an encoded column is none of the features")
            model.inputs_ = SurvivalInputs(encoder, columns)
            model.rate_, model.shift_ = float(config["rate"]), float(config["shift"])
            if not (model.rate_ > 0 and math.isfinite(model.shift_)):
                raise ValueError("the rate is not positive or the shift not finite")
            width = model.inputs_.width(size)
            model.learner_ = restored(lambda: model._learner(width, model.rate_), arrays)
            saved = config["privacy"]
            model.privacy_ = None if saved is None else PrivacyStatement.from_dict(saved)
        model.is_fitted_ = True
        return model

    @property
    def classes_(self) -> NDArray[np.int64]:
        """0 and 1."""
        return np.array([0, 1])

    def _learner(self, inputs: int, rate: float) -> SurvivalLearner:
        raise NotImplementedError

    def _step(self, x: Tensor, state: Memory) -> tuple[float, Memory]:
        raise NotImplementedError

    def _chosen(self, stays: Stays) -> tuple[Stays, NDArray[np.float32]]:
        """Septic stays and a sample of the others, which stand for all of them by their weight."""
        septic = np.isfinite(stays.onset)
        weight = np.ones(len(stays), np.float32)
        if self.well_per_septic is None:
            return stays, weight
        wanted = round(self.well_per_septic * int(septic.sum()))
        well = np.flatnonzero(~septic)
        if not 0 < wanted < len(well):
            return stays, weight
        rng = np.random.default_rng([self.random_state, len(stays)])
        kept = septic.copy()
        kept[rng.choice(well, wanted, replace=False)] = True
        weight[~septic] = len(well) / wanted
        return stays.select(kept), weight[kept]

    def _encoded_columns(self) -> NDArray[np.int64]:
        names = self.features_.names
        wanted = [
            i
            for i, name in enumerate(names)
            if name in self.encoded or name.partition(":")[2] in self.encoded
        ]
        return np.array(wanted if self.n_knots else [], np.int64)

    def _calibrate(
        self,
        examples: SurvivalExamples,
        weight: NDArray[np.float32],
        time: NDArray[np.float32],
        event: NDArray[np.bool_],
    ) -> None:
        """Shifts eta so that expected and observed onsets of the training hours agree."""
        with use_threads(self.threads):
            eta = self._predictors(self.learner_, examples.features, examples.lengths)
        scale, shape = self._baseline()
        hazard = np.exp(shape * np.log(np.maximum(time, SHORTEST) / scale) + eta)
        self.shift_ = float(np.log((weight * event).sum() / (weight * hazard).sum()))

    def _baseline(self) -> tuple[float, float]:
        return self.learner_.scale.item(), self.learner_.shape_.item()

    def _predictors(
        self, learner: SurvivalLearner, features: NDArray[np.float32], lengths: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(R,) eta of rows with features (R, F), stay after stay."""
        found = np.zeros(len(features))
        begins = np.cumsum(lengths) - lengths
        # Stays of similar length together waste no padding.
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        device = next(learner.parameters()).device
        with torch.inference_mode():
            for at in range(0, len(order), _AT_ONCE):
                chosen = order[at : at + _AT_ONCE]
                sizes = lengths[chosen]
                steps = np.arange(int(sizes.max()))
                mask = steps < sizes[:, None]
                rows = (begins[chosen][:, None] + steps)[mask]
                flat = torch.from_numpy(self.inputs_(features[rows]))
                seen = torch.from_numpy(mask)
                x = torch.zeros((*mask.shape, flat.shape[1]))
                x[seen] = flat
                batch = {"x": x.to(device), "mask": seen.to(device)}
                found[rows] = learner(batch).predictor.cpu()[seen].double().numpy()
        return found

    def _validation(self, stays: Stays) -> Any:
        """Minus the AUROC on stays, as a function of the learner."""
        wanted = target(stays, self.score_horizon)
        label = wanted.label[wanted.at_risk]
        if math.isnan(auroc(np.zeros(len(label)), label)):
            raise DataError("the validation part has one class only")
        features = self.features_.transform(stays)

        def score(learner: SurvivalLearner) -> float:
            return -auroc(self._predictors(learner, features, stays.lengths)[wanted.at_risk], label)

        return score

    def _check(self) -> None:
        for name in ("horizon", "score_horizon"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} must be positive, not {getattr(self, name)}")
        if isinstance(self.stays, bool) or not isinstance(self.stays, int) or self.stays < 1:
            raise ParameterError(f"stays must be a whole number from 1, not {self.stays!r}")
        if self.n_knots != 0 and self.n_knots < 2:
            raise ParameterError(f"n_knots must be 0 or at least 2, not {self.n_knots}")
        if self.max_steps is None and not self.epochs > 0:
            raise ParameterError(f"epochs must be positive, not {self.epochs}")
        if not 0 <= self.validation_size < 1:
            raise ParameterError(f"validation_size must lie in [0, 1), not {self.validation_size}")

    def _require_fit(self) -> None:
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(stays) first")
