"""Saving, loading and merging fitted forests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from foretell.errors import ArtefactError, DataError, ParameterError
from foretell.learners.trees import storage
from foretell.learners.trees.fitted_forest import FittedForest


class ForestPersistence(FittedForest):
    """Keeps forests in folders and joins those grown elsewhere."""

    get_params: Any
    _get_param_names: Any
    _check_parameters: Any

    def merge(self, *others: Self) -> Self:
        """A forest with the trees of this one and of others, fitted on the same columns elsewhere.

        Raises:
            DataError: the forests do not have the same columns or groups.
        """
        forests = [self, *others]
        for forest in forests:
            check_is_fitted(forest, "forest_")
            if forest.n_features_in_ != self.n_features_in_ or not _same_names(forest, self):
                raise DataError("forests with different columns cannot be merged")
            if forest._groups != self._groups:
                raise DataError("forests with different groups cannot be merged")
        merged = type(self)(**self.get_params())
        merged.n_estimators = sum(forest.forest_.n_trees for forest in forests)
        _copy_columns(self, merged)
        merged._groups = self._groups
        shares = [forest.forest_.n_trees for forest in forests]
        merged.feature_importances_ = np.average(
            [forest.feature_importances_ for forest in forests], axis=0, weights=shares
        )
        merged._take(storage.concatenate([forest.forest_ for forest in forests]))
        return merged

    def save(self, folder: str | Path) -> None:
        """Writes ``forest.npz`` and ``forest.json`` into a folder; nothing is pickled."""
        check_is_fitted(self, "forest_")
        parameters = self.get_params()
        if not isinstance(parameters["random_state"], (int, type(None))):
            parameters["random_state"] = None
        parameters["split_quantiles"] = [float(q) for q in self.split_quantiles]
        names = getattr(self, "feature_names_in_", None)
        header = {
            "parameters": {name: _plain(value) for name, value in parameters.items()},
            "n_columns": self.n_features_in_ + (self._groups is not None),
            "feature_names": None if names is None else [str(name) for name in names],
            "record_columns": self.record_columns_,
            "groups": self._groups,
        }
        storage.save(
            Path(folder), self.forest_, header, {"feature_importances": self.feature_importances_}
        )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads a saved forest; runs no code of the folder and checks every index.

        Raises:
            ArtefactError: damaged, unsafe or newer than this library.
        """
        folder = Path(folder)
        forest, header, extra = storage.load(
            folder, "n_columns", {"feature_importances": "float64"}
        )
        where = folder / "forest.json"
        parameters = header.get("parameters")
        if not isinstance(parameters, dict) or set(parameters) - set(cls._get_param_names()):
            raise ArtefactError(f"{where}: 'parameters' are not those of {cls.__name__}")
        if isinstance(parameters.get("split_quantiles"), list):
            parameters["split_quantiles"] = tuple(parameters["split_quantiles"])
        result = cls(**parameters)
        try:
            result._check_parameters()
        except (ParameterError, TypeError, ValueError) as error:
            raise ArtefactError(f"{where}: {error}") from error
        groups = header.get("groups")
        if groups is not None and not (
            isinstance(groups, dict)
            and all(
                isinstance(v, (int, float)) and not isinstance(v, bool) for v in groups.values()
            )
        ):
            raise ArtefactError(f"{where}: 'groups' must map labels to positions")
        n_features = header["n_columns"] - (groups is not None)
        for key in ("record_columns", "feature_names"):
            names = header.get(key)
            if names is not None and not (
                isinstance(names, list)
                and len(names) == n_features
                and all(isinstance(name, str) for name in names)
            ):
                raise ArtefactError(f"{where}: {key!r} must be {n_features} names")
        if n_features < 1 or len(extra["feature_importances"]) != n_features:
            raise ArtefactError(
                f"{folder / 'forest.npz'}: 'feature_importances' has the wrong length"
            )
        result.n_features_in_ = n_features
        result.record_columns_ = header.get("record_columns")
        if header.get("feature_names") is not None:
            result.feature_names_in_ = np.asarray(header["feature_names"], dtype=object)
        result._groups = groups
        result.feature_importances_ = extra["feature_importances"]
        result._take(forest)
        return result

    def restore(
        self, forest: storage.Forest, n_features: int, importances: NDArray[np.float64]
    ) -> Self:
        """Takes over a forest that was kept elsewhere as arrays; checks it as `load` does.

        Raises:
            ArtefactError: the arrays do not describe a forest over ``n_features`` columns.
        """
        problem = storage.check(forest, n_features)
        if problem is None and len(importances) != n_features:
            problem = "'feature_importances' has the wrong length"
        if problem is not None:
            raise ArtefactError(f"not a forest: {problem}")
        self.n_features_in_ = n_features
        self.record_columns_ = None
        self._groups = None
        self.feature_importances_ = importances
        self._take(forest)
        return self


def _same_names(first: Any, second: Any) -> bool:
    a, b = first._names(), second._names()
    return (a is None) == (b is None) and (a is None or list(a) == list(b))


def _copy_columns(source: Any, target: Any) -> None:
    for name in ("n_features_in_", "feature_names_in_", "record_columns_"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
