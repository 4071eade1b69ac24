"""The surface as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from foretell.decisions.thresholds.surface import DecisionSurface

LINE = "#b45309"


def surface_figure(surface: DecisionSurface) -> go.Figure:
    """Observed positive rate of each score bin and level, and each level's threshold as a line.

    Score bins are drawn equally wide though they are dense at the top: that is where decisions
    fall.
    """
    import plotly.graph_objects as go

    cells = surface.cell_table
    lows = np.unique(cells["score_low"])
    column = np.searchsorted(lows, cells["score_low"])
    shape = (surface.n_levels, len(lows))
    rate = np.full(shape, np.nan)
    rate[cells["level"], column] = cells["rate"]
    hover = np.full(shape, "", dtype=object)
    for i, (k, j) in enumerate(zip(cells["level"], column, strict=True)):
        hover[k, j] = (
            f"score {cells['score_low'][i]:.4g} to {cells['score_high'][i]:.4g}<br>"
            f"uncertainty {cells['uncertainty_low'][i]:.4g} to {cells['uncertainty_high'][i]:.4g}"
            f"<br>{cells['rows'][i]:g} rows, {cells['positives'][i]:g} positive<br>rate "
            f"{cells['rate'][i]:.3f} [{cells['rate_low'][i]:.3f}, {cells['rate_high'][i]:.3f}]"
        )
    figure = go.Figure(
        go.Heatmap(
            z=rate,
            x=np.arange(len(lows)),
            y=np.arange(surface.n_levels),
            text=hover,
            hovertemplate="%{text}<extra></extra>",
            zmin=0,
            zmax=1,
            colorscale="Blues",
            colorbar={"title": {"text": "positive rate"}},
        )
    )
    edges = np.append(lows, cells["score_high"].max())
    for kind, values, dash in (
        ("threshold", surface.thresholds, "solid"),
        ("abstains from", surface.floors, "dot"),
    ):
        if kind != "threshold" and np.array_equal(values, surface.thresholds):
            continue
        x: list[float | None] = []
        y: list[float | None] = []
        for k, value in enumerate(values):
            if np.isfinite(value):
                at = float(np.interp(value, edges, np.arange(len(edges)) - 0.5))
                x += [at, at, None]
                y += [k - 0.5, k + 0.5, None]
        figure.add_scatter(
            x=x, y=y, mode="lines", name=kind, line={"color": LINE, "width": 3, "dash": dash}
        )
    step = max(1, len(lows) // 8)
    figure.update_layout(
        xaxis={
            "title": {"text": "score (bins dense at the top)"},
            "tickvals": list(np.arange(0, len(lows), step)),
            "ticktext": [f"{low:.3g}" for low in lows[::step]],
        },
        yaxis={
            "title": {"text": "uncertainty"},
            "tickvals": list(range(surface.n_levels)),
            "ticktext": level_names(surface),
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        margin={"l": 56, "r": 12, "t": 12, "b": 44},
        height=340,
    )
    return figure


def level_names(surface: DecisionSurface) -> list[str]:
    """How the levels are called in pictures, the most certain first."""
    known = surface.n_levels - surface.partition.missing
    names = [f"level {k + 1}" for k in range(known)]
    if known > 1:
        names[0] += " (certain)"
        names[-1] += " (uncertain)"
    return names + ["missing"] * surface.partition.missing
