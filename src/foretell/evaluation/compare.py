"""Which model is better, and is the difference more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from foretell.data.panel import Panel
from foretell.errors import ParameterError
from foretell.evaluation import scores
from foretell.evaluation.bootstrap import cluster_bootstrap
from foretell.evaluation.metrics import pinball
from foretell.evaluation.tidy import Forecasts, evaluate, summarise
from foretell.learners.demand.forecast import Forecast

DEFAULT_COLUMNS = ("wql", "mase", "wape", "calibration_error")


@dataclass(frozen=True)
class Difference:
    """Score of ``model`` minus score of ``reference``, with a cluster-bootstrap interval."""

    model: str
    reference: str
    metric: str
    difference: float
    lower: float
    upper: float
    relative: float
    series: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return not self.lower <= 0 <= self.upper


class DieboldMariano(NamedTuple):
    """Statistic (negative: the first model loses less), two-sided p-value, mean difference."""

    statistic: float
    p_value: float
    mean_difference: float


def difference(
    table: pl.DataFrame,
    model: str,
    reference: str,
    *,
    metric: str = "wql",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compares two models on the same cells; series are resampled together.

    Where the table has a column ``seed`` (several trainings of one model), a model's score is the
    mean over its seeds.

    Args:
        table: of :func:`foretell.evaluation.evaluate`, with ``unique_id``.
        model: name in the table.
        reference: name in the table.
        metric: any name that :func:`foretell.evaluation.scores.score` knows.
        resamples: number of bootstrap resamples.
        confidence: share inside the interval.
        seed: of the resampling.

    Raises:
        ParameterError: a name is not in the table, or the models were not scored on the same
            observed cells (lists series).
    """
    ids, columns, first = _per_series(table, model)
    other_ids, _, second = _per_series(table, reference)
    _require_same_cells(model, ids, first, reference, other_ids, second, columns)
    runs, count = len(first), len(columns)
    stacked = np.concatenate([*first, *second], axis=1)

    def statistic(sums: NDArray) -> NDArray:
        per_run = sums.reshape(len(sums), -1, count)
        named = {c: per_run[..., i] for i, c in enumerate(columns)}
        values = scores.score(metric, named)
        a, b = values[:, :runs].mean(axis=1), values[:, runs:].mean(axis=1)
        return np.stack([a - b, a / np.where(b == 0, np.nan, b) - 1], axis=1)

    found = cluster_bootstrap(
        stacked, statistic, resamples=resamples, confidence=confidence, seed=seed
    )
    return Difference(
        model,
        reference,
        metric,
        float(found.estimate[0]),
        float(found.lower[0]),
        float(found.upper[0]),
        float(found.estimate[1]),
        len(ids),
    )


def leaderboard(
    results: pl.DataFrame | Forecasts,
    panel: Panel | None = None,
    *,
    metrics: Sequence[str] = DEFAULT_COLUMNS,
    sort_by: str = "wql",
    baseline: str | None = None,
    season_length: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Models from best to worst, each with the interval of its difference to a reference.

    Args:
        results: a table of :func:`foretell.evaluation.evaluate`, or forecasts to evaluate.
        panel: the outcomes, where forecasts are given.
        metrics: columns to show.
        sort_by: the score that decides, lower first; added to the columns if it is not there.
        baseline: the reference; the best model when ``None``.
        season_length: see :func:`foretell.evaluation.evaluate`.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Returns:
        ``rank, model, seeds``, the metrics (means over seeds, ``<metric>_sd`` beside them where
        there are several), and of ``sort_by``: ``difference, lower, upper, relative, reference``;
        null in the reference's own row.
    """
    if isinstance(results, pl.DataFrame):
        table = results
    elif panel is None:
        raise ParameterError("forecasts need panel=, the outcomes to score them against")
    else:
        table = evaluate(results, panel, by=(), season_length=season_length)
    names = list(dict.fromkeys([sort_by, *metrics]))
    summary = over_seeds(table, metrics=names)
    several = bool((summary["seeds"] > 1).any())
    kept = [c for name in names for c in ([name, f"{name}_sd"] if several else [name])]
    board = summary.select("model", "seeds", *kept)
    board = board.sort(pl.col(sort_by).fill_nan(None), nulls_last=True, maintain_order=True)
    reference = board["model"][0] if baseline is None else baseline
    if reference not in board["model"].to_list():
        raise ParameterError(
            f"baseline {reference!r} is not among the models {board['model'].to_list()}"
        )
    rows: list[dict[str, float | str | None]] = []
    for model in board["model"]:
        if model == reference or "unique_id" not in table.columns:
            none = dict.fromkeys(("difference", "lower", "upper", "relative"))
            rows.append({**none, "reference": None})
            continue
        found = difference(table, model, reference, metric=sort_by, resamples=resamples, seed=seed)
        rows.append(
            {
                "difference": found.difference,
                "lower": found.lower,
                "upper": found.upper,
                "relative": found.relative,
                "reference": reference,
            }
        )
    kinds = {k: pl.Float64 for k in ("difference", "lower", "upper", "relative")}
    compared = pl.DataFrame(rows, schema={**kinds, "reference": pl.String})
    ranks = pl.Series("rank", np.arange(1, len(board) + 1), dtype=pl.Int64)
    return pl.concat([pl.DataFrame([ranks]), board, compared], how="horizontal")


def over_seeds(
    table: pl.DataFrame,
    *,
    by: Sequence[str] = (),
    metrics: Sequence[str] = DEFAULT_COLUMNS,
) -> pl.DataFrame:
    """Mean and standard deviation over seeds of each model's scores.

    Args:
        table: of :func:`foretell.evaluation.evaluate`, with a column ``seed`` where a model was
            trained several times (``pl.concat`` of tables with that column added).
        by: further columns to split by.
        metrics: scores.

    Returns:
        ``model``, ``by``, ``seeds`` (their number), each metric (the mean) and ``<metric>_sd``
        (with one less than the number of seeds; null for a single one).
    """
    has_seed = "seed" in table.columns
    keys = ["model", *by]
    summary = summarise(table, by=[*by, "seed"] if has_seed else by, metrics=metrics)
    return (
        summary.group_by(keys, maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("seeds"),
            *[pl.col(m).mean() for m in metrics],
            *[pl.col(m).std().alias(f"{m}_sd") for m in metrics],
        )
        .sort(keys)
    )


def diebold_mariano(first: NDArray, second: NDArray, *, horizon: int = 1) -> DieboldMariano:
    """Test of equal accuracy of two loss series, Diebold and Mariano 1995.

    With the small-sample correction of Harvey, Leybourne and Newbold 1997 (equations 9 and 10) and
    Student's t with T - 1 degrees. Autocovariances up to ``horizon - 1`` are summed; if that is not
    positive, Bartlett weights are used instead.

    Args:
        first: (T,) losses of one model, in order of time.
        second: (T,) losses of the other.
        horizon: periods ahead of the forecasts: their errors overlap by one less.
    """
    gap = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    gap = gap[~np.isnan(gap)]
    size = len(gap)
    if size < 3 or not 1 <= horizon < size:
        raise ParameterError(
            f"the test needs at least 3 dates and a horizon below their number, not {size} dates "
            f"and horizon {horizon}"
        )
    mean = gap.mean()
    centred = gap - mean
    lags = np.arange(1, horizon)
    covariances = np.array([centred[k:] @ centred[:-k] for k in lags]) / size
    variance = centred @ centred / size + 2 * covariances.sum()
    if variance <= 0:
        variance = centred @ centred / size + 2 * ((1 - lags / horizon) * covariances).sum()
    if variance <= 0:
        return DieboldMariano(
            0.0 if mean == 0 else float(np.sign(mean) * np.inf), float(mean == 0), mean
        )
    correction = (size + 1 - 2 * horizon + horizon * (horizon - 1) / size) / size
    statistic = mean / np.sqrt(variance / size) * np.sqrt(max(correction, 0.0))
    return DieboldMariano(
        float(statistic), float(2 * stats.t.sf(abs(statistic), size - 1)), float(mean)
    )


def losses_by_date(forecast: Forecast, panel: Panel) -> pl.DataFrame:
    """Sum over series of the mean quantile loss of each target date: ``ds, loss, n``.

    Two models' tables, joined on ``ds``, give :func:`diebold_mariano` its loss series.
    """
    y = panel.outcomes(list(forecast.ids), forecast.cutoffs, forecast.horizon)
    loss = pinball(y, forecast.values, forecast.levels).mean(axis=-1)
    seen = ~np.isnan(y)
    periods = forecast.cutoffs[:, None] + np.arange(1, forecast.horizon + 1)
    dates, where = np.unique(periods[seen], return_inverse=True)
    return pl.DataFrame(
        {
            "ds": forecast.frequency.time(dates),
            "loss": np.bincount(where, loss[seen], len(dates)),
            "n": np.bincount(where, minlength=len(dates)),
        }
    )


def _per_series(table: pl.DataFrame, model: str) -> tuple[list[str], list[str], list[NDArray]]:
    """Names, columns, and for each seed the sums (N, C) of each series, sorted by name."""
    if "unique_id" not in table.columns:
        raise ParameterError("the table has no unique_id: evaluate with keep_series=True")
    part = table.filter(pl.col("model") == model)
    if part.is_empty():
        names = sorted(table["model"].unique().to_list())
        raise ParameterError(f"model {model!r} is not in the table, which holds {names}")
    columns = [c for c in scores.columns(scores.levels_of(table.columns)) if c in table.columns]
    keys = ["seed", "unique_id"] if "seed" in table.columns else ["unique_id"]
    grouped = part.group_by(keys).agg(pl.col(columns).sum()).sort(keys)
    runs = grouped.partition_by("seed") if "seed" in table.columns else [grouped]
    ids = runs[0]["unique_id"].to_list()
    for run in runs[1:]:
        if run["unique_id"].to_list() != ids:
            raise ParameterError(f"seeds of {model!r} were scored on different series")
    return ids, columns, [run.select(columns).to_numpy().astype(np.float64) for run in runs]


def _require_same_cells(
    model: str,
    ids: list[str],
    first: list[NDArray],
    reference: str,
    other_ids: list[str],
    second: list[NDArray],
    columns: list[str],
) -> None:
    wrong = sorted(set(ids) ^ set(other_ids))
    if not wrong:
        same = np.ones(len(ids), bool)
        for name in ("n", "abs_y"):
            i = columns.index(name)
            for run in [*first, *second]:
                same &= np.isclose(run[:, i], first[0][:, i], rtol=1e-9)
        wrong = [name for name, equal in zip(ids, same, strict=True) if not equal]
    if wrong:
        shown = ", ".join(wrong[:10]) + (", ..." if len(wrong) > 10 else "")
        raise ParameterError(
            f"{model!r} and {reference!r} were not scored on the same outcomes; {len(wrong)} "
            f"series differ: {shown}"
        )
