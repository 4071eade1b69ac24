"""Early-warning scores of the bedside: NEWS2, SIRS and qSOFA, with their missing values said.

- NEWS2: Royal College of Physicians, National Early Warning Score (NEWS) 2, London 2017, chart 1.
- SIRS: Bone et al., Definitions for Sepsis and Organ Failure, Chest 101(6), 1992.
- qSOFA: Seymour et al., Assessment of Clinical Criteria for Sepsis, JAMA 315(8), 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ParameterError

Missing = Literal["normal", "nan", "worst"]


class EarlyWarning(NamedTuple):
    """A score (...) and what it rests on.

    Args:
        points: the score; what is missing counts as the policy says.
        lower: the least it can be, whatever the components are that are not known.
        upper: the most it can be, whatever they are.
        known: number of components that are known.
        positive: whether the score asks for action (NEWS2: 5 or more, or 3 in one component;
            SIRS and qSOFA: 2 or more); False where ``points`` is NaN.
    """

    points: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    known: NDArray[np.int64]
    positive: NDArray[np.bool_]


def news2(
    values: Mapping[str, ArrayLike],
    *,
    hypercapnic: ArrayLike = False,
    missing: Missing = "normal",
) -> EarlyWarning:
    """The National Early Warning Score 2, 0 to 20.

    Charts have whole numbers, and tenths of a degree: values are rounded half up to them before
    they are looked up.

    Args:
        values: some of ``Resp`` (/min), ``O2Sat`` (%), ``oxygen`` (1 = supplemental; else from
            ``FiO2`` > 0.21), ``SBP`` (mmHg), ``HR`` (/min), ``alert`` (1 = alert, 0 = confusion,
            voice, pain or unresponsive; else from ``GCS`` = 15) and ``Temp`` (°C); NaN or absent
            where not known.
        hypercapnic: whether the second saturation scale (target 88 to 92 %) is used, which only
            a clinician decides.
        missing: ``"normal"``: a component that is not known counts 0, as retrospective studies
            do; ``"worst"``: its most; ``"nan"``: then there is no score.
    """
    given = _values(
        values, ("Resp", "O2Sat", "oxygen", "FiO2", "SBP", "HR", "alert", "GCS", "Temp")
    )
    breaths, saturation, pressure, pulse = (
        _rounded(given[n]) for n in ("Resp", "O2Sat", "SBP", "HR")
    )
    # Tenths as whole numbers: 38.05 is 38.1, whatever its binary fraction.
    tenths = _rounded(10 * given["Temp"])
    oxygen = np.where(
        np.isnan(given["oxygen"]), _where(given["FiO2"], given["FiO2"] > 0.215), given["oxygen"]
    )
    alert = np.where(
        np.isnan(given["alert"]), _where(given["GCS"], given["GCS"] >= 15), given["alert"]
    )
    scale_1 = _table(saturation, (91, 3), (93, 2), (95, 1), (np.inf, 0))
    on_air = _table(saturation, (83, 3), (85, 2), (87, 1), (np.inf, 0))
    on_oxygen = _table(
        saturation, (83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (np.inf, 3)
    )
    scale_2 = np.where(oxygen > 0, on_oxygen, on_air)
    points = [
        _table(breaths, (8, 3), (11, 1), (20, 0), (24, 2), (np.inf, 3)),
        np.where(np.asarray(hypercapnic, bool), scale_2, scale_1),
        _where(oxygen, oxygen > 0) * 2,
        _table(pressure, (90, 3), (100, 2), (110, 1), (219, 0), (np.inf, 3)),
        _table(pulse, (40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (np.inf, 3)),
        _where(alert, alert < 1) * 3,
        _table(tenths, (350, 3), (360, 1), (380, 0), (390, 1), (np.inf, 2)),
    ]
    parts = np.stack(np.broadcast_arrays(*points))
    score = _summed(parts, np.array([3, 3, 2, 3, 3, 3, 3]), missing)
    red = (np.nan_to_num(parts, nan=0.0) == 3).any(axis=0)
    return score._replace(positive=~np.isnan(score.points) & ((score.points >= 5) | red))


def sirs(values: Mapping[str, ArrayLike], *, missing: Missing = "normal") -> EarlyWarning:
    """Criteria of the systemic inflammatory response, 0 to 4; two or more are positive.

    Args:
        values: some of ``Temp`` (> 38 or < 36 °C), ``HR`` (> 90 /min), ``Resp`` (> 20 /min) or
            ``PaCO2`` (< 32 mmHg), ``WBC`` (> 12 or < 4 10*3/uL) or ``bands`` (> 10 %); NaN or
            absent where not known. Either of a pair meets its criterion; one that is not known
            leaves it to the other.
        missing: see :func:`news2`.
    """
    given = _values(values, ("Temp", "HR", "Resp", "PaCO2", "WBC", "bands"))
    temperature, white = given["Temp"], given["WBC"]
    points = [
        _where(temperature, (temperature > 38) | (temperature < 36)),
        _where(given["HR"], given["HR"] > 90),
        np.fmax(
            _where(given["Resp"], given["Resp"] > 20), _where(given["PaCO2"], given["PaCO2"] < 32)
        ),
        np.fmax(
            _where(white, (white > 12) | (white < 4)), _where(given["bands"], given["bands"] > 10)
        ),
    ]
    score = _summed(np.stack(np.broadcast_arrays(*points)), np.ones(4), missing)
    return score._replace(positive=score.points >= 2)


def qsofa(values: Mapping[str, ArrayLike], *, missing: Missing = "normal") -> EarlyWarning:
    """Quick SOFA, 0 to 3; two or more are positive.

    Args:
        values: some of ``Resp`` (>= 22 /min), ``SBP`` (<= 100 mmHg) and ``GCS`` (< 15) or
            ``alert`` (0); NaN or absent where not known.
        missing: see :func:`news2`.
    """
    given = _values(values, ("Resp", "SBP", "GCS", "alert"))
    altered = np.fmax(
        _where(given["GCS"], given["GCS"] < 15), _where(given["alert"], given["alert"] < 1)
    )
    points = [
        _where(given["Resp"], given["Resp"] >= 22),
        _where(given["SBP"], given["SBP"] <= 100),
        altered,
    ]
    score = _summed(np.stack(np.broadcast_arrays(*points)), np.ones(3), missing)
    return score._replace(positive=score.points >= 2)


SCORES: dict[str, Callable[..., EarlyWarning]] = {"news2": news2, "sirs": sirs, "qsofa": qsofa}
"""The scores by name."""


def _values(
    values: Mapping[str, ArrayLike], names: tuple[str, ...]
) -> dict[str, NDArray[np.float64]]:
    """The named values as float64 of one shape; float32 keeps its decimal meaning."""
    arrays = {}
    for name in names:
        value = np.asarray(values.get(name, np.nan))
        if value.dtype == np.float32:
            # 38.3 in float32 is 38.299999; to 5 decimals it is 38.3 again.
            value = np.round(value.astype(np.float64), 4)
        arrays[name] = value.astype(np.float64)
    shape = np.broadcast_shapes(*(a.shape for a in arrays.values()))
    return {name: np.broadcast_to(a, shape) for name, a in arrays.items()}


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # A hair above the half absorbs binary fractions such as 10 * 36.05 = 360.4999...
    return np.floor(values + 0.5 + 1e-6)


def _where(value: NDArray, condition: NDArray) -> NDArray[np.float64]:
    """The condition as 0 or 1, NaN where the value is not known."""
    return np.where(np.isnan(value), np.nan, np.asarray(condition, np.float64))


def _table(values: NDArray[np.float64], *rows: tuple[float, int]) -> NDArray[np.float64]:
    """Points by the first row whose upper end holds the value; NaN stays NaN."""
    ends = np.array([end for end, _ in rows])
    points = np.array([p for _, p in rows], np.float64)
    place = np.minimum(np.searchsorted(ends, values, side="left"), len(rows) - 1)
    return np.where(np.isnan(values), np.nan, points[place])


def _summed(parts: NDArray[np.float64], most: NDArray, missing: Missing) -> EarlyWarning:
    if missing not in ("normal", "nan", "worst"):
        raise ParameterError(f"missing must be 'normal', 'nan' or 'worst', not {missing!r}")
    unknown = np.isnan(parts)
    lower = np.where(unknown, 0.0, parts).sum(axis=0)
    top = np.asarray(most, np.float64).reshape(-1, *[1] * (parts.ndim - 1))
    upper = np.where(unknown, top, parts).sum(axis=0)
    points = {"normal": lower, "worst": upper}.get(missing, parts.sum(axis=0))
    known = (~unknown).sum(axis=0)
    return EarlyWarning(points, lower, upper, known, np.zeros(np.shape(points), bool))
