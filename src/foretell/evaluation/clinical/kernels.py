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
def snoozed_cells(scores, label, ahead, kept, lengths, thresholds, snooze):
    """(K, 4) cells at each threshold, and (K, N) whether each stay has a true alarm."""
    cells = np.zeros((thresholds.shape[0], 4), np.int64)
    found = np.zeros((thresholds.shape[0], lengths.shape[0]), np.bool_)
    for k in range(thresholds.shape[0]):
        threshold = thresholds[k]
        begin = 0
        for i in range(lengths.shape[0]):
            wait = 0
            for r in range(begin, begin + lengths[i]):
                if wait > 0:
                    wait -= 1
                elif kept[r]:
                    if scores[r] >= threshold:
                        if ahead[r]:
                            cells[k, TP] += 1
                            found[k, i] = True
                        else:
                            cells[k, FP] += 1
                        wait = snooze
                    elif label[r] > 0:
                        cells[k, FN] += 1
                    else:
                        cells[k, TN] += 1
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
