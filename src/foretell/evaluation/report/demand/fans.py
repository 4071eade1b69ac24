"""Which series the page can show, and their history, forecasts and outcomes as compact values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.evaluation import scores
from foretell.evaluation.report.demand.inputs import ReportInput
from foretell.learners.demand.forecast import Forecast

_OTHER_MODELS = 4  # medians drawn beside the best model's fan
_DIGITS = 4


@dataclass(frozen=True)
class Highlight:
    """A series worth a look, and why."""

    kind: str
    unique_id: str
    why: str


def choose(data: ReportInput) -> tuple[list[Highlight], list[str]]:
    """Series to point at, and all that can be searched: those first, then large ones and others.

    Beside the highlights the list holds the series that sold most and, for the other half, series
    from the largest to the smallest at even distances.
    """
    table = _of_best(data)
    ids = table["unique_id"].to_list()
    positions = data.panel.positions
    forecast = data.backtests[data.protocol][data.best].forecast
    held = {str(i) for i in forecast.ids}
    ids = [i for i in ids if i in positions and i in held]
    if not ids:
        return [], []
    table = table.filter(pl.col("unique_id").is_in(ids))
    highlights = _highlights(data, table)
    by_volume = table.sort("abs_y", "unique_id", descending=[True, False])["unique_id"].to_list()
    room = max(0, data.series - len(highlights))
    evenly = np.linspace(0, len(by_volume) - 1, room).astype(int).tolist()
    candidates = [
        *[h.unique_id for h in highlights],
        *by_volume[: room // 2],
        *[by_volume[i] for i in evenly],
        *by_volume,
    ]
    kept = list(dict.fromkeys(candidates))[: data.series]
    first = {h.unique_id for h in highlights}
    return highlights, [*dict.fromkeys(h.unique_id for h in highlights), *sorted(set(kept) - first)]


def fan_data(data: ReportInput, ids: list[str]) -> dict[str, Any]:
    """Everything that the search box can draw, as JSON values.

    Returns:
        ``dates``: labels of all periods; ``levels``: levels of the bands, ascending with the median
        in the middle; ``others``: names of models of which only medians are given; ``series``: for
        each id ``[first period, history, first forecast period, quantiles by level, outcomes,
        medians by other model, first future period, future quantiles by level, promoted periods,
        WQL]`` with null for what is not there.
    """
    tests = data.backtests[data.protocol]
    forecast = tests[data.best].forecast
    levels = band_levels(forecast.levels)
    others = [m for m in data.models if m != data.best and m in tests][:_OTHER_MODELS]
    latest = {m: _latest(tests[m].forecast, ids) for m in [data.best, *others]}
    future_rows = {} if data.future is None else _latest(data.future, ids)
    wql = dict(_of_best(data).select("unique_id", "wql").iter_rows())
    raw: list[list[Any]] = []
    periods: set[int] = set()
    for name in ids:
        i = latest[data.best][name]
        cutoff = int(forecast.cutoffs[i])
        entry = _one(data, name, cutoff)
        ahead = data.panel.outcomes([name], np.array([cutoff]), forecast.horizon)[0]
        bands = forecast.select(np.array([i])).quantile(levels)[0]
        medians = []
        for model in others:
            other = tests[model].forecast
            j = latest[model].get(name)
            same = j is not None and int(other.cutoffs[j]) == cutoff
            medians.append(
                rounded(other.select(np.array([j])).median[0]) if same and j is not None else None
            )
        begin, quantiles = None, None
        k = future_rows.get(name)
        if k is not None and data.future is not None:
            begin = int(data.future.cutoffs[k]) + 1
            future = data.future.select(np.array([k])).quantile(levels)[0]
            quantiles = [rounded(future[:, q]) for q in range(len(levels))]
            periods.update(range(begin, begin + data.future.horizon))
        start, history, promoted = entry
        periods.update(range(start, start + len(history)))
        periods.update(range(cutoff + 1, cutoff + 1 + forecast.horizon))
        raw.append(
            [
                start,
                rounded(history),
                cutoff + 1,
                [rounded(bands[:, q]) for q in range(len(levels))],
                rounded(ahead),
                medians,
                begin,
                quantiles,
                promoted,
                rounded([wql.get(name, np.nan)])[0],
            ]
        )
    ordered = np.array(sorted(periods), np.int64)
    place = {int(p): i for i, p in enumerate(ordered)}
    for row in raw:
        row[0], row[2] = place[row[0]] if row[1] else 0, place[row[2]]
        row[6] = None if row[6] is None else place[row[6]]
        row[8] = [place[p] for p in row[8] if p in place]
    return {
        "dates": period_labels(forecast, ordered),
        "levels": [float(a) for a in levels],
        "best": data.best,
        "others": others,
        "ids": ids,
        "series": raw,
    }


def band_levels(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median with the widest central interval that the levels hold and one inside it."""
    pairs = [(float(levels[a]), float(levels[b])) for _, a, b in scores.intervals(levels)]
    if not pairs:
        return np.array([0.5])
    inner = min(pairs[1:], key=lambda p: abs(p[1] - p[0] - 0.5), default=None)
    chosen = {*pairs[0], *(inner or ()), 0.5}
    return np.array(sorted(chosen))


def period_labels(forecast: Forecast, periods: NDArray[np.int64]) -> list[str]:
    """Dates of period numbers; with the time of day where they have one; numbers without dates."""
    times = np.asarray(forecast.frequency.time(periods))
    if not np.issubdtype(times.dtype, np.datetime64):
        return [str(t) for t in times.tolist()]
    days = times.astype("datetime64[D]")
    if np.all(days == times):
        return [str(d) for d in days]
    return [str(t).replace("T", " ") for t in times.astype("datetime64[m]")]


def rounded(values: Any) -> list[float | int | None]:
    """Values with four significant digits; null for what is not finite."""
    result: list[float | int | None] = []
    for value in np.asarray(values, np.float64).ravel().tolist():
        if not np.isfinite(value):
            result.append(None)
            continue
        short = float(f"{value:.{_DIGITS}g}")
        result.append(int(short) if short.is_integer() and abs(short) < 1e15 else short)
    return result


def _of_best(data: ReportInput) -> pl.DataFrame:
    """``unique_id, abs_y, n, wql`` of the best model."""
    table = data.tables[data.protocol].filter(pl.col("model") == data.best)
    columns = [f"pinball_{scores.level_name(a)}" for a in scores.levels_of(table.columns)]
    if "unique_id" not in table.columns:
        none = {"unique_id": pl.String, "abs_y": pl.Float64, "n": pl.Int64, "wql": pl.Float64}
        return pl.DataFrame(schema=none)
    runs = table["seed"].n_unique() if "seed" in table.columns else 1
    return (
        table.group_by("unique_id")
        .agg(pl.col("abs_y", "n", *columns).sum())
        .with_columns(
            (2 * pl.mean_horizontal(columns) / pl.col("abs_y")).alias("wql"),
            (pl.col("abs_y") / runs).alias("abs_y"),
        )
        .select("unique_id", "abs_y", "n", "wql")
        .sort("unique_id")
    )


def _highlights(data: ReportInput, table: pl.DataFrame) -> list[Highlight]:
    """Best, median and worst among series that sell; a new one; a promoted one."""
    selling = table.filter(pl.col("wql").is_finite() & (pl.col("abs_y") > 0))
    steady = selling.filter(pl.col("abs_y") >= selling["abs_y"].quantile(0.25))
    ranked = (steady if len(steady) >= 3 else selling).sort("wql", "unique_id")
    names, losses = ranked["unique_id"].to_list(), ranked["wql"].to_list()
    found: list[Highlight] = []
    if names:
        middle = len(names) // 2
        # Series of the slowest quarter are left out: their relative error is mostly luck.
        for kind, at, why in (
            ("best", 0, "lowest relative loss"),
            ("median", middle, "half of the series do better, half worse"),
            ("worst", len(names) - 1, "highest relative loss"),
        ):
            found.append(Highlight(kind, names[at], f"{why}: WQL {losses[at]:.3f}"))
    taken = {h.unique_id for h in found}
    rest = [n for n in selling.sort("wql", "unique_id")["unique_id"].to_list() if n not in taken]
    new = _new(data, rest)
    if new is not None:
        found.append(new)
        rest = [n for n in rest if n != new.unique_id]
    promoted = _promoted(data, rest)
    if promoted is not None:
        found.append(promoted)
    return found


def _new(data: ReportInput, names: list[str]) -> Highlight | None:
    """The median series, by loss, of those with less history than the horizon or a season."""
    forecast = data.backtests[data.protocol][data.best].forecast
    season = data.season_length or data.panel.frequency.season
    latest = _latest(forecast, names)
    known = {}
    for name in names:
        i = data.panel.positions[name]
        cutoff = int(forecast.cutoffs[latest[name]])
        steps = cutoff - int(data.panel.starts[i]) + 1
        known[name] = int(np.isfinite(data.panel.series(i)[: max(0, steps)]).sum())
    for limit in (forecast.horizon, max(2 * forecast.horizon, season)):
        young = [n for n in names if known[n] < limit]
        if young:
            chosen = young[len(young) // 2]
            return Highlight(
                "new", chosen, f"only {known[chosen]} periods seen before the forecast"
            )
    return None


def _promoted(data: ReportInput, names: list[str]) -> Highlight | None:
    """The series with most promoted periods in the forecast window, large ones first."""
    columns = data.promotion_columns
    if not columns or not names:
        return None
    forecast = data.backtests[data.protocol][data.best].forecast
    latest = _latest(forecast, names)
    rows = np.array([data.panel.positions[n] for n in names])
    cutoffs = np.array([forecast.cutoffs[latest[n]] for n in names])
    stops = cutoffs - data.panel.starts[rows] + 1 + forecast.horizon
    marked = np.zeros((len(names), forecast.horizon), bool)
    for column in columns:
        marked |= _on(data.panel, column, rows, stops, forecast.horizon)
    number = marked.sum(axis=1)
    if not number.any():
        return None
    y = data.panel.outcomes(names, cutoffs, forecast.horizon)
    volume = np.nansum(np.abs(y), axis=1)
    enough = np.flatnonzero(number >= max(1, np.quantile(number[number > 0], 0.75)))
    i = int(enough[np.argsort(-volume[enough], kind="stable")[0]])
    periods = "period" if number[i] == 1 else "periods"
    return Highlight(
        "promoted", names[i], f"{number[i]} {periods} with {', '.join(columns)} in the window"
    )


def _on(
    panel: Panel, column: str, rows: NDArray[np.int64], stops: NDArray[np.int64], length: int
) -> NDArray[np.bool_]:
    values = panel.known_windows(column, rows, stops, length)
    threshold = 0.5 if column in panel.events else 0.0
    return np.nan_to_num(values) > threshold


def _one(data: ReportInput, name: str, cutoff: int) -> tuple[int, NDArray, list[int]]:
    """First period and values of the history to draw, and the periods with a promotion."""
    panel = data.panel
    forecast = data.backtests[data.protocol][data.best].forecast
    i = panel.positions[name]
    season = data.season_length or panel.frequency.season
    wanted = int(np.clip(2 * season + forecast.horizon, 3 * forecast.horizon, 200))
    stop = cutoff - int(panel.starts[i]) + 1
    first = max(0, stop - wanted)
    history = panel.series(i)[first : max(first, stop)]
    ahead = forecast.horizon
    if data.future is not None:
        ahead = max(ahead, int(panel.lengths[i]) + data.future.horizon - stop)
    length = len(history) + ahead
    marked = np.zeros((1, length), bool)
    row, end = np.array([i]), np.array([stop + ahead])
    for column in data.promotion_columns:
        marked |= _on(panel, column, row, end, length)
    start = int(panel.starts[i]) + first
    return start, history, (start + np.flatnonzero(marked[0])).tolist()


def _latest(forecast: Forecast, ids: list[str]) -> dict[str, int]:
    """Row of each series' latest origin."""
    wanted = set(ids)
    rows: dict[str, int] = {}
    for i, name in enumerate(forecast.ids):
        name = str(name)
        if name in wanted and (
            name not in rows or forecast.cutoffs[i] > forecast.cutoffs[rows[name]]
        ):
            rows[name] = i
    return rows
