"""The compiled step of the quality monitor: one hour of one stay."""

from __future__ import annotations

import numpy as np
from numba import njit

(
    NO_DATA, NO_VITALS, PRESSURE_ORDER, MEAN_PRESSURE, STUCK, JUMP, IMPOSSIBLE, NOT_A_NUMBER,
    SATURATION_GAP,
) = range(9)  # fmt: skip


@njit(cache=True)
def clear(last, since, repeats):
    """Forgets a stay: ``last``, ``since``, ``repeats`` (C,)."""
    last[:] = np.nan
    since[:] = 0
    repeats[:] = 0


@njit(cache=True)
def judge(
    row, last, since, repeats, vital, low, high, most_repeats, repeats_below, most_jump, jump_hours,
    pressures, tolerance, saturations, gap, silence, flags,
):  # fmt: skip
    """Takes one hour's values (C,) into the state and writes its ``flags`` (9,).

    ``since`` counts the hours since each channel's last value, or since the stay began.
    """
    flags[:] = False
    seen = False
    quiet = True
    for c in range(row.shape[0]):
        since[c] += 1
        value = row[c]
        if np.isinf(value):
            flags[NOT_A_NUMBER] = True
        if not np.isnan(value) and (value < low[c] or value > high[c]):
            flags[IMPOSSIBLE] = True
            value = np.nan
        if not np.isnan(value):
            if not np.isnan(last[c]):
                if since[c] <= jump_hours and abs(value - last[c]) > most_jump[c]:
                    flags[JUMP] = True
                repeats[c] = repeats[c] + 1 if value == last[c] else 1
            else:
                repeats[c] = 1
            last[c] = value
            since[c] = 0
        if repeats[c] >= most_repeats[c] and last[c] < repeats_below[c]:
            flags[STUCK] = True
        seen = seen or not np.isnan(last[c])
        quiet = quiet and not (vital[c] and since[c] < silence)
    flags[NO_DATA] = not seen
    flags[NO_VITALS] = quiet
    s, m, d = pressures
    if s >= 0 and d >= 0 and last[s] <= last[d]:
        flags[PRESSURE_ORDER] = True
    if s >= 0 and m >= 0 and d >= 0:
        if last[m] < last[d] - tolerance or last[m] > last[s] + tolerance:
            flags[MEAN_PRESSURE] = True
    finger, blood = saturations
    if finger >= 0 and blood >= 0 and max(since[finger], since[blood]) < jump_hours:
        # Compared only while both are new: what differs later may have changed.
        if abs(last[finger] - last[blood]) > gap:
            flags[SATURATION_GAP] = True


@njit(cache=True)
def judge_stays(
    values, lengths, vital, low, high, most_repeats, repeats_below, most_jump, jump_hours,
    pressures, tolerance, saturations, gap, silence,
):  # fmt: skip
    """(R, 9) flags of all hours of stays with values (R, C)."""
    channels = values.shape[1]
    last, since = np.empty(channels), np.empty(channels, np.int64)
    repeats = np.empty(channels, np.int64)
    flags = np.zeros((values.shape[0], 9), np.bool_)
    begin = 0
    for i in range(lengths.shape[0]):
        clear(last, since, repeats)
        for r in range(begin, begin + lengths[i]):
            judge(
                values[r], last, since, repeats, vital, low, high, most_repeats, repeats_below,
                most_jump, jump_hours, pressures, tolerance, saturations, gap, silence, flags[r],
            )  # fmt: skip
        begin += lengths[i]
    return flags
