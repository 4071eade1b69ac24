"""What all figures of a page share: colours, the layout, and their form as plain JSON."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"
BEST, BASELINE = "#0b5394", "#b45309"
OTHERS = ("#4d7c5a", "#7a4f8a", "#6b7280", "#8a6d1f", "#2f7f86", "#9c3d54")
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
            colour = OTHERS[rest % len(OTHERS)]
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
