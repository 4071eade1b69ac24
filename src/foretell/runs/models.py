"""From a recipe's model sections to forecasters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from foretell.errors import ForetellError, RecipeError
from foretell.estimators import MQCNN, MQDNN, MQRNN, QuantileEnsemble
from foretell.learners.demand import Forecaster, LegacyForecaster, QRFForecaster

MODELS: dict[str, type[Forecaster]] = {
    model.__name__: model for model in (LegacyForecaster, QRFForecaster, MQDNN, MQRNN, MQCNN)
}
ENSEMBLE = QuantileEnsemble.__name__

_OWN = ("h", "quantiles", "alias", "seed", "threads", "checkpoint", "resume", "progress")
"""Parameters that the run sets, not the model's section."""


def constructor_parameters(kind: str) -> list[str]:
    """Hyper-parameters that a recipe may set for a kind of model."""
    if kind == ENSEMBLE:
        return ["members", "method"]
    return [p for p in inspect.signature(MODELS[kind]).parameters if p not in _OWN]


def is_random(kind: str) -> bool:
    """Whether a model's result depends on a seed."""
    return "seed" in inspect.signature(MODELS[kind]).parameters


def make_model(name: str, kind: str, parameters: Mapping[str, Any], **own: Any) -> Forecaster:
    """An unfitted forecaster.

    Args:
        name: what it is called in tables.
        kind: the class.
        parameters: from the recipe.
        own: any of ``h, quantiles, season_length, seed, threads, checkpoint, resume, progress``;
            those that the class does not have are left out.

    Raises:
        RecipeError: the class refuses a value.
    """
    accepted = inspect.signature(MODELS[kind]).parameters
    given = {k: v for k, v in own.items() if k in accepted}
    if "season_length" in accepted and given.get("season_length") is None:
        given.pop("season_length", None)
    if "alias" in accepted:
        given["alias"] = name
    try:
        return MODELS[kind](**{**given, **parameters})
    except (TypeError, ForetellError) as error:
        raise RecipeError(f"models.{name}: {error}") from error
