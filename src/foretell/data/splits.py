"""Cutting panels by time: never at random, and nothing from after the cut before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretell.data.panel import Panel
from foretell.errors import ParameterError


@dataclass(frozen=True)
class Split:
    """A panel at two moments.

    Args:
        train: the panel as it was at the cut; known covariates reach beyond it.
        full: the panel with what came after.
        back: (N,) periods between the two for each series.
    """

    train: Panel
    full: Panel
    back: np.ndarray


def split_by_horizon(panel: Panel, horizon: int) -> Split:
    """Cuts the last ``horizon`` periods of each series.

    Raises:
        ParameterError: the horizon is below 1 or no series is longer than it.
    """
    if horizon < 1:
        raise ParameterError(f"the horizon must be at least 1, not {horizon}")
    return _split(panel, np.full(len(panel), horizon, np.int64), f"a horizon of {horizon}")


def split_by_time(panel: Panel, time: str | np.datetime64 | int) -> Split:
    """Cuts after a moment, the same for all series: the period that holds it is the last known.

    Args:
        panel: what to cut.
        time: an ISO date or moment; a period number for integer time.

    Raises:
        ParameterError: the time cannot be read, or lies before the first or after the last period.
    """
    grid = panel.frequency
    if grid.kind == "integer":
        if not isinstance(time, (int, np.integer)):
            raise ParameterError(f"integer time is cut at a period number, not at {time!r}")
        period = int(time)
    else:
        try:
            moment = np.array([time], "datetime64[us]")
        except (ValueError, TypeError) as error:
            raise ParameterError(f"{time!r} is not a date; use ISO 8601") from error
        period = int(grid.index(moment)[0])
        if grid.month_end and not grid.aligned(moment)[0]:
            period -= 1  # the month that holds the date is not over
    back = np.maximum(panel.ends - period, 0)
    if not back.any():
        last = grid.time(panel.ends.max(keepdims=True))[0]
        raise ParameterError(f"nothing lies after {time}; the panel ends at {last}")
    return _split(panel, back, f"the cut at {time}")


def split_by_fraction(panel: Panel, fraction: float) -> Split:
    """Cuts the last share of the panel's whole span of time, at one moment for all series.

    Args:
        panel: what to cut.
        fraction: the share that comes after the cut, strictly between 0 and 1.

    Raises:
        ParameterError: the fraction is out of range or leaves nothing on one side.
    """
    if not 0 < fraction < 1:
        raise ParameterError(f"the fraction must lie strictly between 0 and 1, not {fraction}")
    first, last = int(panel.starts.min()), int(panel.ends.max())
    after = round((last - first + 1) * fraction)
    if after < 1:
        raise ParameterError(f"a fraction of {fraction} of {last - first + 1} periods is nothing")
    return _split(panel, np.maximum(panel.ends - (last - after), 0), f"a fraction of {fraction}")


def rolling_origins(
    panel: Panel, h: int, n_windows: int = 1, step_size: int | None = None
) -> list[int]:
    """How many periods before the end each forecast of a backtest is made, the earliest first.

    The last origin lies ``h`` periods before the end, the one before ``step_size`` earlier.

    Args:
        panel: what will be cut by these numbers.
        h: horizon.
        n_windows: number of origins.
        step_size: periods between two origins; ``h`` when ``None``.

    Raises:
        ParameterError: a number is below 1, or the first origin lies before every series.
    """
    step = h if step_size is None else step_size
    for name, value in (("h", h), ("n_windows", n_windows), ("step_size", step)):
        if value < 1:
            raise ParameterError(f"{name} must be at least 1, not {value}")
    backs = [h + step * i for i in reversed(range(n_windows))]
    longest = int(panel.lengths.max(initial=0))
    if backs[0] >= longest:
        most = max(0, (longest - 1 - h) // step + 1)
        raise ParameterError(
            f"{n_windows} windows of {h} periods, {step} apart, need more than {backs[0]} periods; "
            f"the longest series has {longest}, enough for {most} windows"
        )
    return backs


def validation_origins(panel: Panel, h: int, n_windows: int = 1) -> list[int]:
    """Origins for choosing a model, all targets inside the panel and none shared, earliest first.

    Fewer than asked where histories are short: half of the median history stays for fitting. One at
    least where any series is longer than ``h``.

    Raises:
        ParameterError: no series is longer than ``h``.
    """
    held = panel.lengths[panel.lengths > 0]
    usual = int(np.median(held)) if held.size else 0
    fitting = max(1, min(n_windows, (usual // 2) // h if h >= 1 else n_windows))
    return rolling_origins(panel, h, fitting, h)


def _split(panel: Panel, back: np.ndarray, what: str) -> Split:
    train = panel.cut(back)
    if not (train.lengths > 0).any():
        longest = int(panel.lengths.max(initial=0))
        raise ParameterError(f"{what} leaves no history; the longest series has {longest} periods")
    return Split(train, panel, back)
