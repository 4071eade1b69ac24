"""Two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from foretell.errors import ParameterError
from foretell.runs.folder import RunFolder
from foretell.runs.runner import task_of


def compare_runs(first: str | Path, second: str | Path, metric: str | None = None) -> pl.DataFrame:
    """One score of every model and protocol that either run has.

    Args:
        first: folder of a complete run.
        second: folder of a complete run.
        metric: a key of ``metrics.<model>.<protocol>`` in ``run.json``; inner keys are joined:
            coverage of a level is ``coverage_0.9``. The main score of the runs' task when ``None``.

    Returns:
        Columns ``model, protocol, first, second, ratio`` (second / first) and ``same_data``; null
        where a run lacks the pair.

    Raises:
        ArtefactError: a run is not complete.
        ParameterError: no model has that score, or the runs are about different things.
    """
    records = [RunFolder(path).require_complete() for path in (first, second)]
    kinds = [record.get("task") for record in records]
    if kinds[0] != kinds[1]:
        raise ParameterError(f"{first} is a run about {kinds[0]} and {second} one about {kinds[1]}")
    metric = metric or task_of(records[0]).main_score
    fingerprints = [(record.get("data") or {}).get("fingerprint") for record in records]
    same = fingerprints[0] is not None and fingerprints[0] == fingerprints[1]
    scores: list[dict[tuple[str, str], float | None]] = []
    known: set[str] = set()
    for record in records:
        pairs = {}
        for model, protocols in (record.get("metrics") or {}).items():
            for protocol, scores_of in protocols.items():
                values = _flat(scores_of)
                known |= set(values)
                if metric in values:
                    pairs[model, protocol] = values[metric]
        scores.append(pairs)
    if not any(scores):
        raise ParameterError(f"no model has a score {metric!r}; known are {sorted(known)}")
    rows = []
    for pair in dict.fromkeys([*scores[0], *scores[1]]):
        a, b = scores[0].get(pair), scores[1].get(pair)
        ratio = b / a if a and b is not None else None
        rows.append((*pair, a, b, ratio, same))
    columns = ["model", "protocol", "first", "second", "ratio", "same_data"]
    return pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None)


def _flat(scores: dict[str, Any]) -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for name, value in scores.items():
        inner = value.items() if isinstance(value, dict) else ()
        flat |= {f"{name}_{key}": one for key, one in inner}
        if not isinstance(value, dict):
            flat[name] = value
    return flat
