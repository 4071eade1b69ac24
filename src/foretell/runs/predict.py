"""A finished run put to use: forecasts of new data, and its report drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foretell.errors import ArtefactError, ForetellError
from foretell.learners.demand import Forecaster
from foretell.runs.folder import RunFolder
from foretell.runs.recipe import Recipe, parse
from foretell.runs.runner import make_orders
from foretell.runs.sources import load_panel


def predict_run(
    run: str | Path, data: str, out: str | Path, *, quantiles: Sequence[float] | None = None
) -> list[Path]:
    """Forecasts new data with a run's model.

    Args:
        run: folder of a complete run.
        data: a source with the columns of the run's data.
        out: folder for the files.
        quantiles: levels; those of the model when ``None``.

    Returns:
        The files written: ``predictions.parquet`` and, where the recipe orders, ``orders.parquet``.

    Raises:
        ArtefactError: the run is not complete or kept no model.
        DataError: the data cannot be used.
    """
    folder = RunFolder(run)
    recipe = read_recipe(folder)
    if not (folder.path / "model").is_dir():
        raise ArtefactError(f"the run in {folder.path} kept no model: its recipe has no [final]")
    model = Forecaster.load(folder.path / "model")
    forecast = model.predict(load_panel(recipe.data, source=data), quantiles=quantiles)
    tables = {"predictions": forecast.to_polars()}
    if recipe.orders is not None:
        tables["orders"] = make_orders(recipe.orders, forecast).to_polars()
    Path(out).mkdir(parents=True, exist_ok=True)
    files = []
    for name, table in tables.items():
        file = Path(out) / f"{name}.parquet"
        partial = file.with_suffix(".partial")
        table.write_parquet(partial)
        files.append(partial.replace(file))
    return files


def read_recipe(folder: RunFolder) -> Recipe:
    """The recipe of a complete run."""
    document = folder.require_complete()
    try:
        return parse(document["recipe"], where=str(folder.path / "run.json"))
    except (KeyError, ForetellError) as error:
        raise ArtefactError(f"{folder.path} holds a recipe that cannot be read: {error}") from error
