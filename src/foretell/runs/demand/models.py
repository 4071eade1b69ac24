"""From a recipe's model sections to forecasters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from foretell.errors import ForetellError, RecipeError
from foretell.estimators import MQCNN, MQDNN, MQRNN, QuantileEnsemble
from foretell.learners.demand import Forecaster, LegacyForecaster, QRFForecaster
from foretell.runs.building import check_type, hints_of

MODELS: dict[str, type[Forecaster]] = {
    model.__name__: model for model in (LegacyForecaster, QRFForecaster, MQDNN, MQRNN, MQCNN)
}
ENSEMBLE = QuantileEnsemble.__name__

_OWN = ("h", "quantiles", "alias", "seed", "threads", "checkpoint", "resume", "progress")
"""Parameters that the run sets, not the model's section."""

_ENSEMBLE_METHODS = ("median", "mean")


def constructor_parameters(kind: str) -> list[str]:
    """Hyper-parameters that a recipe may set for a kind of model."""
    if kind == ENSEMBLE:
        return ["members", "method"]
    return [p for p in inspect.signature(MODELS[kind]).parameters if p not in _OWN]


def is_random(kind: str) -> bool:
    """Whether a model's result depends on a seed."""
    return "seed" in inspect.signature(MODELS[kind]).parameters


def check_ensemble(where: str, parameters: Mapping[str, Any]) -> None:
    """Checks an ensemble's section but for its members' names.

    Raises:
        RecipeError: it has fewer than two members, or a method that is not known.
    """
    members = parameters.get("members")
    if not isinstance(members, list) or len(set(map(str, members))) < max(2, len(members)):
        raise RecipeError(f"{where}.members must list at least two different models")
    method = parameters.get("method", "median")
    if method not in _ENSEMBLE_METHODS:
        raise RecipeError(f"{where}.method must be one of {_ENSEMBLE_METHODS}, not {method!r}")


def make_model(name: str, kind: str, parameters: Mapping[str, Any], **own: Any) -> Forecaster:
    """An unfitted forecaster.

    Args:
        name: what it is called in tables.
        kind: the class.
        parameters: from the recipe. A table stands for the object that the class takes (the
            patchwork's ``engine``, say), and ``false`` where that is no value of its own for
            ``None``: none of it.
        own: any of ``h, quantiles, season_length, seed, threads, checkpoint, resume, progress``;
            those that the class does not have are left out.

    Raises:
        RecipeError: the class refuses a value.
    """
    model = MODELS[kind]
    accepted = inspect.signature(model).parameters
    given = {k: v for k, v in own.items() if k in accepted}
    if given.get("season_length") is None:
        given.pop("season_length", None)
    if "n_jobs" in accepted and "threads" in own:
        given["n_jobs"] = own["threads"]
    if "alias" in accepted:
        given["alias"] = name
    own_class: Any = model
    hints = hints_of(own_class)
    for key, value in parameters.items():
        switched_off = value is False and not isinstance(accepted[key].default, bool)
        given[key] = None if switched_off else value
        check_type(f"models.{name}.{key}", hints.get(key), given[key])
    try:
        defaults = {key: parameter.default for key, parameter in accepted.items()}
        return model(**model._from_parameters({**defaults, **given}))
    except (TypeError, KeyError, AttributeError, ForetellError) as error:
        raise RecipeError(f"models.{name}: {_without_python(error)}") from error


def _without_python(error: Exception) -> str:
    text = str(error)
    if "unexpected keyword argument" in text:
        owner, _, rest = text.partition(".__init__() got an unexpected keyword argument ")
        return f"{owner} has no key {rest}"
    return text if isinstance(error, ForetellError) else f"{type(error).__name__}: {text}"
