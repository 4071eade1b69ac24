"""Figures of late labels: delays, fake negatives, calibration, scores with intervals, streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from foretell.evaluation.report.style import BASELINE, BEST, INK, MUTED, layout, plain, shade

Styles = Mapping[str, Mapping[str, Any]]
_KINDS = (BEST, BASELINE, "#4d7c5a", "#7a4f8a")


def delay_figure(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str) -> Any:
    """Share of each kind of outcome that has arrived by each delay.

    Args:
        curves: kind -> delays and shares.
        unit: of the delays.
    """
    figure = go.Figure()
    for i, (kind, (delay, share)) in enumerate(curves.items()):
        figure.add_scatter(
            x=list(delay), y=[100 * s for s in share], mode="lines", name=plain(kind),
            line={"color": _KINDS[i % len(_KINDS)], "width": 2.4 if i == 0 else 1.8, "shape": "hv"},
            hovertemplate="%{y:.0f}% within %{x:.4g} " + plain(unit)
            + "<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=300,
            xaxis={"title": {"text": f"time since exposure ({unit})"}, "rangemode": "tozero"},
            yaxis={
                "title": {"text": "have arrived"},
                "ticksuffix": "%",
                "range": [0, 102],
            },
        )
    )
    return figure


def fake_negative_figure(
    age: Sequence[float],
    share: Sequence[float],
    lower: Sequence[float] | None,
    upper: Sequence[float] | None,
    unit: str,
) -> Any:
    """Share of the rows without a conversion so far that will still convert, by age."""
    figure = go.Figure()
    ages = np.asarray(age, float)
    if lower is not None and upper is not None:
        figure.add_scatter(
            x=np.concatenate([ages, ages[::-1]]),
            y=100 * np.concatenate([np.asarray(upper), np.asarray(lower)[::-1]]),
            fill="toself", fillcolor=shade(BASELINE, 0.14), line={"width": 0}, mode="lines",
            hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.add_scatter(
        x=ages, y=100 * np.asarray(share, float), mode="lines+markers", showlegend=False,
        line={"color": BASELINE, "width": 2.2}, marker={"size": 6},
        hovertemplate="at age %{x:.4g} " + plain(unit) + ": %{y:.1f}% of the negatives are fake"
        "<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=300,
            xaxis={"title": {"text": f"age of the row ({unit})"}, "rangemode": "tozero"},
            yaxis={
                "title": {"text": "negatives that will convert"},
                "ticksuffix": "%",
                "rangemode": "tozero",
            },
        )
    )
    return figure


def calibration_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[int]]],
    styles: Styles,
    shown: Sequence[str],
) -> Any:
    """Share of positives against mean prediction in bins; the methods not shown wait in the legend.

    Args:
        curves: method -> mean predictions, shares of positives, rows of each bin.
        styles: colour and marker of each method.
        shown: methods drawn from the start.
    """
    figure = go.Figure()
    top = max((v for p, y, _ in curves.values() for v in (*p, *y)), default=1.0)
    top = min(1.0, 1.05 * top)
    figure.add_scatter(
        x=[0, 100 * top], y=[0, 100 * top], mode="lines", hoverinfo="skip", showlegend=False,
        line={"color": INK, "width": 1.2, "dash": "dot"},
    )  # fmt: skip
    for method, (p, y, n) in curves.items():
        style = styles[method]
        figure.add_scatter(
            x=[100 * v for v in p], y=[100 * v for v in y], customdata=list(n),
            mode="lines+markers", name=plain(method),
            visible=True if method in shown else "legendonly",
            line={"color": style["colour"], "width": 2.2 if method == shown[0] else 1.6},
            marker={"symbol": style["symbol"], "size": 7},
            hovertemplate="said %{x:.1f}%, were %{y:.1f}% (%{customdata:,} rows)"
            "<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=400,
            xaxis={
                "title": {"text": "probability said"},
                "ticksuffix": "%",
                "range": [0, 100 * top],
            },
            yaxis={
                "title": {"text": "share that converted"},
                "ticksuffix": "%",
                "range": [0, 100 * top],
            },
        )
    )
    return figure


def score_figure(
    rows: Sequence[Mapping[str, Any]], styles: Styles, title: str, perfect: float | None = None
) -> Any:
    """A score of each method as a point with its interval, the best at the top.

    Args:
        rows: ``model``, ``value``, ``lower``, ``upper``.
        styles: colour and marker of each method.
        title: of the axis.
        perfect: where a line marks the perfect value.
    """
    rows = list(rows)[::-1]
    value = np.array([r["value"] for r in rows], float)
    figure = go.Figure()
    if perfect is not None:
        figure.add_vline(x=perfect, line={"color": INK, "width": 1.2, "dash": "dot"})
    figure.add_scatter(
        x=value, y=[plain(r["model"]) for r in rows], mode="markers", showlegend=False,
        marker={
            "color": [styles[r["model"]]["colour"] for r in rows],
            "symbol": [styles[r["model"]]["symbol"] for r in rows],
            "size": 10,
        },
        error_x={
            "type": "data", "symmetric": False, "color": MUTED, "thickness": 1.4, "width": 4,
            "array": np.array([r["upper"] for r in rows], float) - value,
            "arrayminus": value - np.array([r["lower"] for r in rows], float),
        },
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=90 + 28 * len(rows),
            xaxis={"title": {"text": title}},
            yaxis={"type": "category", "gridcolor": "rgba(0,0,0,0)", "ticks": ""},
        )
    )
    return figure


def stream_figure(
    table: pl.DataFrame, metric: str, styles: Styles, shown: Sequence[str], unit: str, title: str
) -> Any:
    """A score of each method over the time of a stream.

    Args:
        table: ``method, start`` and the metric, one row a method and stretch of time.
        metric: the column.
        styles: colour and marker of each method.
        shown: methods drawn from the start.
        unit: of the time.
        title: of the axis.
    """
    figure = go.Figure()
    for method in table["method"].unique(maintain_order=True).to_list():
        part = table.filter(pl.col("method") == method).sort("start")
        style = styles[method]
        figure.add_scatter(
            x=part["start"].to_list(), y=part[metric].to_list(), mode="lines", name=plain(method),
            visible=True if method in shown else "legendonly",
            line={"color": style["colour"], "width": 2.2 if method == shown[0] else 1.6},
            hovertemplate="%{x:.4g}: %{y:.4f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=340,
            xaxis={"title": {"text": f"time of the stream ({unit})"}},
            yaxis={"title": {"text": title}, "rangemode": "tozero"},
        )
    )
    return figure
