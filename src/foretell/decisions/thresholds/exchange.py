"""A surface as JSON: what a service needs to decide, and what a reader needs to trust it.

The document has ``"format": "foretell.decision_surface"`` and a ``schema_version``. To decide in
any language: ``region`` = number of ``score_edges`` that are at most the score; ``level`` = number
of ``level_edges[region]`` that are at most the uncertainty (the last level where the uncertainty is
missing and ``missing_level`` is true); positive iff the score is at least ``thresholds[level]``;
else "abstain" iff it is at least ``floors[level]``. ``null`` stands for "never" (+infinity) among
edges, thresholds and floors, and for "undefined" among figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.decisions.thresholds.binning import Partition
from foretell.decisions.thresholds.figures import Achieved, Baseline, Guarantee
from foretell.decisions.thresholds.surface import DecisionSurface
from foretell.errors import ArtefactError

FORMAT = "foretell.decision_surface"
SCHEMA_VERSION = 1
_PLAIN = ("method", "min_precision", "binning", "feasible_", "best_precision_", "cut", "confidence")


def _plain(value: Any) -> Any:
    """Arrays as lists, numbers that JSON lacks as null."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def to_json(surface: DecisionSurface) -> str:
    """The surface as JSON text."""
    document = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        **{name: getattr(surface, name) for name in _PLAIN},
        "score_edges": surface.partition.score_edges,
        "level_edges": list(surface.partition.level_edges),
        "missing_level": surface.partition.missing,
        "thresholds": surface.thresholds,
        "floors": surface.floors,
        "uncertainty_range": surface.uncertainty_range,
        "probability_scores": surface.probability_scores,
        "probability_values": surface.probability_values,
        "achieved": asdict(surface.achieved),
        "baseline": asdict(surface.baseline),
        "guarantee": None if surface.guarantee is None else asdict(surface.guarantee),
        "base_rates": surface.base_rates,
        "level_table": surface.level_table,
        "cell_table": surface.cell_table,
        "notes": surface.notes,
    }
    return json.dumps(_plain(document), allow_nan=False)


def from_json(source: str | Path) -> DecisionSurface:
    """A surface from JSON text, or from the file of it that a path or a string without "{" names.

    Raises:
        ArtefactError: not a surface, damaged, or written by a newer version.
    """
    text = source
    where = "the text"
    if isinstance(source, Path) or "{" not in source:
        where = str(source)
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtefactError(f"cannot read a decision surface from {where}: {error}") from None
    try:
        document = json.loads(str(text))
    except json.JSONDecodeError as error:
        raise ArtefactError(f"{where} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtefactError(f'{where} is not a decision surface: its "format" is not {FORMAT!r}')
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtefactError(f"{where}: schema_version {version!r} is not a version")
    if version > SCHEMA_VERSION:
        raise ArtefactError(
            f"{where} has schema_version {version}, this library reads up to {SCHEMA_VERSION}: "
            "update foretell"
        )
    try:
        return _surface(document)
    except KeyError as error:
        raise ArtefactError(f"{where}: the surface lacks {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{where}: the surface is damaged: {error}") from None


def _numbers(values: Any, null: float = math.nan) -> NDArray[np.float64]:
    if not isinstance(values, list):
        raise TypeError(f"expected a list, got {type(values).__name__}")
    return np.array([null if value is None else float(value) for value in values], np.float64)


def _surface(document: dict[str, Any]) -> DecisionSurface:
    thresholds = _numbers(document["thresholds"], math.inf)
    floors = _numbers(document["floors"], math.inf)
    edges = _numbers(document["score_edges"], math.inf)
    rows = [_numbers(row, math.inf) for row in document["level_edges"]]
    missing = bool(document["missing_level"])
    cells = Partition(edges, np.ascontiguousarray(np.stack(rows)), missing)
    levels = cells.n_levels
    scores = tuple(_numbers(each) for each in document["probability_scores"])
    values = tuple(_numbers(each) for each in document["probability_values"])
    if len(rows) != len(edges) + 1:
        raise ValueError(f"{len(rows)} rows of level_edges for {len(edges)} score_edges")
    for name, sequence in (
        ("thresholds", thresholds),
        ("floors", floors),
        ("probability_scores", scores),
        ("probability_values", values),
    ):
        if len(sequence) != levels:
            raise ValueError(f"{len(sequence)} {name} for {levels} levels")
    if np.isnan(np.concatenate([thresholds, floors, edges, *rows, *scores, *values])).any():
        raise ValueError("an edge, threshold or probability is NaN")
    if np.any(np.diff(edges) < 0) or any(np.any(row[1:] < row[:-1]) for row in rows):
        raise ValueError("edges do not ascend")
    if np.any(floors > thresholds):
        raise ValueError("a floor lies above its threshold")
    if any(len(s) != len(v) or not len(s) for s, v in zip(scores, values, strict=True)):
        raise ValueError("probability_scores and probability_values differ in length")
    low, high = (float(end) for end in document["uncertainty_range"])
    guarantee = document["guarantee"]
    base = document["base_rates"]
    reference = document["baseline"]
    never = reference["threshold"]
    return DecisionSurface(
        **{name: document[name] for name in _PLAIN if name not in ("best_precision_",)},
        best_precision_=_figure(document["best_precision_"]),
        partition=cells,
        thresholds=thresholds,
        floors=floors,
        uncertainty_range=(low, high),
        probability_scores=scores,
        probability_values=values,
        achieved=_achieved(document["achieved"]),
        baseline=Baseline(
            math.inf if never is None else float(never), _achieved(reference["achieved"])
        ),
        level_table={name: _numbers(each) for name, each in document["level_table"].items()},
        cell_table={
            name: _numbers(each).astype(np.int32) if name == "level" else _numbers(each)
            for name, each in document["cell_table"].items()
        },
        guarantee=None if guarantee is None else Guarantee(**_figures(guarantee)),
        base_rates=(float(base[0]), float(base[1])),
        notes=tuple(str(note) for note in document["notes"]),
    )


def _figure(value: Any) -> Any:
    return math.nan if value is None else value


def _figures(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _figure(value) for name, value in values.items()}


def _achieved(values: Mapping[str, Any]) -> Achieved:
    return Achieved(**_figures(values))
