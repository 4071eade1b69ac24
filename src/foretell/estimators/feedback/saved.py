"""Classifiers of late labels in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from foretell.errors import ParameterError
from foretell.estimators.feedback.auxiliary import DelayNet
from foretell.estimators.feedback.method import Setting
from foretell.estimators.feedback.model import FeedbackModel
from foretell.learners.artefact import load_artefact, readable, save_artefact
from foretell.learners.tabular import FeatureTransform


class SavedFeedback(FeedbackModel):
    """Writes and reads a classifier, its optimizers included."""

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
    def load(cls, folder: str | Path) -> Self:
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


def _part(arrays: dict[str, NDArray], prefix: str) -> dict[str, NDArray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _tensors(arrays: dict[str, NDArray], prefix: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v.copy()) for k, v in _part(arrays, prefix).items()}


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
