"""Scores as functions of sums, so that any part of a test set, and any resample, has its score.

A table of :func:`foretell.evaluation.evaluate` holds these sums over observed cells, one row a
model, series and segment:

=====================  ==========================================================================
``n``                  observed cells
``n_scaled``           those of series with a positive in-sample scale
``abs_y``, ``y``       ``|y|`` and ``y``
``abs_error``          ``|y - f|``, f the median
``error``              ``f - y``
``squared_error``      ``(y - f)^2``
``smape``              ``200 |y - f| / (|y| + |f|)``
``scaled_error``       ``|y - f| / scale``
``scaled_loss``        mean over levels of ``2 pinball / scale``
``crossings``          cells in which some quantile lies above the next
``pinball_q*``         quantile loss of a level
``below_q*``           cells with ``y`` at or below the quantile
``inside_*``           cells inside the central interval of so many per cent
``width_*``            its width
``interval_score_*``   its interval score
``scaled_interval_*``  its interval score in units of the scale
=====================  ==========================================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

Sums = Mapping[str, NDArray[np.float64]]

COUNTS = ("n", "n_scaled", "crossings")
PLAIN = (
    *COUNTS,
    "abs_y",
    "y",
    "abs_error",
    "error",
    "squared_error",
    "smape",
    "scaled_error",
    "scaled_loss",
)
DEFAULT_SCORES = (
    "wql",
    "mase",
    "wape",
    "rmse",
    "smape",
    "bias",
    "sql",
    "crps",
    "calibration_error",
    "crossing_rate",
)
LOWER_IS_BETTER = frozenset(
    {"wql", "mase", "wape", "rmse", "smape", "sql", "crps", "calibration_error", "crossing_rate"}
)


def level_name(level: float) -> str:
    """How a level is named in columns: ``q0.1``."""
    return f"q{level:g}"


def intervals(levels: Sequence[float] | NDArray) -> list[tuple[str, int, int]]:
    """Central intervals that the levels hold: (per cent as text, lower index, upper index)."""
    grid = np.asarray(levels, np.float64)
    result = []
    for low in range(len(grid)):
        high = np.flatnonzero(np.isclose(grid, 1 - grid[low]))
        if high.size and grid[low] < 0.5:
            result.append((f"{100 * (1 - 2 * grid[low]):.6g}", low, int(high[0])))
    return result


def columns(levels: Sequence[float] | NDArray) -> list[str]:
    """All columns of sums for given levels."""
    per_level = [f"{kind}_{level_name(a)}" for kind in ("pinball", "below") for a in levels]
    kinds = ("inside", "width", "interval_score", "scaled_interval")
    per_interval = [f"{kind}_{name}" for kind in kinds for name, _, _ in intervals(levels)]
    return [*PLAIN, *per_level, *per_interval]


def levels_of(names: Sequence[str]) -> list[float]:
    """The levels that a table's columns hold, ascending."""
    prefix = "pinball_q"
    return sorted(float(name[len(prefix) :]) for name in names if name.startswith(prefix))


def score(name: str, sums: Sums) -> NDArray[np.float64]:
    """One score of each entry of the sums, all of one shape (...).

    Args:
        name: ``wql`` (also ``wql_q0.9``), ``mase``, ``wape``, ``rmse``, ``smape``, ``bias``
            (relative), ``sql``, ``crps``, ``calibration_error``, ``crossing_rate``,
            ``coverage_q0.9``, ``interval_coverage_80``, ``interval_width_80``, ``msis_80``.
        sums: column name -> sums.

    Raises:
        ParameterError: the score is not known or the sums do not hold what it needs.
    """
    levels = levels_of(list(sums))
    head, _, tail = name.rpartition("_")
    try:
        if name in _SCORES:
            return _SCORES[name](sums, levels)
        if head in _PARTS:
            return _PARTS[head](sums, tail)
    except KeyError as missing:
        raise ParameterError(
            f"score {name!r} needs the column {missing} that the table does not hold"
        ) from None
    known = ", ".join([*_SCORES, *(f"{p}_..." for p in _PARTS)])
    raise ParameterError(f"score {name!r} is not known; known are {known}")


def _ratio(top: NDArray, bottom: NDArray) -> NDArray[np.float64]:
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    zero = bottom == 0
    if zero.any():
        warnings.warn(
            "a score has a zero denominator and is undefined (NaN): nothing was sold, or, for "
            "scaled scores such as MASE, no series has more than a season before the origin",
            stacklevel=4,
        )
    return np.where(zero, np.nan, top / np.where(zero, 1, bottom))


def _total_pinball(sums: Sums, levels: Sequence[float]) -> NDArray[np.float64]:
    if not levels:
        raise KeyError("pinball_q...")
    return np.mean([sums[f"pinball_{level_name(a)}"] for a in levels], axis=0)


def _calibration_error(sums: Sums, levels: Sequence[float]) -> NDArray[np.float64]:
    gaps = [np.abs(_ratio(sums[f"below_{level_name(a)}"], sums["n"]) - a) for a in levels]
    return np.mean(gaps, axis=0)


_SCORES: dict[str, Callable[[Sums, Sequence[float]], NDArray[np.float64]]] = {
    "wql": lambda s, levels: _ratio(2 * _total_pinball(s, levels), s["abs_y"]),
    "mase": lambda s, _: _ratio(s["scaled_error"], s["n_scaled"]),
    "wape": lambda s, _: _ratio(s["abs_error"], s["abs_y"]),
    "rmse": lambda s, _: np.sqrt(_ratio(s["squared_error"], s["n"])),
    "smape": lambda s, _: _ratio(s["smape"], s["n"]),
    "bias": lambda s, _: _ratio(s["error"], s["abs_y"]),
    "sql": lambda s, _: _ratio(s["scaled_loss"], s["n_scaled"]),
    "crps": lambda s, levels: _ratio(2 * _total_pinball(s, levels), s["n"]),
    "calibration_error": _calibration_error,
    "crossing_rate": lambda s, _: _ratio(s["crossings"], s["n"]),
}
_PARTS: dict[str, Callable[[Sums, str], NDArray[np.float64]]] = {
    "wql": lambda s, q: _ratio(2 * s[f"pinball_{q}"], s["abs_y"]),
    "coverage": lambda s, q: _ratio(s[f"below_{q}"], s["n"]),
    "interval_coverage": lambda s, p: _ratio(s[f"inside_{p}"], s["n"]),
    "interval_width": lambda s, p: _ratio(s[f"width_{p}"], s["n"]),
    "msis": lambda s, p: _ratio(s[f"scaled_interval_{p}"], s["n_scaled"]),
}
