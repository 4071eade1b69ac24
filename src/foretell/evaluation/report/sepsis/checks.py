"""Does it read the clock, and does it travel: the two checks that every report prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretell.evaluation.clinical.per_hospital import EVERYWHERE
from foretell.evaluation.report.words import MISSING, fixed, listing

Record = Mapping[str, Any]

NOT_THERE = "this run is older than the check"

STAND_IN = (
    "Both checks train boosted trees on the patients that the deployed model learned from, and "
    "judge them on the same patients as everything here. They say what these records teach, how "
    "much of it is the clock, and what of it holds elsewhere; they are not figures of the deployed "
    "model."
)


def checks_section(found: Record | None) -> dict[str, Any]:
    """What the page shows of the checks; a check that was not made says why."""
    told = found or {}
    missing = {"performed": False, "reason": NOT_THERE}
    return {
        "words": STAND_IN,
        "blind": _blind(told.get("time_blind", missing)),
        "away": _away(told.get("leave_hospital_out", missing)),
    }


def checks_warning(found: Record | None) -> str:
    """A sentence for the head of the page; nothing where all is well or nothing was checked."""
    told, bad = found or {}, []
    blind = told.get("time_blind") or {}
    short = [r["hospital"] for r in _hospitals(blind) if r["reached"] is False]
    if short:
        bad.append(f"without the clock too little is left at {listing(short)}")
    away = (told.get("leave_hospital_out") or {}).get("rows") or ()
    worse = [r["judged_at"] for r in away if r["beats_clock"] is False]
    if worse:
        bad.append(f"trees from elsewhere are no better than a clock at {listing(worse)}")
    return f"Look at the two checks below: {'; '.join(bad)}." if bad else ""


def _blind(found: Record) -> dict[str, Any]:
    if not found["performed"]:
        return {"reason": found["reason"]}
    bar, rows = f"{found['bar']:g}", []
    for row in found["rows"]:
        reached = row["reached"]
        rows.append({
            "hospital": row["hospital"], "hour": fixed(row["hour_auroc"], 3),
            "auroc": fixed(row["auroc"], 3),
            "blind": _around(row["blind_auroc"], row["blind_lower"], row["blind_upper"]),
            # The bar is asked of hospitals: together they also tell which hospital it is.
            "verdict": "" if row["hospital"] == EVERYWHERE
            else "cannot be told" if reached is None
            else f"reaches {bar}" if reached else "mostly reads the clock",
            "bad": reached is False and row["hospital"] != EVERYWHERE,
            "clock": fixed(row["clock"], 3), "utility": fixed(row["utility"], 3),
            "blind_utility": fixed(row["blind_utility"], 3),
        })  # fmt: skip
    judged = [r["reached"] for r in _hospitals(found) if r["reached"] is not None]
    good = sum(judged)
    return {
        "reason": "", "bar": bar, "rows": rows, "horizon": f"{found['horizon']:g}",
        "clock_hour": f"{found['clock_hour']:g}",
        "verdict": (
            f"The bar of {bar} is reached at {good} of {len(judged)} hospitals"
            + (". " if judged else " that can be judged.")
            + ("" if not judged
               else "Patients' values carry the score without the clock, too."
               if good == len(judged)
               else "Elsewhere the trees mostly read the clock: their scores say how long somebody "
               "has been there, rather than how ill.")
        ),
    }  # fmt: skip


def _away(found: Record) -> dict[str, Any]:
    if not found["performed"]:
        return {"reason": found["reason"]}
    rows = []
    for row in found["rows"]:
        verdict, bad = _travels(row)
        rows.append({
            "here": listing(row["trained_at"]), "there": row["judged_at"],
            "auroc": fixed(row["auroc"], 3),
            "known_auroc": fixed(row.get("known_auroc"), 3),
            "utility": fixed(row["utility"], 3),
            "known_utility": fixed(row.get("known_utility"), 3), "clock": fixed(row["clock"], 3),
            "margin": _around(
                row["margin"], row["margin_lower"], row["margin_upper"], sign=True
            ),
            "verdict": verdict, "bad": bad,
        })  # fmt: skip
    judged = [r["beats_clock"] for r in found["rows"] if r["beats_clock"] is not None]
    sure = sum(_travels(r)[0] == _BEATS for r in found["rows"])
    return {
        "reason": "", "rows": rows, "horizon": f"{found['horizon']:g}",
        "clock_hour": f"{found['clock_hour']:g}",
        "verdict": "Judged at hospitals that they had not seen, the trees did better than the "
        f"clock at {sum(judged)} of {len(judged)}, and surely so (95%) at {sure}.",
    }  # fmt: skip


_BEATS = "beats the clock"


def _travels(row: Record) -> tuple[str, bool]:
    """What is said of a hospital that was left out, and whether it is a warning."""
    if row["margin"] is None:
        return "cannot be told", False
    low, high = row["margin_lower"], row["margin_upper"]
    if row["margin"] <= 0:
        surely = high is not None and high < 0
        return "worse than a clock" if surely else "no better than a clock", True
    if low is None or low <= 0:
        return "not surely better than a clock", False
    return _BEATS, False


def _hospitals(found: Record) -> Sequence[Record]:
    return [r for r in found.get("rows") or () if r["hospital"] != EVERYWHERE]


def _around(value: Any, low: Any, high: Any, sign: bool = False) -> str:
    if value is None or low is None or high is None:
        return fixed(value, 3, sign=sign) if value is not None else MISSING
    return f"{fixed(value, 3, sign=sign)} ({fixed(low, 3)} to {fixed(high, 3)})"
