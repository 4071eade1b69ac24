"""Learning-rate schedules as factors of the peak rate: pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from foretell.errors import ParameterError

Schedule = Callable[[int, int], float]
"""``(step, max_steps) -> factor`` on the learning rate, steps counted from 0."""


def constant(step: int, max_steps: int) -> float:
    """Always 1."""
    return 1.0


def cosine(step: int, max_steps: int) -> float:
    """Half a cosine from 1 towards 0 (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(step / max_steps, 1.0)))


def warmup_cosine(step: int, max_steps: int, warmup: float = 0.05) -> float:
    """Linear from near 0 to 1 over the first ``warmup`` of the steps, then half a cosine to 0."""
    rise = max(1, round(warmup * max_steps))
    if step < rise:
        return (step + 1) / rise
    return cosine(step - rise, max(1, max_steps - rise))


def one_cycle(
    step: int,
    max_steps: int,
    rise: float = 0.3,
    initial_divisor: float = 25.0,
    final_divisor: float = 1e4,
) -> float:
    """Up and down once in cosines (Smith and Topin 2018), as ``torch``'s ``OneCycleLR``.

    From ``1 / initial_divisor`` up to 1 over the first ``rise`` of the steps, then down to
    ``1 / (initial_divisor * final_divisor)`` at the last step.
    """
    first, low = 1.0 / initial_divisor, 1.0 / (initial_divisor * final_divisor)
    top, last = rise * max_steps - 1.0, max_steps - 1.0
    if top > 0 and step <= top:
        return _between(first, 1.0, step / top)
    return _between(1.0, low, min((step - top) / max(last - top, 1e-12), 1.0))


def _between(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * part))


SCHEDULES: dict[str, Schedule] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "warmup_cosine": warmup_cosine,
    "constant": constant,
}


def get_schedule(schedule: str | Schedule) -> tuple[str, Schedule]:
    """Name and function of a schedule given by name or as a function ``(step, max_steps)``."""
    if callable(schedule):
        inner = schedule.func if isinstance(schedule, partial) else schedule
        return getattr(inner, "__name__", type(inner).__name__), schedule
    if schedule not in SCHEDULES:
        raise ParameterError(
            f"unknown schedule {schedule!r}: one of {', '.join(SCHEDULES)}, or a function of "
            "(step, max_steps)"
        )
    return schedule, SCHEDULES[schedule]
