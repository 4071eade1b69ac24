"""The page's interactive figures, as plotly's JSON."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"
BEST, BASELINE = "#0b5394", "#b45309"
_OTHERS = ("#4d7c5a", "#7a4f8a", "#6b7280", "#8a6d1f", "#2f7f86", "#9c3d54")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross", "star", "triangle-down")
_FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


def model_styles(
    models: Sequence[str], best: str, baseline: str | None
) -> dict[str, dict[str, Any]]:
    """Colour and marker of each model: the best blue, the baseline ochre."""
    styles: dict[str, dict[str, Any]] = {}
    rest = 0
    for i, model in enumerate(models):
        if model == best:
            colour = BEST
        elif model == baseline:
            colour = BASELINE
        else:
            colour = _OTHERS[rest % len(_OTHERS)]
            rest += 1
        styles[model] = {"colour": colour, "symbol": _SYMBOLS[i % len(_SYMBOLS)]}
    return styles


def plain(text: object) -> str:
    """A name as plotly shows it literally: its labels understand a subset of HTML."""
    return html.escape(str(text), quote=False)


def shade(colour: str, opacity: float) -> str:
    """A hex colour as rgba."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def layout(**more: Any) -> dict[str, Any]:
    """What all figures share."""
    axis: dict[str, Any] = {
        "gridcolor": GRID, "linecolor": "#9aa5b1", "ticks": "outside", "tickcolor": "#9aa5b1",
        "ticklen": 4, "zeroline": False, "automargin": True,
        "title": {"standoff": 8, "font": {"size": 12.5, "color": MUTED}},
    }  # fmt: skip
    base: dict[str, Any] = {
        "font": {"family": _FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 12, "t": 12, "b": 44},
        "height": 340,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#9aa5b1", "font": {"color": INK}},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "title": {"text": ""},
        },
    }
    for key in ("xaxis", "yaxis"):
        own = more.pop(key, {})
        title = {**axis["title"], **own.get("title", {})}
        base[key] = {**axis, **own, "title": title}
    return {**base, **more}


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
    palette = (BEST, BASELINE, *_OTHERS)
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


def to_json(figure: go.Figure) -> dict[str, Any]:
    """Data and layout as plain JSON values, without plotly's default template."""
    figure.layout.template = go.layout.Template()
    document = figure.to_plotly_json()
    return {"data": _plain(document["data"]), "layout": _plain(document["layout"])}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if k != "template"}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
