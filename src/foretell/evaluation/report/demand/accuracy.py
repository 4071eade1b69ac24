"""How good the forecasts are: leaderboards, calibration, and errors by segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from foretell.evaluation import scores
from foretell.evaluation.compare import Difference, difference, leaderboard
from foretell.evaluation.reliability import reliability
from foretell.evaluation.report.demand import figures
from foretell.evaluation.report.demand.inputs import ReportInput
from foretell.evaluation.report.style import to_json
from foretell.evaluation.report.words import count, fixed, listing, number, percent, seconds
from foretell.evaluation.tidy import summarise

RESAMPLES = 500
_SEGMENTS = {
    "velocity": ("How fast a series sells", "tenths of the series, 1 slowest to 10 fastest", True),
    "horizon_bucket": ("How far ahead", "periods ahead", True),
    "horizon": ("How far ahead", "periods ahead", True),
    "event": ("Events and the time after them", "", False),
    "history": ("How long a series has been seen", "", False),
    "event_name": ("Each event", "", False),
    "cutoff": ("Each origin", "forecast made after", True),
}
_ORDER = {
    "event": ("none", "event", "post_event"),
    "history": ("new", "short", "established"),
}
_LABELS = {"none": "ordinary", "post_event": "after an event", None: "not known"}
_WHERE = {
    "velocity": "velocity tenth {}",
    "horizon_bucket": "{} periods ahead",
    "horizon": "{} periods ahead",
}
_MOST_LABELS = 30


def compare(data: ReportInput, protocol: str) -> Difference | None:
    """Best model against the baseline, or ``None`` where it stands alone."""
    if data.reference is None or "unique_id" not in data.tables[protocol].columns:
        return None
    return difference(data.tables[protocol], data.best, data.reference, resamples=RESAMPLES, seed=0)


def boards(data: ReportInput) -> list[dict[str, Any]]:
    """One leaderboard a protocol."""
    result = []
    for protocol, table in data.tables.items():
        models = table["model"].unique().to_list()
        reference = data.baseline if data.baseline in models else None
        board = leaderboard(table, baseline=reference, resamples=RESAMPLES)
        reference = reference or board["model"][0]
        several = "wql_sd" in board.columns
        rows = []
        for row in board.iter_rows(named=True):
            test = data.backtests[protocol].get(row["model"])
            rows.append(
                {
                    "rank": row["rank"],
                    "model": row["model"],
                    "best": row["model"] == data.best,
                    "reference": row["model"] == reference,
                    "seeds": row["seeds"],
                    "wql": fixed(row["wql"]),
                    "wql_sd": fixed(row["wql_sd"]) if several else "",
                    "mase": fixed(row["mase"], 3),
                    "mase_sd": fixed(row["mase_sd"], 3) if several else "",
                    "wape": fixed(row["wape"]),
                    "wape_sd": fixed(row["wape_sd"]) if several else "",
                    "calibration": fixed(row["calibration_error"], 3),
                    "fit": seconds(None if test is None else test.fit_seconds),
                    "predict": seconds(None if test is None else test.predict_seconds),
                    **_difference(row),
                }
            )
        result.append(
            {
                "protocol": protocol,
                "sentence": _board_sentence(data, protocol, board, reference),
                "design": _design(data, protocol),
                "reference": reference,
                "several": several,
                "seeds": bool((board["seeds"] > 1).any()),
                "rows": rows,
            }
        )
    return result


def _difference(row: Mapping[str, Any]) -> dict[str, str]:
    if row["difference"] is None:
        return {"difference": "", "interval": "", "relative": "", "verdict": "reference"}
    surely = row["lower"] > 0 or row["upper"] < 0
    better = row["difference"] < 0
    return {
        "difference": fixed(row["difference"], 4, sign=True),
        "interval": f"{fixed(row['lower'], 4, sign=True)} to {fixed(row['upper'], 4, sign=True)}",
        "relative": percent(row["relative"], 1),
        "verdict": ("better" if better else "worse") if surely else "not clearly different",
    }


def _board_sentence(data: ReportInput, protocol: str, board: pl.DataFrame, reference: str) -> str:
    first = board["model"][0]
    if len(board) == 1:
        return f"{first} was the only model; its WQL is {fixed(board['wql'][0])}."
    worse = board["wql"][1] / board["wql"][0] - 1
    text = (
        f"{first} has the lowest quantile loss of {count(len(board), 'model')}; the next, "
        f"{board['model'][1]}, loses {percent(worse, 1)} more."
    )
    clear = board.filter(pl.col("upper") < 0)["model"].to_list()
    if reference != first:
        text += (
            f" Clearly better than {reference}, beyond what the choice of series explains: "
            f"{listing(clear)}."
            if clear
            else f" No model is clearly better than {reference}."
        )
    return text


def _design(data: ReportInput, protocol: str) -> str:
    tests = data.backtests[protocol]
    test = tests.get(data.best) or next(iter(tests.values()))
    origins = len(np.unique(test.back))
    cells = int(np.isfinite(test.truth).sum())
    lasts = len({str(i) for i in test.forecast.ids})
    return (
        f"{count(lasts, 'series', 'series')}, {count(origins, 'forecast date')}, "
        f"{count(test.forecast.horizon, 'period')} ahead, {cells:,} outcomes; "
        f"{count(len(test.fits), 'training')} for {data.best}."
    )


def calibration(
    data: ReportInput, styles: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Reliability of every model and protocol: what the page says, and its figures by name."""
    parts, drawn = [], {}
    for i, (protocol, table) in enumerate(data.tables.items()):
        if "unique_id" not in table.columns:
            continue
        found = reliability(table, resamples=RESAMPLES)
        models = [m for m in data.models if m in set(found["model"])]
        name = f"reliability-{i}"
        drawn[name] = to_json(figures.reliability_figure(found, models, styles))
        levels = scores.levels_of(table.columns)
        rows = [
            {
                "model": model,
                "cells": [
                    {"text": percent(c, 1), "off": abs(c - a) > 0.06}
                    for a, c in found.filter(pl.col("model") == model)
                    .sort("level")
                    .select("level", "coverage")
                    .iter_rows()
                ],
            }
            for model in models
        ]
        parts.append(
            {
                "protocol": protocol,
                "figure": name,
                "levels": [percent(a, 1).replace(".0%", "%") for a in levels],
                "rows": rows,
                "sentence": _calibration_sentence(data.best, found),
                "label": f"Coverage error by quantile level and model, protocol {protocol}",
            }
        )
    return parts, drawn


def _calibration_sentence(best: str, found: pl.DataFrame) -> str:
    part = found.filter(pl.col("model") == best)
    if part.is_empty():
        return ""
    gap = (part["coverage"] - part["level"]).to_numpy()
    i = int(np.abs(gap).argmax())
    level, seen = part["level"][i], part["coverage"][i]
    verdict = _verdict(float(np.abs(gap).max()))
    return (
        f"{best} is {verdict}: at its worst level, {percent(level)}, {percent(seen, 1)} of "
        "outcomes lay at or below the forecast."
    )


def _verdict(worst: float) -> str:
    if worst <= 0.03:
        return "well calibrated"
    return "fairly calibrated" if worst <= 0.06 else "not well calibrated"


def interval_coverage(data: ReportInput) -> tuple[str, float] | None:
    """The central interval nearest to 80 % and the best model's coverage of it."""
    table = data.tables[data.protocol].filter(pl.col("model") == data.best)
    spans = [name for name, _, _ in scores.intervals(scores.levels_of(table.columns))]
    if not spans:
        return None
    name = min(spans, key=lambda s: abs(float(s) - 80))
    column = f"interval_coverage_{name}"
    return name, float(summarise(table, metrics=[column])[column][0])


def calibration_gap(data: ReportInput) -> float:
    """Largest distance of the best model's coverage from its level."""
    table = data.tables[data.protocol].filter(pl.col("model") == data.best)
    levels = scores.levels_of(table.columns)
    names = [f"coverage_{scores.level_name(a)}" for a in levels]
    row = summarise(table, metrics=names)
    return float(max(abs(row[n][0] - a) for n, a in zip(names, levels, strict=True)))


def calibration_words(data: ReportInput) -> str:
    """``well calibrated``, ``fairly calibrated`` or ``not well calibrated``."""
    return _verdict(calibration_gap(data))


def segments(
    data: ReportInput, styles: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Error by segment of the leading protocol: what the page says, and its figures by name."""
    table = data.tables[data.protocol]
    sums = set(scores.columns(scores.levels_of(table.columns)))
    names = [c for c in table.columns if c not in sums | {"model", "unique_id", "seed"}]
    order = list(_SEGMENTS)
    names.sort(key=lambda c: order.index(c) if c in order else len(order))
    parts, drawn = [], {}
    for name in names:
        found = _segment(data, table, name)
        if found is None:
            continue
        labels, values, rows = found
        heading, axis, ordered = _SEGMENTS.get(
            name, (name.replace("_", " ").capitalize(), "", False)
        )
        figure = f"segment-{name}"
        drawn[figure] = to_json(
            figures.segment_figure(labels, values, styles, axis or heading.lower(), ordered)
        )
        parts.append(
            {
                "heading": heading,
                "figure": figure,
                "sentence": _segment_sentence(
                    data.best, [_WHERE.get(name, "“{}”").format(text) for text in labels], values
                ),
                "rows": rows,
                "models": list(values),
            }
        )
    return parts, drawn


def _segment(
    data: ReportInput, table: pl.DataFrame, name: str
) -> tuple[list[str], dict[str, list[float | None]], list[dict[str, Any]]] | None:
    summary = summarise(table, by=[name], metrics=["wql", "wape", "calibration_error"])
    keys = summary[name].unique().to_list()
    if len(keys) < 2 or len(keys) > _MOST_LABELS:
        return None
    if name in _ORDER:
        known = _ORDER[name]
        keys.sort(key=lambda k: (known.index(k) if k in known else len(known), str(k)))
    else:
        keys.sort(key=lambda k: (k is None, k if k is not None else 0))
    runs = table["seed"].n_unique() if "seed" in table.columns else 1
    models = [m for m in data.models if m in set(table["model"])]
    held = {(r["model"], r[name]): r for r in summary.iter_rows(named=True)}
    labels = [_label(name, k) for k in keys]
    values: dict[str, list[float | None]] = {
        m: [_finite(held.get((m, k), {}).get("wql")) for k in keys] for m in models
    }
    rows = [
        {
            "label": label,
            "n": f"{round(held.get((models[0], k), {}).get('n', 0) / max(1, runs)):,}",
            "wql": [fixed(values[m][i]) for m in models],
            "wape": fixed(held.get((models[0], k), {}).get("wape")),
            "calibration": fixed(held.get((models[0], k), {}).get("calibration_error"), 3),
        }
        for i, (k, label) in enumerate(zip(keys, labels, strict=True))
    ]
    return labels, values, rows


def _label(segment: str, key: Any) -> str:
    text = str(_LABELS.get(key, key))
    if segment == "horizon_bucket":
        return "–".join(part.lstrip("0") or "0" for part in text.split("-"))
    return text


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _segment_sentence(
    best: str, labels: Sequence[str], values: Mapping[str, Sequence[float | None]]
) -> str:
    own = [
        (v, label) for v, label in zip(values.get(best, ()), labels, strict=False) if v is not None
    ]
    if len(own) < 2:
        return ""
    (low, where_low), (high, where_high) = min(own), max(own)
    times = number(high / low, 2) if low > 0 else None
    more = f", {times} times the lowest" if times is not None else ""
    return (
        f"{best} errs least at {where_low} (WQL {fixed(low, 3)}) and most at {where_high} "
        f"({fixed(high, 3)}{more})."
    )
