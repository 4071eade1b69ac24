"""Everything the page says: sentences, table rows, figures and data, before any HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from foretell.evaluation.report.demand import accuracy, decisions, fans, figures
from foretell.evaluation.report.demand.inputs import ReportInput
from foretell.evaluation.report.demand.thumbnails import thumbnail
from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.style import model_styles, to_json
from foretell.evaluation.report.words import (
    MISSING,
    count,
    fixed,
    listing,
    percent,
    period_noun,
)
from foretell.evaluation.tidy import summarise

_MOST_EVENTS = 12


def build(data: ReportInput) -> dict[str, Any]:
    """The context of the page's template; ``figures`` and ``payload`` hold what scripts draw."""
    styles = model_styles(data.models, data.best, data.baseline)
    calibration, drawn = accuracy.calibration(data, styles)
    segments, more = accuracy.segments(data, styles)
    drawn |= more
    costs = decisions.cost_rows(data)
    cost, more = decisions.cost_section(data, costs, styles)
    drawn |= more
    orders, order_rows = decisions.orders_section(data)
    effects, more = effects_section(data)
    drawn |= more
    highlights, ids = fans.choose(data)
    fan = fans.fan_data(data, ids) if ids else None
    series = None if fan is None else _series_section(data, fan, highlights)
    return {
        "title": str(data.run.get("title") or "Demand forecasts"),
        "made": str(data.run.get("ended") or data.run.get("started") or ""),
        "best": data.best,
        "styles": styles,
        "headline": headline(data, costs),
        "boards": accuracy.boards(data),
        "calibration": calibration,
        "segments": segments,
        "series": series,
        "effects": effects,
        "orders": orders,
        "cost": cost,
        "data": data_section(data),
        "reproduce": reproduce_section(data.run),
        "figures": drawn,
        "payload": {
            "fans": fan,
            "orders": order_rows,
            "colours": {m: s["colour"] for m, s in styles.items()},
        },
    }


def headline(data: ReportInput, costs: list[dict[str, Any]]) -> dict[str, Any]:
    """The sentences and the few figures at the top."""
    test = data.backtests[data.protocol][data.best]
    horizon = test.forecast.horizon
    noun = period_noun(data.panel.frequency.alias)
    summary = summarise(
        data.tables[data.protocol].filter(pl.col("model") == data.best), metrics=["wql", "wape"]
    )
    wql, wape = float(summary["wql"][0]), float(summary["wape"][0])
    number_of = len({str(i) for i in test.forecast.ids})
    sentences = [
        f"{count(number_of, 'series', 'series')} were forecast {count(horizon, noun)} ahead by "
        f"{count(len(data.models), 'model')} and compared with what then happened."
    ]
    tiles = [
        {
            "name": f"Quantile loss of {data.best}",
            "value": fixed(wql, 4),
            "note": f"WQL, lower is better; its median misses {percent(wape)} of the volume",
        }
    ]
    compared = accuracy.compare(data, data.protocol)
    if compared is None:
        sentences.append(
            f"{data.best} misses {percent(wape)} of the volume with its median forecast; its "
            f"weighted quantile loss (WQL) is {fixed(wql, 4)}."
        )
    else:
        base = compared.difference and compared.difference / compared.relative
        low, high = _shares(compared.lower, compared.upper, base)
        less = "lower" if compared.difference < 0 else "higher"
        sentences.append(
            f"{data.best} is {_rank(data)}: its quantile loss is "
            f"{percent(abs(compared.relative), 1)} {less} than that of {compared.reference}"
            + (
                f" (95% interval {low} to {high})."
                if compared.significant
                else f", which is within the play of chance (95% interval of the change {low} to "
                f"{high})."
            )
        )
        tiles.append(
            {
                "name": f"Against {compared.reference}",
                "value": f"{'−' if compared.difference < 0 else '+'}"
                f"{percent(abs(compared.relative), 1)}",
                "note": f"quantile loss; 95% interval {low} to {high}",
            }
        )
    span = accuracy.interval_coverage(data)
    words = accuracy.calibration_words(data)
    if span is not None:
        sentences.append(
            f"Its intervals are {words}: the {float(span[0]):g}% interval held "
            f"{percent(span[1])} of the outcomes."
        )
        tiles.append(
            {
                "name": f"In the {float(span[0]):g}% interval",
                "value": percent(span[1], 1),
                "note": f"of outcomes; {words}",
            }
        )
    else:
        sentences.append(f"Its quantiles are {words}.")
    own = next((r for r in costs if r["model"] == data.best), costs[0] if costs else None)
    if own is not None:
        sentences.append(decisions.saving_sentence(own))
        ratio, lower, upper = own["cost_to_naive"]
        if np.isfinite(ratio):
            tiles.append(
                {
                    "name": "Cost of its orders",
                    "value": f"{'−' if ratio <= 1 else '+'}{percent(abs(1 - ratio))}",
                    "note": f"against ordering the usual mean; 95% interval "
                    f"{_signed(lower - 1)} to {_signed(upper - 1)}",
                }
            )
    return {"sentences": sentences, "tiles": tiles}


def _rank(data: ReportInput) -> str:
    if data.baseline == data.best:
        return "the baseline, and none did better"
    return "the better of the two" if len(data.models) == 2 else "the best of them"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{percent(value)}"


def _shares(lower: float, upper: float, base: float) -> tuple[str, str]:
    """An interval of a difference in per cent of the reference's score."""
    if not base:
        return MISSING, MISSING
    ends = [lower / base, upper / base]
    return tuple(  # type: ignore[return-value]
        f"{'+' if e > 0 else ''}{percent(e, 1)}" for e in ends
    )


def _series_section(
    data: ReportInput, fan: Mapping[str, Any], highlights: Iterable[fans.Highlight]
) -> dict[str, Any]:
    place = {name: i for i, name in enumerate(fan["ids"])}
    cards = [
        {
            "kind": h.kind,
            "id": h.unique_id,
            "index": place[h.unique_id],
            "why": h.why,
            "svg": thumbnail(
                fan["series"][place[h.unique_id]],
                fan["levels"],
                f"{h.kind} series {h.unique_id}: history, forecast and outcome",
            ),
        }
        for h in highlights
        if h.unique_id in place
    ]
    total = len({str(i) for i in data.backtests[data.protocol][data.best].forecast.ids})
    shown = len(fan["ids"])
    found = (
        "All series can be looked up."
        if shown == total
        else f"{shown:,} of {total:,} series can be looked up: the largest, and others spread over "
        "all sizes."
    )
    sentence = (
        f"Shading is the forecast of {data.best}; dots, in the small charts the orange line, are "
        f"what happened. {found}"
    )
    return {"cards": cards, "sentence": sentence, "shown": shown}


def effects_section(data: ReportInput) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Price elasticities and event effects: what the page says, and its figures."""
    drawn: dict[str, Any] = {}
    section: dict[str, Any] = {"elasticity": None, "events": None}
    table = data.effects.get("elasticity")
    if table is not None and not table.is_empty():
        known = table.filter(pl.col("elasticity").is_finite())
        if "identified" in table.columns:
            known = known.filter(pl.col("identified"))
        if not known.is_empty():
            values = known["elasticity"]
            centre = float(np.median(values.to_numpy()))
            drawn["elasticity"] = to_json(figures.elasticity_figure(values.to_list(), centre))
            ordered = known.sort("elasticity", "unique_id")
            has_interval = {"lower", "upper"} <= set(known.columns)
            section["elasticity"] = {
                "sentence": _elasticity_sentence(known, table, centre),
                "strongest": _elasticity_rows(ordered.head(8), has_interval),
                "weakest": _elasticity_rows(ordered.tail(8).reverse(), has_interval),
                "interval": has_interval,
            }
    table = data.effects.get("events")
    if table is not None and not table.is_empty():
        noun = period_noun(data.panel.frequency.alias)
        shared, rows = _event_tables(table, noun)
        if shared:
            drawn["events"] = to_json(figures.event_figure(shared, noun))
            section["events"] = {"sentence": _event_sentence(shared, noun), **rows}
    return (section if drawn else None), drawn


def _elasticity_sentence(known: pl.DataFrame, table: pl.DataFrame, centre: float) -> str:
    low, high = np.quantile(known["elasticity"].to_numpy(), [0.1, 0.9])
    change = 1 - 1.1**centre
    text = (
        f"A price 10% higher goes with {percent(change)} less demand for the middle series "
        f"(elasticity {fixed(centre, 2)}; the middle 80% of series lie between {fixed(low, 2)} and "
        f"{fixed(high, 2)})."
    )
    silent = len(table) - len(known)
    if silent:
        text += (
            f" Of {count(silent, 'series', 'series')} the price never moved: they take their "
            "group's elasticity and are not shown."
        )
    return text


def _elasticity_rows(table: pl.DataFrame, interval: bool) -> list[dict[str, str]]:
    return [
        {
            "id": row["unique_id"],
            "group": str(row.get("group") or ""),
            "value": fixed(row["elasticity"], 2),
            "interval": f"{fixed(row['lower'], 2)} to {fixed(row['upper'], 2)}" if interval else "",
        }
        for row in table.iter_rows(named=True)
    ]


def _event_tables(
    table: pl.DataFrame, noun: str
) -> tuple[dict[str, tuple[list[int], list[float]]], dict[str, Any]]:
    """Profiles of all series by event, and rows for the table, groups included."""
    has_group = "group" in table.columns
    groups = table["group"].unique(maintain_order=True).to_list() if has_group else [None]
    first = table.filter(pl.col("group") == groups[0]) if has_group else table
    if "offset" not in table.columns:
        first = first.with_columns(pl.lit(0).alias("offset"))
        table = table.with_columns(pl.lit(0).alias("offset"))
    shared: dict[str, tuple[list[int], list[float]]] = {}
    for name in first["event"].unique(maintain_order=True).to_list()[:_MOST_EVENTS]:
        part = first.filter(pl.col("event") == name).sort("offset")
        shared[name] = (part["offset"].to_list(), part["multiplier"].to_list())
    offsets = sorted(table["offset"].unique().to_list())
    held = {
        (r["event"], r.get("group"), r["offset"]): r["multiplier"]
        for r in table.iter_rows(named=True)
    }
    rows = [
        {
            "event": name,
            "group": "" if group is None else str(group),
            "cells": [_change(held.get((name, group, o))) for o in offsets],
        }
        for name in shared
        for group in groups[:40]
    ]
    titles = [figures.offset_name(o, noun) for o in offsets]
    return shared, {"rows": rows, "titles": titles, "groups": has_group}


def _change(multiplier: float | None) -> str:
    if multiplier is None or not np.isfinite(multiplier):
        return MISSING
    return f"{'+' if multiplier > 1 else ''}{percent(multiplier - 1)}"


def _event_sentence(shared: Mapping[str, tuple[list[int], list[float]]], noun: str) -> str:
    effects = [
        (abs(np.log(max(m, 1e-9))), name, offset, m)
        for name, (offsets, values) in shared.items()
        for offset, m in zip(offsets, values, strict=True)
    ]
    _, name, offset, multiplier = max(effects)
    return (
        f"The strongest effect is that of {name} ({figures.offset_name(offset, noun)}): demand "
        f"changes by {_change(multiplier)} against an ordinary {noun}."
    )


def data_section(data: ReportInput) -> dict[str, Any]:
    """What was read, and what was wrong with it."""
    about = data.run.get("data") or {}
    panel = data.panel
    lengths = panel.lengths
    facts = {
        "source": about.get("source"),
        "series": f"{len(panel):,}",
        "steps": f"{int(lengths.sum()):,}",
        "time grid": about.get("frequency") or panel.frequency.alias,
        "length of a series": _range(lengths),
        "known ahead": listing(list(panel.known)) or "nothing",
        "known up to the present": listing(list(panel.past)) or "nothing but the sales",
        "attributes": listing([*panel.static_categorical, *panel.static_real]) or "none",
    }
    missing = int(np.isnan(_values(data)).sum())
    if missing:
        facts["not observed"] = f"{missing:,} steps"
    if panel.censored is not None:
        facts["cut by a stock-out"] = f"{_censored(data):,} steps"
    return {
        **problems_section(about.get("notes") or panel.notes, first="series"),
        "facts": {k: str(v) for k, v in facts.items() if v is not None},
    }


def _values(data: ReportInput) -> np.ndarray:
    parts = [data.panel.series(i) for i in range(len(data.panel))]
    return np.concatenate(parts) if parts else np.zeros(0)


def _censored(data: ReportInput) -> int:
    panel = data.panel
    assert panel.censored is not None
    return sum(
        int(panel.censored[b : b + n].sum())
        for b, n in zip(panel.begins.tolist(), panel.lengths.tolist(), strict=True)
    )


def _range(lengths: np.ndarray) -> str:
    if len(lengths) == 0:
        return MISSING
    low, middle, high = (int(v) for v in (lengths.min(), np.median(lengths), lengths.max()))
    return f"{low:,} steps" if low == high else f"{low:,} to {high:,} steps, median {middle:,}"
