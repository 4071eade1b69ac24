"""Accuracy by how active the client is that a test example belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = 10


def activity_groups(
    activity: NDArray[np.float64],
    test_activity: NDArray[np.float64],
    right: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    """Accuracy of each decile of activity; deciles of equal activity are one group.

    Args:
        activity: examples of each client ``(clients,)``.
        test_activity: activity of the client that each test example belongs to ``(M,)``; 0 for
            clients without training data, nan where it is not known.
        right: whether each test example is right ``(M,)``.

    Returns:
        A row a group: ``group`` (such as ``"2 to 3"``), ``low``, ``high``, ``clients``, ``tests``,
        ``accuracy`` (None without tests).
    """
    rows: list[dict[str, Any]] = []
    if not np.isfinite(test_activity).any():
        return rows
    rows.append(_row("no training data", 0, 0, 0, right[test_activity == 0]))
    held = np.sort(activity[activity > 0])
    ends = np.unique(np.quantile(held, np.arange(1, GROUPS + 1) / GROUPS, method="lower"))
    low = 1.0
    for high in ends:
        inside = (test_activity >= low) & (test_activity <= high)
        clients = int(((held >= low) & (held <= high)).sum())
        name = f"{high:g}" if high == low else f"{low:g} to {high:g}"
        rows.append(_row(name, low, high, clients, right[inside]))
        low = high + 1
    return rows


def _row(
    name: str, low: float, high: float, clients: int, right: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "group": name,
        "low": float(low),
        "high": float(high),
        "clients": clients,
        "tests": len(right),
        "accuracy": float(right.mean()) if len(right) else None,
    }
