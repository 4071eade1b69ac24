"""ROC curves of attacks, on logarithmic axes: what matters is at few false alarms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from foretell.evaluation.report.style import layout, plain, to_json


def roc_curves(
    curves: Iterable[tuple[str, ArrayLike, ArrayLike]], colours: Sequence[str]
) -> dict[str, Any]:
    """A figure with one line for each ``(title, fpr, tpr)``, and that of guessing."""
    figure = go.Figure()
    least = 1.0
    for place, (title, fpr, tpr) in enumerate(curves):
        x, y = np.asarray(fpr, np.float64), np.asarray(tpr, np.float64)
        seen = (x > 0) & (y > 0)
        least = min(least, float(x[seen].min(initial=1.0)))
        figure.add_scatter(
            x=x[seen], y=y[seen], mode="lines", name=plain(title),
            line={"shape": "hv", "color": colours[place % len(colours)]},
            hovertemplate="FPR %{x:.2g}, TPR %{y:.3g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[least, 1], y=[least, 1], mode="lines", name="a guess", hoverinfo="skip",
        line={"dash": "dot", "color": "#52606d"},
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=400,
            xaxis={"type": "log", "title": {"text": "non-members accused (FPR)"}},
            yaxis={"type": "log", "title": {"text": "members found (TPR)"}},
        )
    )
    return to_json(figure)
