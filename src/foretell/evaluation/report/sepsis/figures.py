"""Figures of the page of a run about early warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go

from foretell.evaluation.report.style import (
    BASELINE,
    BEST,
    INK,
    MUTED,
    OTHERS,
    layout,
    plain,
    shade,
    to_json,
)

Rows = Sequence[Mapping[str, Any]]


def heat_map(entry: Mapping[str, Any]) -> dict[str, Any]:
    """AUROC at every site after training on each."""
    sites = [plain(name) for name in entry["sites"]]
    values = entry["auroc"]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=sites, y=[f"after {name}" for name in sites], zmin=0.5, zmax=1.0,
            colorscale=[[0, "#ffffff"], [1, BEST]], showscale=False, xgap=3, ygap=3,
            text=[[f"{v:.3f}" for v in row] for row in values], texttemplate="%{text}",
            hovertemplate="%{y}, judged at %{x}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=80 + 52 * len(sites),
            xaxis={"side": "top", "type": "category", "showgrid": False},
            yaxis={"autorange": "reversed", "type": "category", "showgrid": False},
            margin={"l": 90, "r": 12, "t": 36, "b": 8},
        )
    )
    return to_json(figure)


def first_site(sequence: Rows, styles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the first site keeps while the model travels on."""
    figure = go.Figure()
    for entry in sequence:
        style = styles[entry["method"]]
        figure.add_scatter(
            x=[f"after {plain(s)}" for s in entry["sites"]],
            y=[row[0] for row in entry["auroc"]], mode="lines+markers",
            name=plain(entry["method"]), line={"color": style["colour"], "width": 2},
            marker={"symbol": style["symbol"], "size": 8, "color": style["colour"]},
            hovertemplate="%{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    first = plain(sequence[0]["sites"][0])
    figure.update_layout(
        layout(
            height=320,
            xaxis={"type": "category"},
            yaxis={"title": {"text": f"AUROC at {first}"}},
        )
    )
    return to_json(figure)


def calibration(bins: Rows) -> dict[str, Any]:
    """Observed rates over predicted risks, with intervals; both axes are logarithmic."""
    shown = [b for b in bins if b["mean_probability"] > 0]
    floor = min([b["mean_probability"] for b in shown] + [1e-3]) / 2
    rates = [max(b["rate"], floor) for b in shown]
    figure = go.Figure()
    top = max([b["mean_probability"] for b in shown] + [b["upper"] or 0 for b in shown]) * 1.5
    figure.add_scatter(
        x=[floor, top], y=[floor, top], mode="lines", name="as it should be",
        line={"color": MUTED, "dash": "dot", "width": 1.2}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=[b["mean_probability"] for b in shown], y=rates, mode="lines+markers", name="hours",
        line={"color": BEST, "width": 1.4}, marker={"size": 8, "color": BEST},
        error_y={
            "type": "data", "symmetric": False, "color": shade(BEST, 0.6), "thickness": 1.4,
            "array": [max((b["upper"] or 0) - r, 0) for b, r in zip(shown, rates, strict=True)],
            "arrayminus": [
                max(r - max(b["lower"] or 0, floor), 0) for b, r in zip(shown, rates, strict=True)
            ],
        },
        customdata=[b["n"] for b in shown],
        hovertemplate="risk %{x:.4f}, onset in %{y:.4f} of %{customdata:,} hours<extra></extra>",
    )  # fmt: skip
    ticks = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    axis = {"type": "log", "tickvals": ticks, "ticktext": [f"{100 * t:g}%" for t in ticks]}
    figure.update_layout(
        layout(
            height=360,
            xaxis={**axis, "title": {"text": "predicted risk (log)"}},
            yaxis={**axis, "title": {"text": "hours that led to an onset (log)"}},
        )
    )
    return to_json(figure)


def decision_curve(rows: Rows) -> dict[str, Any]:
    """Net benefit over the threshold, beside acting on all and on none."""
    x = [r["threshold"] for r in rows]
    figure = go.Figure()
    figure.add_scatter(
        x=[*x, *x[::-1]], y=[*(r["upper"] for r in rows), *(r["lower"] for r in rows[::-1])],
        mode="lines", fill="toself", fillcolor=shade(BEST, 0.15), line={"width": 0},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    lines = (("model", "net_benefit", BEST, "solid"), ("act on all", "all", BASELINE, "dash"))
    for name, key, colour, dash in lines:
        figure.add_scatter(
            x=x, y=[r[key] for r in rows], mode="lines+markers", name=name,
            line={"color": colour, "dash": dash, "width": 1.8}, marker={"size": 6},
            hovertemplate="threshold %{x:.3f}: %{y:.5f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    best = max(max(r["upper"] for r in rows), 1e-4)
    figure.add_hline(y=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_layout(
        layout(
            height=360,
            xaxis={"title": {"text": "risk at which one would act (log)"}, "type": "log",
                   "tickvals": x, "ticktext": [f"{100 * v:g}%" for v in x]},
            yaxis={"title": {"text": "net benefit"}, "range": [-0.6 * best, 1.15 * best]},
        )
    )  # fmt: skip
    return to_json(figure)


def leads(values: Sequence[float], horizon: float) -> dict[str, Any]:
    """Hours from the first true alarm to the onset."""
    width = max(1.0, horizon / 24)
    counts, edges = np.histogram(values, bins=np.arange(0, horizon + width, width))
    figure = go.Figure(
        go.Bar(
            x=((edges[:-1] + edges[1:]) / 2).tolist(), y=counts.tolist(), width=0.92 * width,
            marker={"color": BEST},
            customdata=[f"{a:g} to {b:g}" for a, b in pairwise(edges)],
            hovertemplate="%{customdata} h: %{y} patients<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=300,
            xaxis={"title": {"text": "hours from the first true alarm to the onset"}},
            yaxis={"title": {"text": "patients"}},
        )
    )
    return to_json(figure)


def trajectory(example: Mapping[str, Any], threshold: float) -> dict[str, Any]:
    """The score of one stay, its alarms, its onset, and the hours without a score."""
    hours, scores = example["hours"], example["score"]
    figure = go.Figure()
    figure.add_scatter(
        x=hours, y=scores, mode="lines", name="score", line={"color": BEST, "width": 2},
        hovertemplate="hour %{x}: %{y:.3f}<extra></extra>", connectgaps=False,
    )  # fmt: skip
    # A score between two hours without one has no line: it is a dot.
    around = [None, *scores, None]
    alone = [
        i
        for i, score in enumerate(scores)
        if score is not None and around[i] is None and around[i + 2] is None
    ]
    if alone:
        figure.add_scatter(
            x=[hours[i] for i in alone], y=[scores[i] for i in alone], mode="markers",
            marker={"color": BEST, "size": 5}, showlegend=False, name="score",
            hovertemplate="hour %{x}: %{y:.3f}<extra></extra>",
        )  # fmt: skip
    at = dict(zip(hours, scores, strict=True))
    alarms = [h for h in example["alarms"] if at.get(h) is not None]
    figure.add_scatter(
        x=alarms, y=[at[h] for h in alarms], mode="markers", name="alarm",
        marker={"color": BASELINE, "size": 11, "symbol": "triangle-up"},
        hovertemplate="alarm at hour %{x}<extra></extra>",
    )  # fmt: skip
    silent = [h for h, s in zip(hours, scores, strict=True) if s is None]
    if silent:
        figure.add_scatter(
            x=silent, y=[0] * len(silent), mode="markers", name="no score",
            marker={"color": OTHERS[2], "size": 6, "symbol": "x-thin-open"},
            hovertemplate="hour %{x}: no score<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=threshold, line={"color": MUTED, "width": 1, "dash": "dot"})
    if example["onset"] is not None and hours[0] <= example["onset"] <= hours[-1] + 48:
        figure.add_vline(x=example["onset"], line={"color": INK, "width": 1.4, "dash": "dash"})
        figure.add_annotation(
            x=example["onset"], y=1, yref="paper", text="onset", showarrow=False, xshift=22,
            font={"size": 12, "color": INK},
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=240,
            xaxis={"title": {"text": "hour in the unit"}},
            yaxis={"title": {"text": "risk"}, "rangemode": "tozero"},
        )
    )
    return to_json(figure)
