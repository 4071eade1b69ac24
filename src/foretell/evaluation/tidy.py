"""One tidy table of sums from which every score of every part of a test set can be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.errors import ParameterError
from foretell.evaluation import scores
from foretell.evaluation.backtest import Backtest
from foretell.evaluation.history import history_at, rows_of
from foretell.evaluation.metrics import interval_score, pinball, smape_terms
from foretell.evaluation.segments import DEFAULT_SEGMENTS, Cells, label
from foretell.learners.demand.forecast import Forecast

Forecasts = Forecast | Backtest | Sequence[Forecast | Backtest] | Mapping[str, Forecast | Backtest]
_CELLS_AT_ONCE = 200_000


def evaluate(
    forecasts: Forecasts,
    panel: Panel,
    *,
    by: Sequence[str] = DEFAULT_SEGMENTS,
    season_length: int | None = None,
    levels: Sequence[float] | None = None,
    post_event: int = 2,
    keep_series: bool = True,
) -> pl.DataFrame:
    """Scores forecasts against the panel and returns sums, not means.

    Args:
        forecasts: one, several, or several by name (the name is the model's in the table).
        panel: the series with their outcomes, and their history before the origins.
        by: segments, see :func:`foretell.evaluation.segments.label`.
        season_length: lag of the in-sample scale (MASE, SQL, MSIS); the frequency's season when
            ``None``.
        levels: quantile levels to score; those of the forecasts when ``None``.
        post_event: number of periods after an event that count as ``post_event``.
        keep_series: one row a series, which bootstrap intervals need.

    Returns:
        Columns ``model``, ``unique_id`` (with ``keep_series``), the segments, and the sums listed
        in :mod:`foretell.evaluation.scores`. Only observed cells count; groups without any have no
        row. Sums of rows are the sums of the joined group: :func:`summarise` turns them into
        scores.

    Raises:
        ParameterError: a series is not in the panel, the grids differ, a segment is not known, a
            forecast of an observed outcome is not finite, or the models' levels differ.
    """
    named = _named(forecasts)
    tables = []
    grid: NDArray | None = None
    for name, forecast in named.items():
        if levels is not None:
            forecast = forecast.at_levels(levels)
        if grid is not None and not np.array_equal(grid, forecast.levels):
            raise ParameterError(
                f"{name} has levels {forecast.levels.tolist()}, the others {grid.tolist()}: pass "
                "levels= to score all on one grid"
            )
        grid = forecast.levels
        season = season_length or forecast.frequency.season
        tables.append(_sums(name, forecast, panel, by, season, post_event, keep_series))
    return pl.concat(tables, how="vertical")


def evaluate_spans(
    forecasts: Forecasts,
    panel: Panel,
    *,
    by: Sequence[str] = ("velocity", "history"),
    season_length: int | None = None,
    levels: Sequence[float] | None = None,
) -> pl.DataFrame:
    """Scores span quantiles against sums of outcomes; a table like :func:`evaluate`'s.

    A column ``span`` holds ``lead+cover`` (``"0+3"``: the sum of the next three periods); the scale
    is that of single periods. Spans with an unobserved period are left out.
    """
    tables = []
    for name, forecast in _named(forecasts).items():
        season = season_length or forecast.frequency.season
        for span in sorted(forecast.spans):
            part = replace(
                forecast, values=forecast.spans[span][:, None], spans={}, components=None
            )
            if levels is not None:
                part = part.at_levels(levels)
            y = panel.outcomes(list(forecast.ids), forecast.cutoffs, span.horizon)[:, span.lead :]
            total = y.astype(np.float64).sum(axis=1, keepdims=True)
            table = _sums(name, part, panel, by, season, 0, True, total)
            where = pl.lit(f"{span.lead}+{span.cover}").alias("span")
            tables.append(table.select("model", where, pl.exclude("model")))
    if not tables:
        raise ParameterError("no forecast holds a span: ask the model for span targets")
    return pl.concat(tables, how="vertical")


def summarise(
    table: pl.DataFrame,
    *,
    by: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
    details: bool = False,
) -> pl.DataFrame:
    """Scores of each model, and of each segment in ``by``, from a table of :func:`evaluate`.

    Args:
        table: sums.
        by: columns of the table to split by, besides ``model``.
        metrics: names known to :func:`foretell.evaluation.scores.score`; the usual ones when
            ``None``.
        details: also WQL and coverage of each level and coverage, width and MSIS of each interval.

    Returns:
        ``model``, the columns ``by``, ``n`` (observed cells) and one column a score; NaN where a
        denominator is zero.
    """
    keys = ["model", *[b for b in by if b != "model"]]
    absent = [key for key in keys if key not in table.columns]
    if absent:
        raise ParameterError(f"the table has no column {absent}; it has {table.columns}")
    levels = scores.levels_of(table.columns)
    names = list(metrics if metrics is not None else scores.DEFAULT_SCORES)
    if details:
        names += detail_names(levels)
    held = [c for c in scores.columns(levels) if c in table.columns]
    grouped = table.group_by(keys).agg(pl.col(held).sum()).sort(keys)
    sums = {c: grouped[c].to_numpy().astype(np.float64) for c in held}
    columns = {name: scores.score(name, sums) for name in names}
    return grouped.select(*keys, "n").with_columns(pl.Series(k, v) for k, v in columns.items())


def detail_names(levels: Sequence[float]) -> list[str]:
    """Scores of single levels and central intervals."""
    spans = [name for name, _, _ in scores.intervals(levels)]
    return [
        *[f"{kind}_{scores.level_name(a)}" for kind in ("wql", "coverage") for a in levels],
        *[
            f"{kind}_{name}"
            for kind in ("interval_coverage", "interval_width", "msis")
            for name in spans
        ],
    ]


def _named(forecasts: Forecasts) -> dict[str, Forecast]:
    if isinstance(forecasts, Mapping):
        pairs = list(forecasts.items())
    else:
        parts = [forecasts] if isinstance(forecasts, Forecast | Backtest) else list(forecasts)
        pairs = [(_forecast(p).model, p) for p in parts]
    names = [name for name, _ in pairs]
    if not names:
        raise ParameterError("there is no forecast to evaluate")
    if len(set(names)) < len(names):
        raise ParameterError(f"two forecasts have the same model name: {names}; pass them by name")
    return {name: _forecast(part) for name, part in pairs}


def _forecast(part: Forecast | Backtest) -> Forecast:
    return part.forecast if isinstance(part, Backtest) else part


def _sums(
    name: str,
    forecast: Forecast,
    panel: Panel,
    by: Sequence[str],
    season: int,
    post_event: int,
    keep_series: bool,
    outcomes: NDArray | None = None,
) -> pl.DataFrame:
    if forecast.frequency != panel.frequency:
        raise ParameterError(
            f"{name} forecasts on the grid {forecast.frequency.alias!r}, the panel has "
            f"{panel.frequency.alias!r}"
        )
    if len(set(by)) < len(by):
        raise ParameterError(f"a segment is named twice: {list(by)}")
    rows = rows_of(panel, forecast.ids)
    _refuse_repeated(name, forecast, rows)
    history = history_at(panel, rows, forecast.cutoffs, season)
    cells = Cells(forecast, panel, rows, history, post_event)
    shape = forecast.values.shape[:2]
    columns = scores.columns(forecast.levels)
    labels = {segment: label(cells, segment) for segment in by}
    parts: dict[str, NDArray] = {}
    if keep_series:
        parts["unique_id"] = rows[:, None]
    parts |= {segment: found.codes for segment, found in labels.items()}
    code = np.zeros(shape, np.int64)
    sizes = [int(codes.max(initial=0)) + 1 for codes in parts.values()]
    for codes, size in zip(parts.values(), sizes, strict=True):
        code = code * size + codes
    groups, where = np.unique(code, return_inverse=True)
    where = where.reshape(shape)
    totals = np.zeros((len(columns), len(groups)))
    step = max(1, _CELLS_AT_ONCE // max(1, shape[1]))
    for begin in range(0, shape[0], step):
        part = slice(begin, begin + step)
        y = (
            panel.outcomes(list(forecast.ids[part]), forecast.cutoffs[part], shape[1])
            if outcomes is None
            else outcomes[part]
        )
        seen = ~np.isnan(y)
        measures = _measures(name, forecast, part, y, seen, history.scale[part])
        for i, column in enumerate(columns):
            totals[i] += np.bincount(where[part][seen], measures[column], len(groups))
    used = totals[0] > 0
    if not used.any():
        raise ParameterError(
            f"{name}: the panel holds no observed outcome after any of the forecast's cutoffs; "
            "pass the whole panel, not the part that was fitted on"
        )
    keys: dict[str, NDArray] = {}
    rest = groups[used]
    for key, size in reversed(list(zip(parts, sizes, strict=True))):
        rest, keys[key] = np.divmod(rest, size)
    frame: dict[str, pl.Series] = {"model": pl.Series([name] * int(used.sum()), dtype=pl.String)}
    for key in parts:
        if key == "unique_id":
            frame[key] = pl.Series(panel.ids[keys[key]].astype(str), dtype=pl.String)
        else:
            frame[key] = pl.Series(labels[key].names)[keys[key]]
    for i, column in enumerate(columns):
        values = totals[i, used]
        whole = column in scores.COUNTS or column.startswith(("below_", "inside_"))
        frame[column] = pl.Series(np.rint(values).astype(np.int64) if whole else values)
    return pl.DataFrame(frame)


def _refuse_repeated(name: str, forecast: Forecast, rows: NDArray[np.int64]) -> None:
    """One series may come with several cutoffs, but with each only once."""
    order = np.lexsort((forecast.cutoffs, rows))
    same = (np.diff(rows[order]) == 0) & (np.diff(forecast.cutoffs[order]) == 0)
    if same.any():
        i = int(order[1:][same][0])
        raise ParameterError(
            f"{name} forecasts series {str(forecast.ids[i])!r} twice from one cutoff "
            f"({int(same.sum())} rows repeat): its outcomes would count twice"
        )


def _measures(
    name: str, forecast: Forecast, part: slice, y: NDArray, seen: NDArray, scale: NDArray
) -> dict[str, NDArray[np.float64]]:
    """What each observed cell (n,) adds to the sums."""
    levels = forecast.levels
    q = forecast.values[part][seen].astype(np.float64)
    if not np.isfinite(q).all():
        bad = int(np.argmax(~np.isfinite(q).all(axis=1)))
        row, step = (int(i) for i in np.argwhere(seen)[bad])
        raise ParameterError(
            f"{name} has a forecast that is not finite: series "
            f"{str(forecast.ids[part][row])!r}, horizon {step + 1}"
        )
    point = forecast.select(np.arange(len(forecast))[part]).median[seen].astype(np.float64)
    usable = np.isfinite(scale) & (scale > 0)
    inverse = np.where(usable, 1 / np.where(usable, scale, 1), 0)
    inverse = np.broadcast_to(inverse[:, None], seen.shape)[seen]
    y = y[seen].astype(np.float64)
    loss = pinball(y, q, levels)
    crossing = np.any(np.diff(q, axis=-1) < 0, axis=-1)
    error = np.abs(y - point)
    measures = {
        "n": np.ones_like(y),
        "n_scaled": (inverse > 0).astype(np.float64),
        "crossings": crossing.astype(np.float64),
        "abs_y": np.abs(y),
        "y": y,
        "abs_error": error,
        "error": point - y,
        "squared_error": error**2,
        "smape": smape_terms(y, point),
        "scaled_error": error * inverse,
        "scaled_loss": 2 * loss.mean(axis=-1) * inverse,
    }
    for j, level in enumerate(levels):
        measures[f"pinball_{scores.level_name(level)}"] = loss[:, j]
        measures[f"below_{scores.level_name(level)}"] = (y <= q[:, j]).astype(np.float64)
    for text, low, high in scores.intervals(levels):
        lower, upper = q[:, low], q[:, high]
        miss = interval_score(y, lower, upper, 2 * float(levels[low]))
        measures[f"inside_{text}"] = ((lower <= y) & (y <= upper)).astype(np.float64)
        measures[f"width_{text}"] = upper - lower
        measures[f"interval_score_{text}"] = miss
        measures[f"scaled_interval_{text}"] = miss * inverse
    return measures
