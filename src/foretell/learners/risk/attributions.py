"""What drove the risk of an hour: gradients and Shapley values, by feature and in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.errors import ParameterError

Method = Literal["integrated_gradients", "gradient_x_input"]
METHODS: tuple[Method, ...] = ("integrated_gradients", "gradient_x_input")


def gradient_contributions(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    baseline: Tensor,
    *,
    method: Method = "integrated_gradients",
    steps: int = 32,
) -> Tensor:
    """Contribution of every input to a function's value, of ``x``'s shape ``(B, ...)``.

    Integrated gradients (Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML
    2017, equation 1) add up to ``function(x) - function(baseline)``; gradient times input is their
    cheap approximation at one point.

    Args:
        function: ``(B, ...)`` to ``(B,)``, each value of its own row only.
        x: what is explained.
        baseline: what contributes nothing; broadcast to ``x``.
        method: one of the two.
        steps: points of the midpoint rule.

    Raises:
        ParameterError: there is no such method, or no step.
    """
    if method not in METHODS:
        raise ParameterError(f"method must be one of {METHODS}, not {method!r}")
    if steps < 1:
        raise ParameterError(f"steps must be at least 1, not {steps}")
    gap = x - baseline
    points = [1.0] if method == "gradient_x_input" else [(k + 0.5) / steps for k in range(steps)]
    total = torch.zeros_like(x)
    for share in points:
        at = (baseline + share * gap).detach().requires_grad_(True)
        with torch.enable_grad():
            total += torch.autograd.grad(function(at).sum(), at)[0]
    return (gap * total / len(points)).detach()


def by_feature(contributions: ArrayLike, owners: NDArray[np.int64], size: int) -> NDArray:
    """(R, F) sums of the contributions (R, E) of the inputs that each feature became."""
    values = np.asarray(contributions, np.float64)
    sums = np.zeros((len(values), size))
    np.add.at(sums.T, owners, values.T)
    return sums


def last_rows(stays: Stays) -> NDArray[np.int64]:
    """(N,) number of the last row of each stay that has one."""
    return stays.offsets[1:][stays.lengths > 0] - 1


def row_numbers(rows: ArrayLike) -> NDArray[np.int64]:
    """Ascending numbers of the rows that a mask, or numbers, name."""
    given = np.asarray(rows)
    return np.flatnonzero(given) if given.dtype == bool else given.astype(np.int64)


_BLOCKS = {
    "last": "{}",
    "change": "change of {} since the measurement before",
    "since": "hours since {} was measured",
    "never": "whether {} was never measured",
    "mean": "mean {} of 72 hours",
    "min": "lowest {} of 6 hours",
    "max": "highest {} of 6 hours",
    "count": "measurements of {} in 8 hours",
    "mean_gap_24h": "{} against its mean of 24 hours",
    "spread_12h": "spread of {} over 12 hours",
    "slope_12h": "slope of {} over 12 hours",
    "above_lowest_24h": "{} above its lowest of 24 hours",
    "below_highest_24h": "{} below its highest of 24 hours",
}
_OTHERS = {
    "age": "age",
    "sex": "sex",
    "admission": "hours from hospital to unit admission",
    "hour": "hours in the unit",
    "shock_index": "shock index (heart rate / systolic pressure)",
    "bun_creatinine": "urea nitrogen / creatinine",
    "sofa": "partial SOFA",
    "coagulation": "SOFA points for coagulation",
    "liver": "SOFA points for the liver",
    "cardiovascular": "SOFA points for circulation",
    "renal": "SOFA points for the kidney",
    "news2": "NEWS2",
    "sirs": "SIRS criteria",
    "qsofa": "qSOFA",
    "pulse_pressure": "pulse pressure",
    "saturation_to_oxygen": "saturation / inspired oxygen",
    "age_shock_index": "age times shock index",
    "labs_now": "laboratory values of this hour",
    "labs_8h": "laboratory values of 8 hours",
    "vitals_8h": "vital signs charted in 8 hours",
    "labs_known": "laboratory values known at all",
    "hours_since_lab": "hours since any laboratory value",
}


def feature_words(name: str, schema: Schema) -> str:
    """A feature's name in words: ``"HR:min"`` is "lowest heart rate of 6 hours"."""
    subject, colon, block = name.partition(":")
    if not colon:
        if name.startswith("unit_"):
            return f"unit: {name[5:]}"
        return _OTHERS.get(name, name.replace("_", " "))
    variable = schema.find(subject)
    title = _OTHERS.get(subject, subject) if variable is None else variable.title
    if block.startswith("signature_"):
        return f"path of {title} over the last hours ({block[10:].replace('_', ', ')})"
    return _BLOCKS.get(block, "{} " + block).format(title)


def contribution_table(
    contributions: ArrayLike,
    values: ArrayLike,
    names: Sequence[str],
    schema: Schema,
    *,
    top: int = 10,
    rows: ArrayLike | None = None,
) -> pl.DataFrame:
    """The features that moved each hour's score most.

    Args:
        contributions: (R, F) by how much each feature moved the score, in its unit.
        values: (R, F) the features themselves, NaN where not known.
        names: (F,) of the features.
        schema: of the channels, for the words.
        top: features of an hour that are listed.
        rows: (R,) numbers of the hours, 0 to R - 1 by default.

    Returns:
        ``row``, ``rank`` (from 1), ``feature``, ``words``, ``value`` (null where not known),
        ``unit``, ``contribution``; the largest contributions, up or down, first.
    """
    moved, known = np.asarray(contributions, np.float64), np.asarray(values, np.float64)
    if moved.shape != known.shape or moved.ndim != 2 or moved.shape[1] != len(names):
        raise ParameterError(
            f"contributions {moved.shape} and values {known.shape} must have one column for each "
            f"of {len(names)} features"
        )
    top = min(top, len(names))
    order = np.argsort(-np.abs(moved), axis=1, kind="stable")[:, :top]
    numbers = np.arange(len(moved)) if rows is None else np.asarray(rows, np.int64)
    words = np.array([feature_words(n, schema) for n in names], object)
    units = np.array([_unit(n, schema) for n in names], object)
    flat = order.ravel()
    return pl.DataFrame(
        {
            "row": np.repeat(numbers, top),
            "rank": np.tile(np.arange(1, top + 1), len(moved)),
            "feature": np.array(names, object)[flat].tolist(),
            "words": words[flat].tolist(),
            "value": np.take_along_axis(known, order, axis=1).ravel(),
            "unit": units[flat].tolist(),
            "contribution": np.take_along_axis(moved, order, axis=1).ravel(),
        },
        schema_overrides={"feature": pl.String, "words": pl.String, "unit": pl.String},
    ).with_columns(pl.col("value").fill_nan(None))


def _unit(name: str, schema: Schema) -> str | None:
    """Of values that are measured in the channel's own unit."""
    subject, _, block = name.partition(":")
    variable = schema.find(subject)
    if variable is None or block in ("since", "never", "count") or "signature" in block:
        return "h" if block == "since" or name in ("hour", "admission", "hours_since_lab") else None
    return variable.unit
