"""A finished run about language models put to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.errors import ArtefactError
from foretell.runs.folder import RunFolder, make_folder, write_table
from foretell.runs.language.recipe import Recipe
from foretell.runs.language.sources import kind_of, read_new
from foretell.runs.sources import naming_source
from foretell.runs.threads import limited_threads


def predict(
    folder: RunFolder, record: Mapping[str, Any], recipe: Recipe, data: str, out: Path
) -> list[Path]:
    """Applies a run's model to new utterances.

    Args:
        folder: of the run, complete.
        record: its record.
        recipe: its recipe.
        data: a table with a column ``tokens``, a ``.txt`` file with an utterance a line, or a
            public data set.
        out: folder for ``predictions.parquet``.

    Raises:
        ArtefactError: the run kept no model, or it is damaged.
        DataError: the data cannot be used.
    """
    final = record.get("final") or {}
    if not final.get("kept"):
        raise ArtefactError(f"the run in {folder.path} kept no model: its recipe says so")
    name = str(final["model"])
    model = kind_of(name, recipe.models[name]).load(folder.path / "model")
    with naming_source(data):
        text = read_new(data)
        with limited_threads(recipe.threads):
            found = model.predict(text)
    make_folder(out)
    return [write_table(found.to_polars(), out / "predictions.parquet")]
