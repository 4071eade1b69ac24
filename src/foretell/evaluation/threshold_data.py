"""Public data cut for studies of decision thresholds, and the providers that suit each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from foretell.data.public import adult, movielens_100k, starbucks
from foretell.estimators.uncertainty import (
    EnsembleUncertainty,
    LaplaceUncertainty,
    MCDropoutUncertainty,
    NetworkClassifier,
    PosteriorNetworkClassifier,
)
from foretell.evaluation.thresholds import MakeProvider, ThresholdData

WAVES = {"train": (0.0, 168.0), "holdout": (336.0, 408.0), "test": (504.0, 576.0)}


def starbucks_waves(folder: Path) -> ThresholdData:
    """Offers of two waves each to train, to choose and to judge: later ones judge earlier ones.

    Offers whose validity outlasts the log (hour 714) count with what is visible, as the base rates
    of the test waves show.
    """
    log = starbucks(folder)
    X, y, times = log.matrix(), log.label(), log.times
    parts = {
        part: (X[np.isin(times, waves)], y[np.isin(times, waves)]) for part, waves in WAVES.items()
    }
    return ThresholdData("starbucks", **parts)


def movielens_fives(folder: Path, seed: int) -> ThresholdData:
    """Whether a rating is five stars, from user and film alone: 50, 25 and 25 % at random.

    Columns are two codes, user and film; how often each was seen in training varies a hundredfold,
    and with it how much a score is worth.
    """
    table = movielens_100k(folder)
    X = table.select("user_id", "item_id").to_numpy().astype(np.float64)
    y = (table["rating"].to_numpy() == 5).astype(np.int8)
    return _split("movielens_100k", X, y, seed, (0.5, 0.25, 0.25))


def adult_income(folder: Path, seed: int) -> ThresholdData:
    """Whether income exceeds 50,000 USD: 50 % of all people to train, 25 and 25 % at random.

    Text columns become codes from 1 in order of their names; a missing text is code 0.
    """
    table = adult(folder).drop("part", "fnlwgt")
    y = table["income"].to_numpy().astype(np.int8)
    columns = []
    for name in table.columns:
        if name == "income":
            continue
        column = table[name]
        if column.dtype == pl.String:
            known = {text: i for i, text in enumerate(sorted(column.drop_nulls().unique()), 1)}
            column = column.replace_strict(known, default=0, return_dtype=pl.Float64)
        columns.append(column.cast(pl.Float64).to_numpy())
    return _split("adult_census", np.column_stack(columns), y, seed, (0.5, 0.25, 0.25))


def adult_categories(folder: Path) -> tuple[int, ...]:
    """Columns of :func:`adult_income` that hold codes."""
    table = adult(folder, "test").drop("part", "fnlwgt", "income")
    return tuple(i for i, kind in enumerate(table.dtypes) if kind == pl.String)


def bagged_trees(seed: int) -> EnsembleUncertainty:
    """Twelve bagged decision trees with 20 rows a leaf."""
    return EnsembleUncertainty(
        DecisionTreeClassifier(min_samples_leaf=20), n_members=12, random_state=seed
    )


def network_providers(
    categorical: Sequence[int] = (),
    *,
    embedding_size: int = 8,
    weight_decay: float = 1e-2,
    threads: int | None = None,
) -> dict[str, MakeProvider]:
    """Monte Carlo dropout, Laplace and a posterior network for a table."""
    shared: dict[str, Any] = {
        "categorical_features": tuple(categorical),
        "embedding_size": embedding_size,
        "threads": threads,
        "batch_size": 512,
    }

    def network(seed: int, dropout: float) -> NetworkClassifier:
        return NetworkClassifier(
            dropout=dropout, weight_decay=weight_decay, random_state=seed, **shared
        )

    return {
        "mc_dropout": lambda seed: MCDropoutUncertainty(network(seed, 0.2), random_state=seed),
        "laplace": lambda seed: LaplaceUncertainty(network(seed, 0.1), random_state=seed),
        "posterior_network": lambda seed: PosteriorNetworkClassifier(random_state=seed, **shared),
    }


def one_hot_logistic(C: float = 0.3) -> Any:
    """Logistic regression on one column for each code of each column."""
    return make_pipeline(
        OneHotEncoder(handle_unknown="ignore"), LogisticRegression(C=C, max_iter=300)
    )


def movielens_providers(threads: int | None = None) -> dict[str, MakeProvider]:
    """All four on user and film: logistic regression on one-hot codes, networks on embeddings.

    A penalty shrinks the scores of rarely seen codes, so that they already say what uncertainty
    would; ``laplace_unshrunk`` has next to none, and the logit's standard deviation.
    """
    networks = network_providers((0, 1), threads=threads)
    return {
        "ensemble": lambda seed: EnsembleUncertainty(
            one_hot_logistic(), n_members=12, random_state=seed
        ),
        "mc_dropout": networks["mc_dropout"],
        "laplace": lambda seed: LaplaceUncertainty(one_hot_logistic()),
        "laplace_unshrunk": lambda seed: LaplaceUncertainty(
            one_hot_logistic(C=10.0), uncertainty="logit_std"
        ),
        "posterior_network": networks["posterior_network"],
    }


def adult_providers(categorical: Sequence[int], threads: int | None = None) -> dict[str, Any]:
    """All four on the census: bagged trees, and networks with embedded categories."""
    return {"ensemble": bagged_trees, **network_providers(categorical, threads=threads)}


def _split(
    name: str, X: NDArray, y: NDArray, seed: int, shares: tuple[float, float, float]
) -> ThresholdData:
    order = np.random.default_rng(seed).permutation(len(y))
    first = round(shares[0] * len(y))
    second = first + round(shares[1] * len(y))
    parts = np.split(order, [first, second])
    return ThresholdData(name, *((X[rows], y[rows]) for rows in parts))
