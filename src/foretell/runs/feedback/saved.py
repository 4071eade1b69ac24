"""A snapshot model in a run's folder: numbers and text, no pickle.

Boosted trees of scikit-learn are kept as arrays; other estimators have no form that could be opened
without running somebody's code, so that nothing is kept of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier

from foretell.data.events import EventLog
from foretell.errors import ArtefactError, DataError, ParameterError
from foretell.estimators.feedback import SnapshotClassifier
from foretell.estimators.feedback.recalibration import IsotonicMap, LogitShift
from foretell.learners.trees import BoostedTrees
from foretell.runs.feedback.decide import Decision
from foretell.runs.feedback.jobs import train
from foretell.runs.feedback.recipe import FinalSection, Recipe
from foretell.runs.threads import limited_threads

FORMAT = 1
_HEADER, _MEMBERS = "snapshot.json", "members"


@dataclass(frozen=True, eq=False)
class Constant:
    """A step that had one label only."""

    p: float

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same probabilities (n, 2) for all rows."""
        return np.tile([1 - self.p, self.p], (len(X), 1))


@dataclass(frozen=True, eq=False)
class SavedSnapshot:
    """What a :class:`SnapshotClassifier` served, without what trained it.

    Args:
        parts: for each part of an average, the steps whose probabilities are multiplied.
        features: names (d,) of the features.
        vocabularies: categorical feature -> names of codes 1, 2, ...
        map: recalibration, or None.
    """

    parts: tuple[tuple[BoostedTrees | Constant, ...], ...]
    features: tuple[str, ...]
    vocabularies: Mapping[str, tuple[str, ...]]
    map: LogitShift | IsotonicMap | None

    @classmethod
    def of(cls, model: SnapshotClassifier) -> SavedSnapshot:
        """What a fitted model serves.

        Raises:
            ParameterError: it holds an estimator that cannot be kept as arrays.
        """
        return cls(
            tuple(tuple(_kept(m) for m in models) for models in model.components_.values()),
            tuple(str(name) for name in model.log_features_),
            {name: tuple(values) for name, values in model.vocabularies_.items()},
            model.map_,
        )

    def predict_proba(self, X: EventLog | NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities (n, 2) of the entities of a log, or of features (n, d) in the fit's codes.

        Raises:
            DataError: the log lacks a feature, or a feature is of another kind.
        """
        rows = self._features(X) if isinstance(X, EventLog) else X
        total = np.zeros(len(rows))
        for steps in self.parts:
            p = np.ones(len(rows))
            for step in steps:
                p = p * step.predict_proba(rows)[:, 1]
            total += p
        total /= len(self.parts)
        if self.map is not None:
            total = self.map(total)
        return np.column_stack([1 - total, total])

    def save(self, folder: Path) -> None:
        """Writes ``snapshot.json`` and a folder for each step."""
        for i, steps in enumerate(self.parts):
            for k, step in enumerate(steps):
                if isinstance(step, BoostedTrees):
                    step.save(folder / f"part{i}" / f"step{k}")
        header = {
            "format": FORMAT,
            "parts": [
                [None if isinstance(s, BoostedTrees) else s.p for s in p] for p in self.parts
            ],
            "features": list(self.features),
            "vocabularies": {name: list(values) for name, values in self.vocabularies.items()},
            "map": None if self.map is None else self.map.describe(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> SavedSnapshot:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: it is missing or damaged.
        """
        try:
            header = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
            if not isinstance(header["format"], int) or header["format"] > FORMAT:
                raise ArtefactError(
                    f"{folder} has format {header['format']}, this foretell reads up to {FORMAT}"
                )
            parts = tuple(
                tuple(
                    BoostedTrees.load(folder / f"part{i}" / f"step{k}")
                    if p is None
                    else Constant(_probability(p))
                    for k, p in enumerate(steps)
                )
                for i, steps in enumerate(header["parts"])
            )
            features = tuple(str(name) for name in header["features"])
            vocabularies = {
                str(name): tuple(str(v) for v in values)
                for name, values in header["vocabularies"].items()
            }
            mapped = _map(header["map"])
        except ArtefactError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{folder} is no saved model: {error!r}") from error
        widths = {s.n_features for steps in parts for s in steps if isinstance(s, BoostedTrees)}
        if not parts or not all(parts) or not widths <= {len(features)}:
            raise ArtefactError(f"{folder} is damaged: its steps and features do not go together")
        return cls(parts, features, vocabularies, mapped)

    def _features(self, log: EventLog) -> NDArray[np.float64]:
        """Features (n, d) of a log by name, categories in the codes of the fit."""
        missing = [name for name in self.features if name not in log.feature_names]
        if missing:
            raise DataError(
                f"features {missing} are missing", hint=f"The model knows {list(self.features)}"
            )
        own = log.matrix()
        X = np.empty((len(log), len(self.features)))
        for j, name in enumerate(self.features):
            values = own[:, log.feature_names.index(name)]
            old, new = self.vocabularies.get(name), log.vocabularies.get(name)
            if (old is None) != (new is None):
                # A column of nothing but missing values has no kind of its own.
                if np.isnan(values).all() or not values.any():
                    values = np.zeros(len(log)) if old is not None else np.full(len(log), np.nan)
                else:
                    raise DataError(
                        f"the model knows it as {'text' if new is None else 'numbers'}, and it "
                        f"holds {'numbers' if new is None else 'text'}",
                        column=name,
                    )
            elif old is not None and new is not None:
                code_of = {value: code for code, value in enumerate(old, start=1)}
                codes = np.array([0, *(code_of.get(value, 0) for value in new)], float)
                values = codes[values.astype(np.int64)]
            X[:, j] = values
        return X


def keep_model(
    recipe: Recipe,
    section: FinalSection,
    log: EventLog,
    name: str,
    decision: Decision | None,
    folder: Path,
) -> str | None:
    """Trains and saves the final model and, where there is a decision, the members that score.

    Returns:
        Why nothing was saved, or None.
    """
    last = recipe.snapshots[next(reversed(recipe.snapshots))]
    changes = {} if section.now is None else {"now": section.now, "since": None, "history": None}
    with limited_threads(recipe.threads):
        model = train(recipe, name, last.model_copy(update=changes), log, recipe.seeds[0])
    try:
        saved = SavedSnapshot.of(model)
        members = () if decision is None else decision.members.models
        others = [SavedSnapshot.of(member) for member in members]
    except ParameterError as error:
        return f"{error}, and a pickle would run somebody's code when it is opened"
    saved.save(folder)
    for i, member in enumerate(others):
        member.save(folder / _MEMBERS / f"{i:03d}")
    return None


def load_members(folder: Path) -> list[SavedSnapshot]:
    """The members that score for the run's decision, if it has one."""
    home = folder / _MEMBERS
    return [SavedSnapshot.load(one) for one in sorted(home.iterdir())] if home.is_dir() else []


def _kept(model: Any) -> BoostedTrees | Constant:
    if isinstance(model, DummyClassifier):
        one = list(model.classes_).index(1) if 1 in model.classes_ else None
        return Constant(0.0 if one is None else float(model.class_prior_[one]))
    return BoostedTrees.from_sklearn(model)


def _probability(value: Any) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no probability")
    return float(value)


def _map(header: Mapping[str, Any] | None) -> LogitShift | IsotonicMap | None:
    if header is None:
        return None
    if header["recalibration"] == "shift":
        shift = float(header["shift"])
        if not math.isfinite(shift):
            raise ValueError(f"the shift is {shift}")
        return LogitShift(shift)
    x, y = (np.asarray(v, np.float64) for v in header["isotonic"])
    if x.ndim != 1 or x.shape != y.shape or not len(x) or (np.diff(x) < 0).any():
        raise ValueError("the isotonic map is no function")
    return IsotonicMap(x, y)
