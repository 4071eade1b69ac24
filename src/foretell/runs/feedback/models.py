"""From a recipe's sections to estimators and ways of learning from late labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)

from foretell.data.events import EventLog
from foretell.errors import RecipeError
from foretell.estimators.feedback import (
    METHODS,
    SNAPSHOT_METHODS,
    DelayedFeedbackClassifier,
    SnapshotClassifier,
)
from foretell.estimators.feedback.snapshot_corrector import categorical_mask
from foretell.runs.building import check_keys, make, parameters_of
from foretell.runs.section import nearest

_OWN = ("random_state", "n_jobs", "threads", "estimator", "method")
"""Parameters that the run sets, not the model's section."""


def _lightgbm(**parameters: Any) -> Any:
    try:
        from lightgbm import LGBMClassifier
    except ImportError:
        raise RecipeError(
            "estimator.kind 'LGBMClassifier' needs LightGBM: pip install 'foretell[trees]'"
        ) from None
    return LGBMClassifier(verbosity=-1, **parameters)


ESTIMATORS: dict[str, Callable[..., Any]] = {
    "HistGradientBoostingClassifier": HistGradientBoostingClassifier,
    "RandomForestClassifier": RandomForestClassifier,
    "ExtraTreesClassifier": ExtraTreesClassifier,
    "LGBMClassifier": _lightgbm,
}


def check_estimator(kind: str, parameters: Mapping[str, Any]) -> None:
    """Checks the section of the estimator.

    Raises:
        RecipeError: the kind or a key is not known; names the nearest.
    """
    if kind not in ESTIMATORS:
        raise RecipeError(f"estimator.kind {kind!r} is not known" + nearest(kind, ESTIMATORS))
    if kind == "LGBMClassifier":  # its own arguments are many and its keywords open
        return
    check_keys("estimator", parameters, parameters_of(ESTIMATORS[kind], _OWN))


def make_estimator(
    kind: str, parameters: Mapping[str, Any], seed: int, threads: int | None, log: EventLog
) -> Any:
    """An unfitted estimator; boosted trees take the log's categories as such."""
    own: dict[str, Any] = {"random_state": seed}
    if kind == "HistGradientBoostingClassifier":
        categorical = categorical_mask(log)
        if categorical.any() and "categorical_features" not in parameters:
            own["categorical_features"] = categorical
    else:
        own["n_jobs"] = threads
    try:
        return ESTIMATORS[kind](**parameters, **own)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"estimator: {error}") from error


def check_model(where: str, method: str, parameters: Mapping[str, Any]) -> None:
    """Checks a section of a snapshot model.

    Raises:
        RecipeError: the method or a key is not known, or a value is of a wrong type.
    """
    if method not in SNAPSHOT_METHODS:
        raise RecipeError(
            f"{where}.method {method!r} is not known" + nearest(method, SNAPSHOT_METHODS)
        )
    check_keys(where, parameters, parameters_of(SnapshotClassifier, _OWN))
    make_model(where, method, parameters, HistGradientBoostingClassifier(), 0)


def make_model(
    where: str, method: str, parameters: Mapping[str, Any], estimator: Any, seed: int
) -> SnapshotClassifier:
    """An unfitted snapshot model."""
    return make(
        where, SnapshotClassifier, parameters, estimator=estimator, method=method, random_state=seed
    )


def check_stream_model(where: str, method: str, parameters: Mapping[str, Any]) -> None:
    """Checks a section of a streaming model.

    Raises:
        RecipeError: see :func:`check_model`.
    """
    if method not in METHODS:
        raise RecipeError(f"{where}.method {method!r} is not known" + nearest(method, METHODS))
    make_stream_model(where, method, parameters, 1)


def make_stream_model(
    where: str, method: str, parameters: Mapping[str, Any], threads: int | None
) -> DelayedFeedbackClassifier:
    """An unfitted streaming model; the harness sets its seed."""
    return make(
        where, DelayedFeedbackClassifier, parameters, method=method, threads=threads, random_state=0
    )
