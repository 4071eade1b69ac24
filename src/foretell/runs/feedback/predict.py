"""A finished late-labels run put to use: scores of new entities, and decisions on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from foretell.decisions.thresholds import DecisionSurface
from foretell.errors import ArtefactError
from foretell.runs.feedback.decide import Members
from foretell.runs.feedback.recipe import DataSection, Recipe
from foretell.runs.feedback.saved import SavedSnapshot, load_members
from foretell.runs.feedback.sources import SIMULATORS, load_log
from foretell.runs.folder import RunFolder, make_folder, write_table
from foretell.runs.sources import is_public, naming_source


def predict(
    folder: RunFolder, record: Mapping[str, Any], recipe: Recipe, data: str, out: Path
) -> list[Path]:
    """Scores new entities; decides on them where the run chose a surface.

    Args:
        folder: of the run, complete.
        record: its record.
        recipe: its recipe.
        data: a table of entities with the features of the run's data, or another source.
        out: folder for the files.

    Returns:
        The files written: ``predictions.parquet`` (``id, t, p``) and, where the run decided,
        ``decisions.parquet`` (``id, t, score, uncertainty, decision``).

    Raises:
        ArtefactError: the run kept no model.
        DataError: the data cannot be used.
    """
    home = folder.path / "model"
    if not home.is_dir():
        reason = (record.get("final") or {}).get("reason") or "its recipe has no [final]"
        raise ArtefactError(f"the run in {folder.path} kept no model: {reason}")
    model, members = SavedSnapshot.load(home), load_members(home)
    section = _section(recipe.data, record, data)
    with naming_source(data):
        log, _ = load_log(section, seed=recipe.seeds[0])
        known = {"id": log.ids, "t": log.times}
        tables = {"predictions": pl.DataFrame({**known, "p": model.predict_proba(log)[:, 1]})}
        if members:
            surface = DecisionSurface.from_json(folder.path / "surface.json")
            score, uncertainty = Members(tuple(members))(log)
            decided = surface.predict(score, uncertainty)
            columns = {"score": score, "uncertainty": uncertainty, "decision": decided}
            tables["decisions"] = pl.DataFrame({**known, **columns})
    make_folder(out)
    return [write_table(table, out / f"{name}.parquet") for name, table in tables.items()]


def _section(data: DataSection, record: Mapping[str, Any], source: str) -> DataSection:
    """The section by which new entities are read; their outcomes are not known yet."""
    if source == data.source:
        return data
    about = record.get("data") or {}
    was_table = not is_public(data.source) and data.source not in SIMULATORS
    changes: dict[str, Any] = {"source": source, "outcomes": None}
    if not was_table:
        changes["options"] = {}
    if not (is_public(source) or source in SIMULATORS):
        changes["features"] = list(about.get("features") or ()) or None
        changes["attribution_window"] = data.attribution_window or about.get("window")
        changes["unit"] = data.unit or about.get("unit")
        if data.deadline is not None:
            changes["deadline"] = data.deadline
    else:
        own = DataSection(source=source)
        changes |= {
            name: getattr(own, name) for name in DataSection.model_fields if name != "source"
        }
    return data.model_copy(update=changes)
