"""Compiled walk of the alarm policy over the hours of stays."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def walk(
    scores, issued, lengths, thresholds, place, m, n, snooze, rise, escalate, max_alarms, quiet
):  # fmt: skip
    """(R,) int8 tier of the alarm of each hour, -1 for none.

    Args:
        scores: (R,) float64.
        issued: (R,) bool.
        lengths: (N,) hours of each stay.
        thresholds: (U, K) of K tiers in U places, ascending along K.
        place: (R,) place of each hour.
        m: hours of the last ``n`` that must have reached a threshold.
        n: see ``m``.
        snooze: hours of silence after an alarm.
        rise: of the score over the last alarm's that breaks through a snooze, infinite for none.
        escalate: whether a higher tier breaks through.
        max_alarms: of a stay.
        quiet: (R,) int64, hours of silence after treatment that begin with each hour.
    """
    tiers = thresholds.shape[1]
    out = np.full(scores.shape[0], -1, np.int8)
    recent = np.zeros((tiers, n), np.bool_)
    count = np.zeros(tiers, np.int64)
    begin = 0
    for i in range(lengths.shape[0]):
        recent[:] = False
        count[:] = 0
        wait, alarms, last_tier, last_score, mute = 0, 0, -1, 0.0, 0
        for r in range(begin, begin + lengths[i]):
            slot = (r - begin) % n
            best = -1
            for k in range(tiers):
                hit = issued[r] and scores[r] >= thresholds[place[r], k]
                count[k] += np.int64(hit) - np.int64(recent[k, slot])
                recent[k, slot] = hit
                if hit and count[k] >= m:
                    best = k
            silent = wait > 0
            if silent:
                wait -= 1
            mute = max(mute, quiet[r])
            if mute > 0:
                mute -= 1
                continue
            if best < 0 or alarms >= max_alarms:
                continue
            if silent and not ((escalate and best > last_tier) or scores[r] >= last_score + rise):
                continue
            out[r] = best
            wait, alarms, last_tier, last_score = snooze, alarms + 1, best, scores[r]
        begin += lengths[i]
    return out
