"""Everything the page of a grid of federated trainings says: sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import polars as pl

from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.style import layout, model_styles, plain, to_json
from foretell.evaluation.report.words import MISSING, count, fixed, percent

Record = Mapping[str, Any]
Row = Mapping[str, Any]
Rows = Sequence[Row]
FORMULATIONS = {
    "tc": "text classification",
    "st": "sequence tagging",
    "qa": "answers as spans",
    "ss": "text from text",
}


def write_fednlp_report(path: str | Path, record: Record, curves: pl.DataFrame) -> Path:
    """Writes the page in one step; missing folders are made.

    Args:
        path: the HTML file.
        record: ``run.json``.
        curves: ``task, setting, alpha, method, seed, round, score, bytes_down, bytes_up``.
    """
    context = build(record, curves)
    return write_page(path, render_page("fednlp.html.j2", context, context.pop("figures")))


def build(record: Record, curves: pl.DataFrame) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    tables = record["tables"]
    grid: Rows = tables["grid"]
    methods = list(dict.fromkeys(row["method"] for row in grid))
    best, baseline = str(record["best"]), record.get("baseline")
    styles = model_styles(methods, best, baseline)
    figures: dict[str, Any] = {}
    tasks = [_task(row, grid, curves, methods, styles, figures) for row in tables["tasks"]]
    return {
        "title": str(record.get("title") or "Language on data that stays with its clients"),
        "made": str(record.get("ended") or record.get("started") or ""),
        "styles": styles,
        "methods": methods,
        "headline": _headline(tables, methods, baseline),
        "tasks": tasks,
        "optimisers": _optimisers(tables.get("optimisers") or []),
        "freezing": [_frozen(row) for row in tables.get("freezing") or []],
        "data": {
            **problems_section(record.get("warnings") or (), first="client"),
            "facts": {
                row["task"]: f"{FORMULATIONS[row['formulation']]} on {row['source']}"
                for row in tables["tasks"]
            },
        },
        "reproduce": reproduce_section(record),
        "figures": figures,
    }


def _headline(tables: Record, methods: Sequence[str], baseline: Any) -> dict[str, Any]:
    grid: Rows = tables["grid"]
    tiles, sentences = [], []
    for task in tables["tasks"]:
        own = [row for row in grid if row["task"] == task["task"]]
        if not own:
            continue
        top = max(own, key=lambda row: row["score"])
        tiles.append(
            {
                "name": f"{task['task']}: {task['metric']}",
                "value": fixed(top["score"], 3),
                "note": f"{top['method']}, {top['setting']}; in one place "
                f"{fixed(task['central'], 3)}, {task['best_trivial']} "
                f"{fixed(task['best_trivial_score'], 3)}",
            }
        )
        worst = min(own, key=lambda row: row["score"])
        sentences.append(
            f"{FORMULATIONS[task['formulation']].capitalize()} on {task['source']}: federated "
            f"training reaches {fixed(worst['score'], 3)} to {fixed(top['score'], 3)} "
            f"({task['metric']}), training on all data in one place {fixed(task['central'], 3)}."
        )
    if baseline in methods:
        gains = []
        for method in methods:
            if method == baseline:
                continue
            pairs = [
                (row["score"], other["score"])
                for row in grid
                for other in grid
                if row["method"] == method
                and other["method"] == baseline
                and other["setting"] == row["setting"]
            ]
            if pairs:
                gain = sum(a - b for a, b in pairs) / len(pairs)
                gains.append(f"{method} {fixed(100 * gain, 1, sign=True)}")
        if gains:
            sentences.append(
                f"Against {baseline}, mean over the settings both ran in, in points: "
                + ", ".join(gains)
                + "."
            )
    return {"sentences": sentences, "tiles": tiles}


def _task(
    task: Row,
    grid: Rows,
    curves: pl.DataFrame,
    methods: Sequence[str],
    styles: Mapping[str, Mapping[str, Any]],
    figures: dict[str, Any],
) -> dict[str, Any]:
    own = [row for row in grid if row["task"] == task["task"]]
    settings = list(dict.fromkeys(row["setting"] for row in own))
    shown = [m for m in methods if any(row["method"] == m for row in own)]
    at = {(row["setting"], row["method"]): row for row in own}
    name = f"curve-{task['task']}"
    if settings:
        figures[name] = _curve(curves, settings[0], task["metric"], styles)
    return {
        "name": task["task"],
        "what": FORMULATIONS[task["formulation"]],
        "source": task["source"],
        "metric": task["metric"],
        "central": _with_spread(task["central"], task["central_spread"]),
        "trivial": [{"name": k, "score": fixed(v, 3)} for k, v in task["trivial"].items()],
        "seeds": count(task["seeds"], "seed"),
        "methods": shown,
        "rows": [
            {
                "setting": setting.removeprefix(f"{task['task']} "),
                "classes": MISSING if first["classes"] is None else f"{first['classes']:.1f}",
                "cells": [_cell(at.get((setting, m)), settings, at, m) for m in shown],
            }
            for setting in settings
            for first in [next(row for row in own if row["setting"] == setting)]
        ],
        "figure": name if settings else None,
        "drawn": settings[0] if settings else "",
        "details": [
            {
                "setting": row["setting"].removeprefix(f"{task['task']} "),
                "method": row["method"],
                "score": _with_spread(row["score"], row["spread"]),
                "gap": fixed(row["gap"], 3, sign=True),
                "mean": fixed(row["clients_mean"], 3),
                "low": fixed(row["clients_low"], 3),
                "worst": fixed(row["clients_worst"], 3),
                "megabytes": fixed(row["megabytes"], 1),
            }
            for row in own
        ],
    }


def _cell(row: Row | None, settings: Sequence[str], at: Any, method: str) -> dict[str, Any]:
    if row is None:
        return {"text": MISSING, "best": False}
    rivals = [r["score"] for (setting, _), r in at.items() if setting == row["setting"]]
    return {"text": fixed(row["score"], 3), "best": row["score"] == max(rivals)}


def _with_spread(value: float, spread: float | None) -> str:
    return fixed(value, 3) + ("" if spread is None else f" ± {fixed(spread, 3)}")


def _curve(
    curves: pl.DataFrame, setting: str, metric: str, styles: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Mean score over seeds by round, in one setting."""
    figure = go.Figure()
    table = curves.filter(pl.col("setting") == setting)
    for method, style in styles.items():
        own = table.filter(pl.col("method") == method).group_by("round").agg(pl.col("score").mean())
        if own.is_empty():
            continue
        own = own.sort("round")
        figure.add_scatter(
            x=own["round"].to_list(), y=own["score"].to_list(), mode="lines+markers",
            name=plain(method), line={"color": style["colour"], "width": 1.8},
            marker={"color": style["colour"], "symbol": style["symbol"], "size": 6},
            hovertemplate="round %{x:.0f}: %{y:.3f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=340,
            xaxis={"title": {"text": "round"}, "rangemode": "tozero"},
            yaxis={"title": {"text": plain(metric)}, "rangemode": "tozero"},
        )
    )
    return to_json(figure)


def _optimisers(rows: Rows) -> list[dict[str, Any]]:
    """One table a setting: a row a client optimiser, a column a server optimiser."""
    found = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == setting]
        servers = list(dict.fromkeys(row["server"] for row in own))
        found.append(
            {
                "setting": setting,
                "servers": servers,
                "rows": [
                    {
                        "client": client,
                        "cells": [
                            next(
                                _with_spread(r["score"], r["spread"])
                                for r in own
                                if r["client"] == client and r["server"] == server
                            )
                            for server in servers
                        ],
                    }
                    for client in dict.fromkeys(row["client"] for row in own)
                ],
            }
        )
    return found


def _frozen(row: Row) -> dict[str, Any]:
    return {
        "name": row["frozen"],
        "layers": ", ".join(row["layers"]) or "none",
        "setting": row["setting"],
        "score": _with_spread(row["score"], row["spread"]),
        "share": percent(row["share_frozen"], 1),
        "kilobytes": f"{row['bytes_per_round'] / 1e3:,.0f}",
        "identical": MISSING
        if not row["frozen_tensors"]
        else ("yes" if row["frozen_identical"] else "NO"),
        "tensors": f"{row['frozen_tensors']}",
    }
