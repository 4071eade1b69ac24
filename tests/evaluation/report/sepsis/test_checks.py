"""What the page says of the two checks, good and bad."""

from __future__ import annotations

import copy

import pytest

from foretell.evaluation.clinical import EVERYWHERE
from foretell.evaluation.report.sepsis.checks import checks_section, checks_warning

FOUND = {
    "time_blind": {
        "performed": True, "horizon": 4.0, "clock_hour": 48, "bar": 0.72,
        "rows": [
            {"hospital": name, "hour_auroc": 0.62, "auroc": 0.82, "blind_auroc": blind,
             "blind_lower": blind - 0.02, "blind_upper": blind + 0.02, "clock": 0.3,
             "utility": 0.41, "blind_utility": 0.35, "reached": blind >= 0.72}
            for name, blind in (("A", 0.794), ("B", 0.824), (EVERYWHERE, 0.81))
        ],
    },
    "leave_hospital_out": {
        "performed": True, "horizon": 4.0, "clock_hour": 48, "bar": 0.72,
        "rows": [
            {"trained_at": [here], "judged_at": there, "auroc": 0.8, "auroc_lower": 0.78,
             "auroc_upper": 0.82, "utility": 0.33, "utility_lower": 0.28, "utility_upper": 0.37,
             "clock": 0.24, "margin": 0.09, "margin_lower": 0.04, "margin_upper": 0.13,
             "beats_clock": True, "known_auroc": 0.85, "known_utility": 0.4}
            for here, there in (("A", "B"), ("B", "A"))
        ],
    },
}  # fmt: skip


def test_what_is_well_is_told_in_figures():
    shown = checks_section(FOUND)
    first = shown["blind"]["rows"][0]
    assert (first["hour"], first["blind"]) == ("0.620", "0.794 (0.774 to 0.814)")
    assert first["verdict"] == "reaches 0.72" and not first["bad"]
    assert shown["blind"]["rows"][-1]["verdict"] == "", "the bar is asked of hospitals"
    assert "reached at 2 of 2 hospitals" in shown["blind"]["verdict"]
    away = shown["away"]["rows"][0]
    assert (away["here"], away["there"], away["verdict"]) == ("A", "B", "beats the clock")
    assert away["margin"] == "+0.090 (0.040 to 0.130)"
    assert checks_warning(FOUND) == ""


def test_a_model_of_the_clock_is_named():
    found = copy.deepcopy(FOUND)
    found["time_blind"]["rows"][0] |= {"blind_auroc": 0.61, "reached": False}
    shown = checks_section(found)["blind"]
    assert shown["rows"][0]["verdict"] == "mostly reads the clock" and shown["rows"][0]["bad"]
    assert "reached at 1 of 2 hospitals" in shown["verdict"] and "mostly read" in shown["verdict"]
    assert "too little is left at A" in checks_warning(found)


def test_nobody_is_accused_where_nothing_can_be_judged():
    found = copy.deepcopy(FOUND)
    for row in found["time_blind"]["rows"]:
        row |= {"blind_auroc": None, "blind_lower": None, "blind_upper": None, "reached": None}
    shown = checks_section(found)["blind"]
    assert {row["verdict"] for row in shown["rows"][:2]} == {"cannot be told"}
    assert shown["verdict"] == "The bar of 0.72 is reached at 0 of 0 hospitals that can be judged."
    assert checks_warning(found) == ""


@pytest.mark.parametrize(
    ("margin", "around", "verdict", "warned"),
    [
        (-0.05, (-0.1, -0.01), "worse than a clock", True),
        (-0.01, (-0.07, 0.05), "no better than a clock", True),
        (0.0, (-0.1, 0.1), "no better than a clock", True),
        (0.012, (-0.02, 0.04), "not surely better than a clock", False),
        (None, (None, None), "cannot be told", False),
    ],
)
def test_what_does_not_travel_is_named(margin, around, verdict, warned):
    found = copy.deepcopy(FOUND)
    beats = None if margin is None else margin > 0
    found["leave_hospital_out"]["rows"][1] |= {
        "margin": margin, "margin_lower": around[0], "margin_upper": around[1],
        "beats_clock": beats,
    }  # fmt: skip
    shown = checks_section(found)["away"]
    row = shown["rows"][1]
    assert row["verdict"] == verdict and row["bad"] is warned
    assert ("no better than a clock at A" in checks_warning(found)) is warned
    judged, better = (1, 1) if margin is None else (2, 1 + (margin > 0))
    assert f"at {better} of {judged}, and surely so (95%) at 1" in shown["verdict"]


def test_a_check_that_was_not_made_says_why():
    found = {**FOUND, "leave_hospital_out": {"performed": False, "reason": "there is one hospital"}}
    assert checks_section(found)["away"] == {"reason": "there is one hospital"}
    for name in ("blind", "away"):
        assert "older than the check" in checks_section(None)[name]["reason"]
    assert checks_warning(None) == ""
