"""Small static fan charts as SVG: they print, and are there without any script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 236, 96
_PAD = 4


def thumbnail(row: Sequence[Any], levels: Sequence[float], label: str) -> Markup:
    """One series of :func:`foretell.evaluation.report.demand.fans.fan_data` as an SVG element.

    Args:
        row: the series.
        levels: levels of its quantiles.
        label: what a screen reader says.
    """
    history, begin, quantiles, outcomes = row[1:5]
    shown = min(len(history), 2 * len(outcomes) + 8)
    first = begin - shown
    history = history[len(history) - shown :] if shown else []
    numbers = [v for part in (history, outcomes, *quantiles) for v in part if v is not None]
    low, high = min([0, *numbers]), max([*numbers, 0])
    high = high if high > low else low + 1
    steps = max(1, shown + len(outcomes) - 1)

    def point(period: int, value: float) -> str:
        x = _PAD + (WIDTH - 2 * _PAD) * (period - first) / steps
        y = HEIGHT - _PAD - (HEIGHT - 2 * _PAD) * (value - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    def lines(values: Sequence[float | None], origin: int) -> list[str]:
        parts: list[list[str]] = [[]]
        for i, value in enumerate(values):
            if value is None:
                parts.append([])
            else:
                parts[-1].append(point(origin + i, value))
        return [" ".join(p) for p in parts if p]

    middle = list(levels).index(0.5)
    pieces = [
        f'<svg class="mini" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    ]
    for i in range(middle):
        lower, upper = quantiles[i], quantiles[-1 - i]
        edge = [point(begin + k, v) for k, v in enumerate(upper) if v is not None]
        back = [point(begin + k, v) for k, v in enumerate(lower) if v is not None]
        pieces.append(f'<polygon class="band" points="{" ".join([*edge, *back[::-1]])}"/>')
    x = point(begin, low).split(",")[0]
    pieces.append(f'<line class="cut" x1="{x}" x2="{x}" y1="{_PAD}" y2="{HEIGHT - _PAD}"/>')
    for kind, values, origin in (
        ("past", history, first),
        ("median", quantiles[middle], begin),
        ("truth", outcomes, begin),
    ):
        pieces += [f'<polyline class="{kind}" points="{p}"/>' for p in lines(values, origin)]
    return Markup("".join(pieces) + "</svg>")
