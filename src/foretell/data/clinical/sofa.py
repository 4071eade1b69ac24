"""The SOFA score from measurements as they come, at the minute they come.

Vincent et al., The SOFA score to describe organ dysfunction/failure, Intensive Care Medicine 22,
1996, table 3: six organ systems, 0 to 4 points each.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.errors import DataError

COMPONENTS = (
    "respiration",
    "coagulation",
    "liver",
    "cardiovascular",
    "nervous",
    "renal",
)
INPUTS = (
    "PaO2", "FiO2", "ventilated", "Platelets", "Bilirubin_total", "MAP", "dopamine", "dobutamine",
    "epinephrine", "norepinephrine", "GCS", "Creatinine", "urine_24h",
)  # fmt: skip
"""What the score is made of: gases mmHg and fraction, platelets 10*3/uL, bilirubin and creatinine
mg/dL, MAP mmHg, vasopressors ug/kg/min, urine mL in 24 h."""
_FRACTION = "It is a fraction, such as 0.4: leave out what is none"


def sofa_components(values: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    """Points of each organ system; NaN where nothing that it needs is known.

    Args:
        values: some of :data:`INPUTS`, all of one shape (...); what is not known is NaN or absent.
            A vasopressor that is absent or NaN is not running; ``ventilated`` is 0 or 1 and 0
            where not known, so that 3 and 4 points for respiration need support, as published.

    Raises:
        DataError: an input is none of these, or a FiO2 is no fraction.
    """
    known = {k: np.asarray(v, np.float64) for k, v in values.items()}
    unknown = set(known) - set(INPUTS)
    if unknown:
        raise DataError(f"SOFA is not made of {sorted(unknown)}", hint=f"It takes {INPUTS}")
    shape = np.broadcast_shapes(*(v.shape for v in known.values())) if known else ()

    def given(name: str, missing: float = np.nan) -> NDArray[np.float64]:
        value = np.broadcast_to(known.get(name, np.array(np.nan)), shape)
        return np.where(np.isnan(value), missing, value)

    def steps(value: NDArray, *levels: NDArray) -> NDArray[np.float64]:
        points = np.sum([np.asarray(level, np.float64) for level in levels], axis=0)
        return np.where(np.isnan(value), np.nan, points)

    oxygen = given("FiO2")
    wrong = (oxygen <= 0) | (oxygen > 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"FiO2 is {oxygen.flat[row]:g}", column="FiO2", row=row, hint=_FRACTION)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = given("PaO2") / oxygen
    support = given("ventilated", 0) > 0
    platelets, bilirubin = given("Platelets"), given("Bilirubin_total")
    gcs, creatinine, urine = given("GCS"), given("Creatinine"), given("urine_24h")
    pressure = given("MAP")
    dopamine, dobutamine = given("dopamine", 0), given("dobutamine", 0)
    strong = np.maximum(given("epinephrine", 0), given("norepinephrine", 0))
    much = (dopamine > 15) | (strong > 0.1)
    some = (dopamine > 5) | (strong > 0)
    support_points = np.select([much, some, (dopamine > 0) | (dobutamine > 0)], [4.0, 3.0, 2.0], 0)
    low = np.where(np.isnan(pressure), np.nan, (pressure < 70).astype(np.float64))
    cardiovascular = np.where(support_points > 0, support_points, low)
    kidney = steps(
        creatinine, creatinine >= 1.2, creatinine >= 2.0, creatinine >= 3.5, creatinine >= 5.0
    )
    little = np.where(np.isnan(urine), np.nan, np.select([urine < 200, urine < 500], [4.0, 3.0], 0))
    return {
        "respiration": steps(
            ratio, ratio < 400, ratio < 300, (ratio < 200) & support, (ratio < 100) & support
        ),
        "coagulation": steps(
            platelets, platelets < 150, platelets < 100, platelets < 50, platelets < 20
        ),
        "liver": steps(
            bilirubin, bilirubin >= 1.2, bilirubin >= 2.0, bilirubin >= 6.0, bilirubin >= 12.0
        ),
        "cardiovascular": cardiovascular,
        "nervous": steps(gcs, gcs < 15, gcs < 13, gcs < 10, gcs < 6),
        "renal": np.fmax(kidney, little),
    }


def sofa_scores(measurements: pl.DataFrame, *, hold: float | None = 24.0) -> pl.DataFrame:
    """The total score at every time at which something it is made of becomes known.

    Args:
        measurements: columns ``id``, ``time`` (hours, fractions kept), ``channel`` (one of
            :data:`INPUTS`; others are ignored) and ``value``; what is no finite number is ignored.
        hold: hours for which a value counts until the next one; None for good. A vasopressor
            counts until it is charted as 0, at most as long.

    Returns:
        ``id``, ``time``, the six components (null where not known) and ``sofa``, their sum with
        what is not known counted as 0, as is usual.

    Raises:
        DataError: a column is missing, a value has no time, or a FiO2 is no fraction.
    """
    for column in ("id", "time", "channel", "value"):
        if column not in measurements.columns:
            raise DataError("a needed column is missing", column=column)
    long = (
        measurements.filter(pl.col("channel").is_in(INPUTS))
        .select(
            pl.col("id").cast(pl.String),
            pl.col("time").cast(pl.Float64, strict=False),
            "channel",
            pl.col("value").cast(pl.Float64, strict=False),
        )
        .filter(pl.col("value").is_finite())
    )
    timeless = ~long["time"].is_finite().fill_null(False)
    if timeless.any():
        row = int(timeless.arg_max() or 0)
        raise DataError("a time is missing or no number", column="time", series=long["id"][row])
    oxygen = long.filter(
        pl.col("channel") == "FiO2", ~pl.col("value").is_between(0, 1, closed="right")
    )
    if oxygen.height:
        series, value = oxygen["id"][0], oxygen["value"][0]
        raise DataError(f"FiO2 is {value:g}", column="value", series=series, hint=_FRACTION)
    wide = long.pivot(
        on="channel", index=["id", "time"], values="value", aggregate_function="median"
    ).sort("id", "time")
    present = [c for c in INPUTS if c in wide.columns]
    held = []
    for name in present:
        value = pl.col(name).forward_fill().over("id")
        if hold is not None:
            since = pl.col("time") - pl.when(pl.col(name).is_not_null()).then(
                "time"
            ).forward_fill().over("id")
            value = pl.when(since <= hold).then(value)
        held.append(value.alias(name))
    wide = wide.with_columns(held)
    points = sofa_components({name: wide[name].to_numpy() for name in present})
    if not present:
        points = {name: np.zeros(0) for name in COMPONENTS}
    frame = wide.select("id", "time").with_columns(
        pl.Series(name, values).fill_nan(None) for name, values in points.items()
    )
    total = pl.sum_horizontal(pl.col(c).fill_null(0) for c in COMPONENTS)
    return frame.with_columns(total.alias("sofa"))
