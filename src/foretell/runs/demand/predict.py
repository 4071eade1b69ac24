"""A finished demand run put to use: forecasts of new data, and its report drawn anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from foretell.errors import ArtefactError, ForetellError
from foretell.learners.demand import Forecaster
from foretell.runs.demand.publish import draw, find, make_orders
from foretell.runs.demand.recipe import Recipe
from foretell.runs.demand.results import read_results
from foretell.runs.demand.sources import for_new_data, load_panel
from foretell.runs.demand.trip import look_ahead
from foretell.runs.folder import RunFolder, make_folder, write_table
from foretell.runs.sources import naming_source
from foretell.runs.threads import limited_threads

_EFFECTS = ("elasticity", "events")


def predict(
    folder: RunFolder,
    record: Mapping[str, Any],
    recipe: Recipe,
    data: str,
    out: Path,
    *,
    quantiles: Sequence[float] | None = None,
    future: str | None = None,
    static: str | None = None,
    items: str | None = None,
) -> list[Path]:
    """Forecasts new data with a run's model.

    Args:
        folder: of the run, complete.
        record: its record.
        recipe: its recipe.
        data: a source with the columns of the run's data.
        out: folder for the files.
        quantiles: levels; those of the model when ``None``.
        future: table of the known covariates ahead; the recipe's when ``None``.
        static: table of attributes; the recipe's when ``None``.
        items: table of stock and costs for orders; the recipe's when ``None``.

    Returns:
        The files written: ``predictions.parquet`` and, where the recipe orders, ``orders.parquet``.

    Raises:
        ArtefactError: the run kept no model, or ``items`` are given to a run without orders.
        DataError: the data cannot be used.
    """
    model = _kept_model(folder)
    if items is not None and recipe.orders is None:
        raise ArtefactError(f"the run in {folder.path} orders nothing: its recipe has no [orders]")
    section = for_new_data(
        recipe.data, record.get("data") or {}, data, future=future, static=static
    )
    with naming_source(data):
        panel = load_panel(section, seed=recipe.seeds[0])
        with limited_threads(recipe.threads):
            forecast = model.predict(
                panel, quantiles=quantiles, missing_known=recipe.data.missing_known
            )
    tables = {"predictions": forecast.to_polars()}
    if recipe.orders is not None:
        rule = recipe.orders if items is None else recipe.orders.model_copy(update={"items": items})
        tables["orders"] = make_orders(rule, forecast).to_polars()
    make_folder(out)
    return [write_table(table, out / f"{name}.parquet") for name, table in tables.items()]


def redraw(folder: RunFolder, record: Mapping[str, Any], recipe: Recipe) -> Path:
    """Draws a run's report anew from its folder and its data.

    Raises:
        ArtefactError: the run's data are gone or have changed.
    """
    try:
        panel = load_panel(recipe.data, seed=recipe.seeds[0])
    except ForetellError as error:
        raise ArtefactError(
            f"the report of {folder.path} needs the run's data, which cannot be read: {error}"
        ) from error
    if panel.fingerprint() != (record.get("data") or {}).get("fingerprint"):
        raise ArtefactError(
            f"the data {recipe.data.source!r} have changed since the run in {folder.path}: its "
            "backtests do not belong to them any more"
        )
    results = read_results(folder.path, record.get("backtests") or [], panel)
    final = record.get("final") or {}
    model = _kept_model(folder) if final.get("kept") else None
    with naming_source(recipe.data.source):
        ahead = look_ahead(recipe, panel, model, str(final.get("model")), _read_effects(folder))
    draw(folder, record, recipe, panel, results, find(recipe, panel, results), ahead)
    return folder.path / "report.html"


def _kept_model(folder: RunFolder) -> Forecaster:
    if not (folder.path / "model").is_dir():
        raise ArtefactError(f"the run in {folder.path} kept no model: its recipe has no [final]")
    return Forecaster.load(folder.path / "model")


def _read_effects(folder: RunFolder) -> Mapping[str, pl.DataFrame]:
    files = {name: folder.path / f"{name}.parquet" for name in _EFFECTS}
    try:
        return {name: pl.read_parquet(file) for name, file in files.items() if file.is_file()}
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtefactError(f"the tables in {folder.path} cannot be read: {error}") from error
