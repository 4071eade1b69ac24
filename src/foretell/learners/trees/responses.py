"""The table of responses that leaves refer to by code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_CODES = 1024


@dataclass(frozen=True)
class ResponseTable:
    """Responses in ascending order and what stands for them in a leaf.

    Attributes:
        order: ``(n,)`` rows in ascending order of the response (ties by row).
        code: ``(n,)`` int32 code of each row **in that order**, ascending.
        values: ``(K,)`` float64 response of each code, ascending.
        atom: ``(K,)`` uint8, 1 where a code is one response that occurs in several rows.
        row_ids: ``(K,)`` int32 row of each code with exact leaves, else empty.
    """

    order: NDArray[np.int64]
    code: NDArray[np.int32]
    values: NDArray[np.float64]
    atom: NDArray[np.uint8]
    row_ids: NDArray[np.int32]


def exact_responses(y: NDArray[np.float64]) -> ResponseTable:
    """One code a row: leaves keep exact responses and row ids."""
    order = np.argsort(y, kind="stable")
    values = y[order]
    same = values[1:] == values[:-1]
    atom = np.zeros(len(y), dtype=np.uint8)
    atom[1:] |= same
    atom[:-1] |= same
    return ResponseTable(
        order, np.arange(len(y), dtype=np.int32), values, atom, order.astype(np.int32)
    )


def coded_responses(
    y: NDArray[np.float64], weight: NDArray[np.float64], n_codes: int = N_CODES
) -> ResponseTable:
    """Codes on about ``n_codes`` global weighted-quantile bins of the response.

    Up to ``n_codes`` distinct responses (counts, say) are kept exactly. Otherwise a code stands for
    the weighted mean of its bin; the least and the greatest response and every response that alone
    weighs as much as a bin (zero sales, often) keep a code of their own, so that ends and atoms are
    exact.
    """
    order = np.argsort(y, kind="stable")
    ordered = y[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    distinct = ordered[starts]
    repeats = np.diff(np.append(starts, len(y)))
    of_row = np.repeat(np.arange(len(distinct)), repeats)
    if len(distinct) <= n_codes:
        atom = (repeats > 1).astype(np.uint8)
        return ResponseTable(
            order, of_row.astype(np.int32), distinct, atom, np.empty(0, dtype=np.int32)
        )
    weights = weight[order]
    mass = np.add.reduceat(weights, starts)
    cumulative = np.cumsum(mass) / mass.sum()
    bin_of = np.minimum((cumulative * n_codes * (1 - 1e-12)).astype(np.int64), n_codes - 1)
    alone = mass >= mass.sum() / n_codes
    alone[[0, -1]] = True
    opens = np.concatenate(([True], (bin_of[1:] != bin_of[:-1]) | alone[1:] | alone[:-1]))
    code_of = np.cumsum(opens) - 1
    first = np.flatnonzero(opens)
    values = np.add.reduceat(distinct * mass, first) / np.add.reduceat(mass, first)
    single = np.diff(np.append(first, len(distinct))) == 1
    values[single] = distinct[first[single]]
    values = np.maximum.accumulate(values)
    atom = (single & (repeats[first] > 1)).astype(np.uint8)
    return ResponseTable(
        order, code_of[of_row].astype(np.int32), values, atom, np.empty(0, dtype=np.int32)
    )
