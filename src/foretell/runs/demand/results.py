"""The backtests of a run, and the tables that keep them in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretell.data.panel import Panel
from foretell.errors import ArtefactError
from foretell.estimators import combine
from foretell.evaluation import Backtest
from foretell.learners.demand import Forecast, Span
from foretell.runs.demand.jobs import make_fit
from foretell.runs.demand.recipe import Recipe
from foretell.runs.folder import write_table

FORECASTS, SPANS = "backtest.parquet", "backtest_spans.parquet"
_KEYS = ("protocol", "model", "seed")


@dataclass(frozen=True, eq=False)
class Results:
    """Backtests by protocol, model and seed, in the order of the recipe."""

    backtests: Mapping[str, Mapping[str, Mapping[int, Backtest]]]

    def __iter__(self) -> Iterator[tuple[str, str, int, Backtest]]:
        for protocol, models in self.backtests.items():
            for model, seeds in models.items():
                for seed, backtest in seeds.items():
                    yield protocol, model, seed, backtest

    @property
    def protocols(self) -> list[str]:
        """Names of the protocols; the first is the one that reports lead with."""
        return list(self.backtests)

    def first_seeds(self, protocol: str) -> dict[str, Backtest]:
        """Each model's backtest with its first seed."""
        return {m: next(iter(seeds.values())) for m, seeds in self.backtests[protocol].items()}

    def of(self, protocol: str, model: str) -> list[Backtest]:
        """A model's backtests, one a seed."""
        return list(self.backtests[protocol][model].values())


def with_ensembles(
    recipe: Recipe, backtests: Mapping[str, Mapping[str, Mapping[int, Backtest]]]
) -> Results:
    """Adds the recipe's ensembles, whose forecast at a seed joins their members' at that seed.

    No member is trained again; one without seeds serves every seed.
    """
    complete: dict[str, dict[str, Mapping[int, Backtest]]] = {}
    for protocol, models in backtests.items():
        complete[protocol] = {}
        for name, section in recipe.models.items():
            if not section.is_ensemble:
                complete[protocol][name] = models[name]
                continue
            members = [models[m] for m in section.parameters["members"]]
            method = section.parameters.get("method", "median")
            most = max(len(m) for m in members)
            seeds = sorted(set().union(*(m for m in members if len(m) == most)))
            complete[protocol][name] = {
                seed: _joined([m.get(seed, next(iter(m.values()))) for m in members], method, name)
                for seed in seeds
            }
    return Results(complete)


def _joined(parts: list[Backtest], method: Any, name: str) -> Backtest:
    forecast = combine([p.forecast for p in parts], method, model=name)
    fits = tuple(fit for part in parts for fit in part.fits)
    return replace(parts[0], forecast=forecast, fits=fits, model=None)


def write_results(folder: Path, results: Results) -> list[dict[str, Any]]:
    """Writes all forecasts with their outcomes, and returns what else it takes to read them.

    ``backtest.parquet``: ``unique_id, cutoff, ds, horizon``, the levels, ``y``, ``model, protocol,
    seed``. ``backtest_spans.parquet``, where a model forecasts sums of periods: ``unique_id,
    cutoff, lead, cover``, the levels and the same keys.
    """
    forecasts, spans, records = [], [], []
    for protocol, model, seed, result in results:
        keys = [
            pl.lit(value).alias(name)
            for name, value in zip(_KEYS, (protocol, model, seed), strict=True)
        ]
        truth = pl.Series("y", result.truth.ravel()).fill_nan(None)
        forecasts.append(result.forecast.to_polars().with_columns(truth, *keys))
        spans += [
            _span_table(result.forecast, s).with_columns(*keys) for s in result.forecast.spans
        ]
        fits = [
            {
                "fit_back": fit.fit_back,
                "fit_seconds": fit.fit_seconds,
                "predict_seconds": fit.predict_seconds,
                "fitted_series": fit.fitted_series,
                "skipped": fit.skipped,
            }
            for fit in result.fits
        ]
        records.append(
            dict(zip(_KEYS, (protocol, model, seed), strict=True))
            | {"skipped": result.skipped, "fits": fits}
        )
    write_table(pl.concat(forecasts), folder / FORECASTS)
    if spans:
        write_table(pl.concat(spans), folder / SPANS)
    return records


def read_results(folder: Path, records: list[dict[str, Any]], panel: Panel) -> Results:
    """What :func:`write_results` wrote, against the same panel.

    Raises:
        ArtefactError: a file is missing or damaged, or does not belong to the record or the panel.
    """
    try:
        forecasts = pl.read_parquet(folder / FORECASTS)
        spans = pl.read_parquet(folder / SPANS) if (folder / SPANS).is_file() else None
        backtests: dict[str, dict[str, dict[int, Backtest]]] = {}
        for record in records:
            protocol, model, seed = (record[name] for name in _KEYS)
            chosen = pl.all_horizontal(pl.col(name) == record[name] for name in _KEYS)
            own = None if spans is None else spans.filter(chosen)
            forecast = _forecast(forecasts.filter(chosen), own, panel, model)
            rows = np.array([panel.positions[i] for i in forecast.ids], np.int64)
            backtests.setdefault(protocol, {}).setdefault(model, {})[seed] = Backtest(
                forecast,
                panel.outcomes(list(forecast.ids), forecast.cutoffs, forecast.horizon),
                panel.ends[rows] - forecast.cutoffs,
                tuple(make_fit(forecast, **fit) for fit in record["fits"]),
                None,
                record["skipped"],
            )
    except (OSError, pl.exceptions.PolarsError, KeyError, ValueError, TypeError) as error:
        raise ArtefactError(f"the backtests in {folder} cannot be read: {error}") from error
    return Results(backtests)


def _span_table(forecast: Forecast, span: Span) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "unique_id": pl.Series(forecast.ids.astype(str), dtype=pl.String),
            "cutoff": forecast.frequency.time(forecast.cutoffs),
            "lead": np.full(len(forecast), span.lead, np.int32),
            "cover": np.full(len(forecast), span.cover, np.int32),
            **{f"q{q:g}": forecast.spans[span][:, j] for j, q in enumerate(forecast.levels)},
        }
    )


def _forecast(
    table: pl.DataFrame, spans: pl.DataFrame | None, panel: Panel, model: str
) -> Forecast:
    names = [c for c in table.columns if c.startswith("q") and c[1:2].isdigit()]
    horizon = int(table["horizon"].max())  # type: ignore[arg-type]
    first = table.filter(pl.col("horizon") == 1)
    by_span: dict[Span, np.ndarray] = {}
    if spans is not None:
        for (lead, cover), part in spans.group_by("lead", "cover", maintain_order=True):
            by_span[Span(int(str(lead)), int(str(cover)))] = part.select(names).to_numpy()
    return Forecast(
        np.array(first["unique_id"].to_list(), object),
        panel.frequency.index(first["cutoff"].to_numpy()),
        panel.frequency,
        np.array([float(name[1:]) for name in names]),
        table.select(names).to_numpy().reshape(len(first), horizon, len(names)),
        by_span,
        model=model,
    )
