"""Compiled walks over the hours of stays: snoozing, and ranks under many resamples."""

from __future__ import annotations

import numpy as np
from numba import njit

TP, FP, FN, TN = range(4)


@njit(cache=True)
def positive_ahead(label, lengths, hours):
    """(R,) whether a label in [t, t + hours] of the same stay is 1."""
    ahead = np.zeros(label.shape[0], np.bool_)
    begin = 0
    for i in range(lengths.shape[0]):
        following = -1
        for r in range(begin + lengths[i] - 1, begin - 1, -1):
            if label[r] > 0:
                following = r
            ahead[r] = following >= 0 and following - r <= hours
        begin += lengths[i]
    return ahead


@njit(cache=True)
def snoozed_cells(scores, label, ahead, kept, lengths, owner, owners, thresholds, snooze):
    """(K, P, 4) cells of each owner of stays, and (K, N) whether each stay has a true alarm.

    Args:
        scores: (R,) stay after stay.
        label: (R,) bool.
        ahead: (R,) whether an alarm would be true.
        kept: (R,) whether a score was issued.
        lengths: (N,) hours of each stay.
        owner: (N,) whose cells a stay's judgements are counted in.
        owners: number P of them.
        thresholds: (K,) of the alarm.
        snooze: hours of silence after one.
    """
    cells = np.zeros((thresholds.shape[0], owners, 4), np.int64)
    found = np.zeros((thresholds.shape[0], lengths.shape[0]), np.bool_)
    for k in range(thresholds.shape[0]):
        threshold = thresholds[k]
        begin = 0
        for i in range(lengths.shape[0]):
            wait, mine = 0, cells[k, owner[i]]
            for r in range(begin, begin + lengths[i]):
                if wait > 0:
                    wait -= 1
                elif kept[r]:
                    if scores[r] >= threshold:
                        if ahead[r]:
                            mine[TP] += 1
                            found[k, i] = True
                        else:
                            mine[FP] += 1
                        wait = snooze
                    elif label[r] > 0:
                        mine[FN] += 1
                    else:
                        mine[TN] += 1
            begin += lengths[i]
    return cells, found


@njit(cache=True)
def ranking(last_of_tie, label, cluster, weights):
    """(B, 2) AUROC and average precision of rows in descending order of score.

    Args:
        last_of_tie: (R,) whether the next row has a lower score.
        label: (R,) 0 or 1.
        cluster: (R,) number of the cluster of each row.
        weights: (B, n) how often each cluster counts.
    """
    out = np.empty((weights.shape[0], 2))
    for b in range(weights.shape[0]):
        above = below = area = precision = 0.0
        tied_positive = tied_negative = 0.0
        for r in range(label.shape[0]):
            w = weights[b, cluster[r]]
            if label[r] > 0:
                tied_positive += w
            else:
                tied_negative += w
            if last_of_tie[r]:
                area += tied_negative * (above + 0.5 * tied_positive)
                above += tied_positive
                below += tied_negative
                if above > 0:
                    precision += tied_positive * above / (above + below)
                tied_positive = tied_negative = 0.0
        if above > 0 and below > 0:
            out[b, 0] = area / (above * below)
            out[b, 1] = precision / above
        else:
            out[b, 0] = out[b, 1] = np.nan
    return out


@njit(cache=True)
def _add(tree, place, value):
    """Adds to an entry of a Fenwick tree."""
    at = place + 1
    while at < tree.shape[0]:
        tree[at] += value
        at += at & -at


@njit(cache=True)
def _sum(tree, size):
    """Sum of the first ``size`` entries of a Fenwick tree."""
    total = 0.0
    while size > 0:
        total += tree[size]
        size -= size & -size
    return total


@njit(cache=True)
def concordant(last_of_tie, place, event, cluster, times, weights):
    """(B,) share of comparable pairs that are in order; NaN where none is comparable.

    Args:
        last_of_tie: (R,) whether the next row has a lower risk; rows in descending order of it.
        place: (R,) number of each row's time among the distinct ones, ascending.
        event: (R,) whether the onset was seen then.
        cluster: (R,) number of the cluster of each row.
        times: number of distinct times.
        weights: (B, n) how often each cluster counts.
    """
    out = np.empty(weights.shape[0])
    every, above, tied = np.empty(times + 1), np.empty(times + 1), np.empty(times + 1)
    for b in range(weights.shape[0]):
        every[:], above[:], tied[:] = 0.0, 0.0, 0.0
        for r in range(place.shape[0]):
            if event[r]:
                _add(every, place[r], weights[b, cluster[r]])
        pairs = right = 0.0
        begin = 0
        for r in range(place.shape[0]):
            if event[r]:
                _add(tied, place[r], weights[b, cluster[r]])
            if not last_of_tie[r]:
                continue
            for i in range(begin, r + 1):
                # Onsets before this row's time; as long where it was censored.
                earlier = place[i] if event[i] else place[i] + 1
                w = weights[b, cluster[i]]
                pairs += w * _sum(every, earlier)
                right += w * (_sum(above, earlier) + 0.5 * _sum(tied, earlier))
            for i in range(begin, r + 1):
                if event[i]:
                    _add(above, place[i], weights[b, cluster[i]])
                    _add(tied, place[i], -weights[b, cluster[i]])
            begin = r + 1
        out[b] = right / pairs if pairs > 0 else np.nan
    return out
