"""Rows to train on, to choose rules on and to judge them on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data import registry
from foretell.data.readers import read_table
from foretell.data.simulators import evidence_cells
from foretell.errors import DataError, RecipeError
from foretell.estimators.uncertainty import Uncertain
from foretell.evaluation import threshold_data
from foretell.evaluation.thresholds import MakeProvider, ThresholdData
from foretell.runs.building import check_arguments, check_keys
from foretell.runs.section import nearest
from foretell.runs.thresholds.recipe import TRAINED, DataSection, Recipe

CELLS = "evidence_cells"
_OWN = ("seed",)


class Given:
    """Scores and uncertainties that the rows bring with them: columns 0 and 1 of X (n, 2)."""

    def fit(self, X: NDArray[np.float64], y: NDArray[Any]) -> Given:
        """Nothing is learned."""
        return self

    def __call__(self, X: NDArray[np.float64]) -> Uncertain:
        """The rows' own."""
        return Uncertain(X[:, 0], X[:, 1])


def load_data(data: DataSection) -> Callable[[int], ThresholdData]:
    """A function of the seed that gives the three parts.

    Raises:
        RecipeError: an option or key does not fit the source.
        DataError: the data cannot be found, read or used.
    """
    source = data.source
    if source == CELLS:
        check_arguments("data.options", evidence_cells, data.options, _OWN)
        return lambda seed: _cells(seed, data.options)
    if source in TRAINED:
        check_keys("data.options", data.options, ())
        folder = registry.path(source)
        if source == "movielens_100k":
            return lambda seed: threshold_data.movielens_fives(folder, seed)
        if source == "adult_census":
            return lambda seed: threshold_data.adult_income(folder, seed)
        waves = threshold_data.starbucks_waves(folder)
        return lambda seed: waves
    if data.options:
        raise RecipeError(f"data.options {list(data.options)} are for the simulator {CELLS!r}")
    table = _scored(data)
    return lambda seed: _split(table, data, seed)


def providers(recipe: Recipe) -> dict[str, MakeProvider]:
    """Model -> function of the seed that makes it.

    Raises:
        RecipeError: a kind is not there for the source.
    """
    source = recipe.data.source
    known: dict[str, MakeProvider]
    if source not in TRAINED:
        known = {"given": lambda seed: Given()}
    elif source == "movielens_100k":
        known = threshold_data.movielens_providers(recipe.threads)
    elif source == "adult_census":
        categorical = threshold_data.adult_categories(registry.path(source))
        known = threshold_data.adult_providers(categorical, recipe.threads)
    else:
        known = {
            "ensemble": threshold_data.bagged_trees,
            **threshold_data.network_providers(threads=recipe.threads),
        }
    made = {}
    for name, model in recipe.models.items():
        if model.kind not in known:
            raise RecipeError(
                f"models.{name}.kind {model.kind!r} is not there for {source!r}"
                + nearest(model.kind, known)
            )
        made[name] = known[model.kind]
    return made


def describe(data: DataSection, parts: ThresholdData) -> dict[str, Any]:
    """What a run's record says of its data."""
    digest = hashlib.sha256()
    for X, y in (parts.train, parts.holdout, parts.test):
        digest.update(np.ascontiguousarray(np.asarray(X, np.float64)).tobytes())
        digest.update(np.ascontiguousarray(y, np.int8).tobytes())
    facts: dict[str, Any] = {"source": data.source}
    for name, (_, y) in (("train", parts.train), ("holdout", parts.holdout), ("test", parts.test)):
        if len(y):
            facts |= {f"{name}_rows": len(y), f"{name}_rate": float(np.mean(y))}
    return {**facts, "fingerprint": digest.hexdigest()}


def _cells(seed: int, options: dict[str, Any]) -> ThresholdData:
    hold_out, test = evidence_cells(**{"seed": seed, **options})
    held, tested = (
        (np.column_stack([part.score, part.uncertainty]), part.y) for part in (hold_out, test)
    )
    return ThresholdData(CELLS, (held[0][:0], held[1][:0]), held, tested)


def _scored(data: DataSection) -> pl.DataFrame:
    if not Path(data.source).suffix and not Path(data.source).exists():
        raise DataError(
            f"{data.source!r} is no simulator, no data set for decisions and no file"
            + nearest(data.source, [CELLS, *TRAINED])
        )
    table = read_table(data.source)
    names = (data.score_column, data.uncertainty_column, data.label_column)
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise DataError(
            f"columns {missing} are missing",
            file=data.source,
            hint=f"The table has {table.columns[:20]}; name them by data.score_column, "
            "data.uncertainty_column and data.label_column",
        )
    try:
        table = table.select(pl.col(name).cast(pl.Float64) for name in names)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"a column holds no numbers: {error}", file=data.source) from error
    for name in names:
        bad = table[name].is_null() | ~table[name].is_finite()
        if bad.any():
            raise DataError(
                "a value is missing or not finite", file=data.source, column=name,
                row=int(bad.arg_max() or 0),
            )  # fmt: skip
    wrong = ~table[data.label_column].is_in([0.0, 1.0])
    if wrong.any():
        raise DataError(
            "a label is neither 0 nor 1", file=data.source, column=data.label_column,
            row=int(wrong.arg_max() or 0),
        )  # fmt: skip
    return table


def _split(table: pl.DataFrame, data: DataSection, seed: int) -> ThresholdData:
    X = table.select(data.score_column, data.uncertainty_column).to_numpy()
    y = table[data.label_column].to_numpy().astype(np.int8)
    order = np.random.default_rng(seed).permutation(len(y))
    cut = round(data.hold_out * len(y))
    held, tested = order[:cut], order[cut:]
    if min(len(held), len(tested)) < 2 or len(set(y[held])) < 2:
        raise DataError("too few rows, or one class only, to choose a rule on", file=data.source)
    name = Path(data.source).stem
    return ThresholdData(name, (X[:0], y[:0]), (X[held], y[held]), (X[tested], y[tested]))
