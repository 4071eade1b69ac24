"""What a run's deployment carries so that the service asks for the panel that tells most."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical import CausalFeatureBuilder, Stays, target
from foretell.decisions.sensing import HourlySensing, panel_tables, panels_of
from foretell.estimators import FeedForwardRisk
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.sources import Parts

FRESH = 6
"""Hours for which a value is new."""

_MODEL: dict[str, Any] = {"weight_decay": 0.3, "learning_rate": 1e-3, "batch_size": 256}
_MOST_STEPS, _PASSES = 1200, 40
_PATIENTS_A_COMPONENT, _PRIOR_PATIENTS = 200, 10.0


def fit_sensing(recipe: Recipe, parts: Parts, model: FeedForwardRisk) -> HourlySensing | None:
    """Learns from the hours at risk of the last site's training patients.

    The site is where the deployed model was trained last: no hour of another site is used. All
    hours that lead to an onset count, and of the others as many as the recipe says.

    Returns:
        None where the recipe asks for none, or the model's features hold no last values.
    """
    section, builder = recipe.sensing, model.features_
    assert builder is not None
    names = builder.names
    channels = [c for c in builder.schema.names if f"{c}:last" in names]
    if not section.sampler or not channels:
        return None
    stays = parts.split.train.of("site", parts.sites[-1])
    wanted = target(stays, float(model.horizon))
    rng = np.random.default_rng(recipe.seeds[0])
    well = np.flatnonzero(wanted.at_risk & (wanted.label == 0))
    share = min(1.0, section.hours / len(well))
    if share < 1:
        well = rng.choice(well, section.hours, replace=False)
    rows = np.sort(np.concatenate([well, np.flatnonzero(wanted.at_risk & (wanted.label == 1))]))
    features, since, known, before = hourly(builder, stays, rows, channels)
    places = {name: i for i, name in enumerate(channels)}
    panels = [[channels[i] for i in p.features] for p in panels_of(panel_tables(), places)]
    options: dict[str, Any] = {}
    if section.sampler == "mixture":
        people = len(np.unique(stays.patients.astype(str)[stays.stay_of_row()[rows]]))
        # Patients are counted: by hours, one who stays long could have a component to himself.
        options = {"components": max(1, min(8, people // _PATIENTS_A_COMPONENT)),
                   "prior": _PRIOR_PATIENTS * len(rows) / people, "iterations": 60}  # fmt: skip
    elif section.sampler == "vae":
        options = {"threads": recipe.threads}
    return HourlySensing.fit(
        names, features, since, known, wanted.label[rows], panels, before=before, fresh=FRESH,
        share=share, sampler=section.sampler, sampler_options=options,
        random_state=recipe.seeds[0], threads=recipe.threads,
        max_steps=min(_MOST_STEPS, 1 + _PASSES * len(rows) // _MODEL["batch_size"]), **_MODEL,
    )  # fmt: skip


def hourly(
    builder: CausalFeatureBuilder, stays: Stays, rows: NDArray[np.int64], channels: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
    """What is known in some hours, as the service knows it.

    Args:
        builder: fitted, of the features.
        stays: of the hours.
        rows: (R,) ascending.
        channels: (C,) whose last values are features.

    Returns:
        Features (R, F), hours since the last value (R, C), whether there was one (R, C), and the
        last value that was no longer new (R, C), NaN where there was none.
    """
    begins = np.repeat(stays.offsets[:-1], stays.lengths)
    earlier = rows - FRESH
    inside = earlier >= begins[rows]
    asked = np.union1d(rows, earlier[inside])
    table = builder.transform(stays, asked)
    number = [stays.schema.names.index(c) for c in channels]
    here = ~np.isnan(stays.matrix()[:, number])
    place = np.arange(len(here), dtype=np.int64)[:, None]
    last = np.maximum.accumulate(np.where(here, place, -1), axis=0)
    known = last >= begins[:, None]
    columns = np.array([builder.names.index(f"{c}:last") for c in channels])
    before = np.full((len(rows), len(channels)), np.nan)
    old = np.searchsorted(asked, earlier[inside])
    before[inside] = np.where(known[earlier[inside]], table[np.ix_(old, columns)], np.nan)
    return table[np.searchsorted(asked, rows)], (place - last)[rows], known[rows], before
