"""Risk from whatever was measured: an ensemble of nets trained with panels hidden at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from foretell.errors import DataError, NotFittedError
from foretell.learners.artefact import load_artefact, readable, save_artefact
from foretell.learners.restoring import restored
from foretell.learners.risk.subset import HiddenPanels, SubsetRiskLearner, outdated
from foretell.training import fit, use_threads


class SubsetRisk(BaseEstimator):
    """Probability of the outcome given any subset of the features.

    Args:
        panels: numbers of the features that come together; the others are always known.
        older: pairs (feature, number of the feature that holds its value of before): the older
            value counts only while there is no new one, in training and in predictions.
        hidden: units of the layers.
        members: nets of the ensemble.
        max_steps: of the optimizer, each.
        batch_size: patients a step.
        learning_rate: the highest of the schedule.
        weight_decay: on matrices.
        random_state: of everything that is random.
        threads: of torch on a CPU.

    Example:
        >>> model = SubsetRisk(panels=[[3], [4, 5]]).fit(values, seen, label)  # doctest: +SKIP
        >>> model.predict_members(values, seen)  # doctest: +SKIP
    """

    def __init__(
        self,
        panels: Sequence[Sequence[int]] = (),
        *,
        older: Sequence[Sequence[int]] = (),
        hidden: Sequence[int] = (64, 64),
        members: int = 3,
        max_steps: int = 2500,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        random_state: int = 0,
        threads: int | None = None,
    ) -> None:
        self.panels = panels
        self.older = older
        self.hidden = hidden
        self.members = members
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.threads = threads

    def fit(self, values: ArrayLike, seen: ArrayLike, label: ArrayLike) -> Self:
        """Trains the members.

        Args:
            values: (n, F); what was not seen is not looked at.
            seen: (n, F) bool.
            label: (n,) 0 or 1.

        Raises:
            DataError: shapes do not fit, or a value that was seen is not finite.
            TrainingError: training failed.
        """
        X, S = np.asarray(values, np.float64), np.asarray(seen, bool)
        if X.ndim != 2 or X.shape != S.shape:
            raise DataError(f"values {X.shape} and seen {S.shape} must be of the same patients")
        count = np.maximum(S.sum(0), 1)
        self.mean_ = np.where(S, X, 0.0).sum(0) / count
        spread = np.sqrt((np.where(S, X - self.mean_, 0.0) ** 2).sum(0) / count)
        self.scale_ = np.where(spread > 1e-9, spread, 1.0)
        examples = HiddenPanels(
            (X - self.mean_) / self.scale_, S, label, self.panels, older=self.older
        )
        self.learners_ = []
        for member in range(self.members):
            seed = self.random_state * 1000 + member
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                learner = SubsetRiskLearner(X.shape[1], self.hidden)
            fit(
                learner, examples, max_steps=self.max_steps,
                batch_size=min(self.batch_size, len(examples)), learning_rate=self.learning_rate,
                weight_decay=self.weight_decay, seed=seed, threads=self.threads,
            )  # fmt: skip
            self.learners_.append(learner)
        self.n_features_in_ = X.shape[1]
        return self

    def predict_members(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(members, n) probabilities of each member: their spread is what the model does not know.

        Raises:
            NotFittedError: before ``fit``.
            DataError: shapes do not fit.
        """
        if not hasattr(self, "learners_"):
            raise NotFittedError("SubsetRisk is not fitted: call fit first")
        X, S = np.asarray(values, np.float64), np.asarray(seen, bool)
        if X.shape != S.shape or X.shape[1:] != (self.n_features_in_,):
            raise DataError(
                f"values {X.shape} and seen {S.shape} must be (n, {self.n_features_in_})"
            )
        S = outdated(S, self.older)
        z = np.where(S, (X - self.mean_) / self.scale_, 0.0).astype(np.float32)
        batch = {"x": torch.from_numpy(z), "seen": torch.from_numpy(S)}
        with use_threads(self.threads), torch.inference_mode():
            logits = [learner(batch).logit.double() for learner in self.learners_]
        return torch.sigmoid(torch.stack(logits)).numpy()

    def predict_proba(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(n, 2) probabilities of neither and of the outcome, the mean over members."""
        risk = self.predict_members(values, seen).mean(0)
        return np.stack([1 - risk, risk], axis=1)

    def gradient(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(n, F) derivative of the risk at the values given, as if all had been seen.

        Give imputed values where nothing was seen: it is what a measurement there would move.
        """
        self.predict_members(values, seen)  # checks
        z = torch.from_numpy((np.asarray(values) - self.mean_) / self.scale_).float()
        z.requires_grad_(True)
        with use_threads(self.threads):
            logits = [n({"x": z, "seen": torch.ones_like(z)}).logit for n in self.learners_]
            torch.sigmoid(torch.stack(logits)).mean(0).sum().backward()
        assert z.grad is not None
        return z.grad.double().numpy() / self.scale_

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors."""
        if not hasattr(self, "learners_"):
            raise NotFittedError("SubsetRisk is not fitted: call fit first")
        arrays = {"mean": self.mean_, "scale": self.scale_}
        for i, learner in enumerate(self.learners_):
            arrays |= {f"{i}.{n}": t.numpy() for n, t in learner.state_dict().items()}
        parameters = self.get_params(deep=False)
        parameters |= {"panels": [list(p) for p in self.panels], "hidden": list(self.hidden),
                       "older": [list(p) for p in self.older]}  # fmt: skip
        config = {"parameters": parameters, "n_features": self.n_features_in_}
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
            model.n_features_in_ = int(config["n_features"])
            model.mean_, model.scale_ = arrays["mean"], arrays["scale"]
            size = model.n_features_in_
            model.learners_ = [
                restored(lambda: SubsetRiskLearner(size, model.hidden), arrays, f"{i}.")
                for i in range(model.members)
            ]
        return model
