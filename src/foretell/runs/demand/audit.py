"""The audit of a demand run: does a forecaster know which series it was trained on?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.audits.membership import content_hashes
from foretell.data.panel import Panel
from foretell.errors import ArtefactError
from foretell.evaluation.metrics import pinball
from foretell.learners.demand import Forecaster
from foretell.runs.auditing import AuditSubject, named_model, require_same_data
from foretell.runs.demand.models import is_random, make_model
from foretell.runs.demand.recipe import DataSection, Recipe
from foretell.runs.demand.sources import load_panel
from foretell.runs.folder import RunFolder
from foretell.runs.threads import limited_threads

_MOST_ORIGINS = 8


def audit(
    folder: RunFolder, record: Mapping[str, Any], recipe: Recipe, model: str | None
) -> AuditSubject:
    """What to repeat: the training of one model on halves of the series.

    The attacker sees forecasts: a series' signal is minus the pinball loss of forecasts made within
    its training part, over its mean absolute value.

    Raises:
        ArtefactError: the data have changed, or the model is not trained across series.
        ParameterError: the run has no such model.
    """
    name = named_model(record, list(recipe.models), model)
    section = recipe.models[name]
    trained = [n for n, m in recipe.models.items() if not m.is_ensemble and is_random(m.kind)]
    if name not in trained:
        kind = "an ensemble" if section.is_ensemble else "fitted to each series by itself"
        others = f": name one of {', '.join(trained)}" if trained else ""
        raise ArtefactError(
            f"{name} is {kind}: there is no training across series whose members could be told"
            + others
        )
    panel = load_panel(recipe.data, seed=recipe.seeds[0])
    require_same_data(folder, record, panel.fingerprint())
    about = recipe.model_dump(mode="json", include={"data", "quantiles", "threads"})
    settings = {"kind": section.kind, **section.parameters}
    return AuditSubject(
        model=name,
        train=SeriesTraining(recipe, name),
        examples=len(panel),
        unit="series",
        signal="log_likelihood",
        about={**about, "model": settings, "fingerprint": panel.fingerprint()},
        features=_features(panel),
        hashes=content_hashes([panel.series(i) for i in range(len(panel))]),
        names=[str(name) for name in panel.ids],
        notes=(
            "One example is a whole series. Models are trained on half of the series each, so they "
            "know less of each other's data than the run's own model, which saw all of them.",
        ),
    )


@dataclass(frozen=True)
class SeriesTraining:
    """One model of a recipe trained on some of the series.

    Args:
        recipe: the run's recipe.
        model: name of the model's section.
    """

    recipe: Recipe
    model: str

    def __call__(self, members: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
        """Signals ``(N,)`` of all series."""
        recipe, section = self.recipe, self.recipe.models[self.model]
        panel = _panel(recipe.data.model_dump_json(), recipe.seeds[0])
        with limited_threads(recipe.threads):
            model = make_model(
                self.model, section.kind, section.parameters, h=recipe.data.horizon,
                quantiles=tuple(recipe.quantiles), season_length=recipe.data.season_length,
                seed=seed % 2**31, threads=recipe.threads,
            )  # fmt: skip
            model.fit(panel.select(np.flatnonzero(members)))
            return series_signals(model, panel)


def series_signals(model: Forecaster, panel: Panel) -> NDArray[np.float64]:
    """Minus the scaled pinball loss of each series ``(N,)``, at origins within the training part.

    A series that is too short for any origin has NaN, of which attacks make nothing.
    """
    longest = int(panel.lengths.max(initial=0))
    most = max(1, min(_MOST_ORIGINS, (longest - 1) // model.h))
    back = [model.h * (step + 1) for step in range(most) if model.h * (step + 1) < longest]
    if not back:
        return np.full(len(panel), np.nan)
    forecast = model.predict_origins(panel, back)
    truth = panel.outcomes(list(forecast.ids), forecast.cutoffs, forecast.horizon)
    losses = pinball(truth, forecast.values, forecast.levels)
    losses = losses.reshape(len(back), len(panel), -1)
    started = np.asarray(back)[:, None] < panel.lengths[None, :]
    losses[~started] = np.nan
    scale = np.array([_scale(panel.series(i)) for i in range(len(panel))])
    seen = ~np.isnan(losses)
    count = seen.sum((0, 2))
    total = np.where(seen, losses, 0.0).sum((0, 2))
    return np.asarray(np.where(count > 0, -total / np.maximum(count, 1) / scale, np.nan))


@lru_cache(maxsize=1)
def _panel(document: str, seed: int) -> Panel:
    return load_panel(DataSection.model_validate_json(document), seed=seed)


def _scale(values: NDArray[Any]) -> float:
    """Mean absolute value; 1 of a series of zeros or of nothing."""
    known = values[~np.isnan(values)]
    size = float(np.abs(known).mean()) if known.size else 0.0
    return size if size > 0 else 1.0


def _features(panel: Panel) -> NDArray[np.float64]:
    """What anybody can see of a series: level, spread, zeros, length, categories."""
    rows = []
    for i in range(len(panel)):
        values = panel.series(i)
        known = np.asarray(values[~np.isnan(values)], np.float64)
        if not known.size:
            known = np.zeros(1)
        rows.append(
            [
                np.log1p(np.abs(known).mean()),
                np.log1p(known.std()),
                float((known == 0).mean()),
                np.log1p(len(values)),
            ]
        )
    codes = [np.asarray(c.codes, np.float64) for c in panel.static_categorical.values()]
    table = np.asarray(rows, np.float64).reshape(len(panel), 4)
    return np.column_stack([table, *codes])
