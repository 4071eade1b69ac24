"""The model that a run keeps."""

from __future__ import annotations

from collections.abc import Callable

from foretell.data.panel import Panel
from foretell.estimators import QuantileEnsemble
from foretell.learners.demand import Forecaster
from foretell.runs.demand.jobs import make
from foretell.runs.demand.recipe import Recipe
from foretell.runs.demand.results import Results
from foretell.runs.folder import RunFolder
from foretell.runs.threads import limited_threads

_OF_THE_RUN = {"checkpoint": None, "resume": False, "progress": False}


def final_model(
    recipe: Recipe,
    panel: Panel,
    folder: RunFolder,
    results: Results,
    best: str,
    progress: bool,
    tell: Callable[[str], None],
) -> tuple[Forecaster | None, str]:
    """The fitted model that a recipe's ``[final]`` asks for, and its name.

    With ``refit`` it is trained on all data with the first seed, each member of an ensemble with
    checkpoints of its own; without, it is the last one of the first protocol's backtest.
    """
    section = recipe.final
    if section is None:
        return None, best
    name = best if section.model == "best" else section.model
    model = recipe.models[name]
    members = model.parameters["members"] if model.is_ensemble else [name]
    fitted: list[Forecaster] = []
    for member in members:
        if section.refit:
            tell(f"training {member} on all data")
            home = folder.work.resolve() / "final" / member / "checkpoint"
            with limited_threads(recipe.threads):
                fitted.append(make(recipe, member, recipe.seeds[0], home, progress).fit(panel))
            continue
        kept = results.first_seeds(results.protocols[0])[member].model
        if kept is None:
            return None, name
        fitted.append(kept)
    for one in fitted:
        own = one.get_params(deep=False)
        one.set_params(**{key: value for key, value in _OF_THE_RUN.items() if key in own})
    if not model.is_ensemble:
        return fitted[0], name
    method = model.parameters.get("method", "median")
    return QuantileEnsemble.of_fitted(fitted, method, alias=name), name
