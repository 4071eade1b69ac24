"""A finished run about early warning put to use on new stays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.errors import DataError
from foretell.runs.folder import RunFolder, make_folder, write_table
from foretell.runs.sepsis.recipe import Recipe
from foretell.runs.sepsis.sources import read_stays
from foretell.runs.sources import naming_source
from foretell.runs.threads import limited_threads
from foretell.serving.deployment import Deployment


def predict(
    folder: RunFolder, record: Mapping[str, Any], recipe: Recipe, data: str, out: Path
) -> list[Path]:
    """Scores, reasons for silence and alarms of every hour of new stays.

    Args:
        folder: of the run, complete.
        record: its record.
        recipe: its recipe.
        data: a ``.psv`` file or a folder of them, a table with the columns of the 2019 challenge or
            with ``id`` and ``hour``, a folder that ``write_stays`` made, or a public data set.
        out: folder for ``predictions.parquet``: see :meth:`Deployment.predict`.

    Raises:
        ArtefactError: the run's model, gate or policy is damaged.
        DataError: the data cannot be used.
    """
    deployment = Deployment.load(folder.path)
    with naming_source(data):
        stays = read_stays(data)
        expected = deployment.gate.schema.names
        if stays.schema.names != expected:
            raise DataError(
                f"the stays have {len(stays.schema)} channels, the model knows {len(expected)}"
            )
        with limited_threads(recipe.threads):
            table = deployment.predict(stays)
    make_folder(out)
    return [write_table(table, out / "predictions.parquet")]
