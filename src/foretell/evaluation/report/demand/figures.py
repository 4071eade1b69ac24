"""The page's interactive figures, as plotly's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from foretell.evaluation.report.style import (
    BASELINE,
    BEST,
    INK,
    OTHERS,
    layout,
    plain,
    shade,
)


def reliability_figure(
    table: pl.DataFrame, models: Sequence[str], styles: Mapping[str, Mapping[str, Any]]
) -> go.Figure:
    """Coverage minus level against level, with bands, of the table of ``reliability``."""
    figure = go.Figure()
    figure.add_hline(y=0, line={"color": INK, "width": 1.2, "dash": "dot"})
    for i, model in enumerate(models):
        part = table.filter(pl.col("model") == model).sort("level")
        level = part["level"].to_numpy()
        style = styles[model]
        upper = (part["upper"].to_numpy() - level) * 100
        lower = (part["lower"].to_numpy() - level) * 100
        figure.add_scatter(
            x=np.concatenate([level, level[::-1]]) * 100,
            y=np.concatenate([upper, lower[::-1]]),
            fill="toself", fillcolor=shade(style["colour"], 0.16 if i == 0 else 0.09),
            mode="lines", line={"width": 0}, hoverinfo="skip", showlegend=False,
            legendgroup=f"m{i}",
        )  # fmt: skip
        figure.add_scatter(
            x=level * 100,
            y=(part["coverage"].to_numpy() - level) * 100,
            mode="lines+markers", name=plain(model), legendgroup=f"m{i}",
            line={"color": style["colour"], "width": 2.4 if i == 0 else 1.6},
            marker={"symbol": style["symbol"], "size": 7},
            customdata=part["coverage"].to_numpy() * 100,
            hovertemplate="level %{x:.0f}%: %{customdata:.1f}% of outcomes below"
            "<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            xaxis={"title": {"text": "quantile level"}, "ticksuffix": "%"},
            yaxis={
                "title": {"text": "coverage minus level (points)"},
                "tickformat": "+d",
            },
        )
    )
    return figure


def segment_figure(
    labels: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    styles: Mapping[str, Mapping[str, Any]],
    title: str,
    ordered: bool,
) -> go.Figure:
    """WQL of each model in each part of the test set; lines where the parts have an order."""
    figure = go.Figure()
    for i, (model, scores) in enumerate(values.items()):
        style = styles[model]
        figure.add_scatter(
            x=[plain(text) for text in labels], y=list(scores),
            mode="lines+markers" if ordered else "markers", name=plain(model),
            line={"color": style["colour"], "width": 2.4 if i == 0 else 1.6},
            marker={"symbol": style["symbol"], "size": 8 if ordered else 10,
                    "color": style["colour"]},
            hovertemplate="%{x}: WQL %{y:.4f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=290,
            xaxis={"title": {"text": plain(title)}, "type": "category"},
            yaxis={"title": {"text": "WQL"}, "rangemode": "tozero"},
            showlegend=len(values) > 1,
        )
    )
    return figure


def cost_figure(
    rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Mapping[str, Any]]
) -> go.Figure:
    """Mean cost an order with its interval: perfect foresight, the models, the naive rule."""
    rows = list(rows)[::-1]
    colours = [styles[r["model"]]["colour"] if r["model"] in styles else "#9aa5b1" for r in rows]
    centre = np.array([r["cost"] for r in rows])
    figure = go.Figure(
        go.Bar(
            y=[plain(r["label"]) for r in rows], x=centre, orientation="h",
            marker={"color": colours}, width=0.62,
            error_x={
                "type": "data", "symmetric": False, "color": INK, "thickness": 1.2, "width": 4,
                "array": np.array([r["upper"] for r in rows]) - centre,
                "arrayminus": centre - np.array([r["lower"] for r in rows]),
            },
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=90 + 38 * len(rows),
            xaxis={"title": {"text": "mean cost per order (bars), 95% interval (lines)"}},
            yaxis={"gridcolor": "rgba(0,0,0,0)", "ticks": ""},
            showlegend=False,
        )
    )
    return figure


def elasticity_figure(values: Sequence[float], centre: float) -> go.Figure:
    """Histogram of price elasticities."""
    figure = go.Figure(
        go.Histogram(
            x=list(values), nbinsx=30,
            marker={"color": shade(BEST, 0.75), "line": {"color": "white", "width": 1}},
            hovertemplate="elasticity %{x}: %{y} series<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(
        x=centre, line={"color": BASELINE, "width": 1.6, "dash": "dash"},
        annotation={
            "text": f"median {centre:.2f}".replace("-", "\u2212"),
            "font": {"color": BASELINE},
            "yanchor": "bottom",
        },
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=300,
            margin={"l": 56, "r": 12, "t": 28, "b": 44},
            xaxis={"title": {"text": "price elasticity of demand"}},
            yaxis={"title": {"text": "series"}},
            bargap=0.02,
        )
    )
    return figure


def event_figure(
    profiles: Mapping[str, tuple[Sequence[int], Sequence[float]]], noun: str
) -> go.Figure:
    """Percentage change of demand around each event."""
    figure = go.Figure()
    offsets = sorted({o for places, _ in profiles.values() for o in places})
    palette = (BEST, BASELINE, *OTHERS)
    for i, offset in enumerate(offsets):
        names, heights = [], []
        for name, (places, effects) in profiles.items():
            if offset in places:
                names.append(plain(name))
                heights.append(100 * (effects[list(places).index(offset)] - 1))
        figure.add_bar(
            x=names, y=heights, name=offset_name(offset, noun),
            marker={"color": _offset_colour(offset, palette)},
            hovertemplate="%{x}, %{fullData.name}: %{y:+.0f}%<extra></extra>",
            offsetgroup=str(i),
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": INK, "width": 1})
    figure.update_layout(
        layout(
            height=300,
            barmode="group",
            xaxis={"type": "category"},
            yaxis={"title": {"text": "change of demand"}, "ticksuffix": "%"},
        )
    )
    return figure


def offset_name(offset: int, noun: str) -> str:
    """``week before``, ``event week``, ``2 weeks after``."""
    if offset == 0:
        return f"event {noun}"
    number = "" if abs(offset) == 1 else f"{abs(offset)} "
    many = "" if abs(offset) == 1 else "s"
    return f"{number}{noun}{many} {'before' if offset < 0 else 'after'}"


def _offset_colour(offset: int, palette: Sequence[str]) -> str:
    if offset == 0:
        return palette[0]
    fade = max(0.25, 0.65 - 0.15 * (abs(offset) - 1))
    return shade("#6b7280" if offset < 0 else palette[1], fade)
