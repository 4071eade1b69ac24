"""The page about early warning: what drove an alarm in words, and its course."""

from __future__ import annotations

import pytest

from foretell.evaluation.report.sepsis.content import _driver_value
from foretell.evaluation.report.sepsis.figures import trajectory


@pytest.mark.parametrize(
    ("words", "value", "unit", "wanted"),
    [
        ("whether chloride was never measured", 1.0, None, ("yes", "")),
        ("whether chloride was never measured", 0.0, None, ("no", "")),
        ("unit: MICU", 1.0, None, ("yes", "")),
        ("hours since calcium was measured", None, "h", ("never", "")),
        ("hours since calcium was measured", 3.0, "h", ("3", "h")),
        ("heart rate", 101.0, "/min", ("101", "/min")),
        ("heart rate", None, "/min", ("–", "/min")),
    ],
)
def test_a_driver_reads_as_words(words, value, unit, wanted):
    shown = _driver_value({"words": words, "value": value, "unit": unit})
    assert (shown["value"], shown["unit"]) == wanted


@pytest.mark.parametrize(
    ("scores", "alone"),
    [
        ([0.1, None, 0.3, None, 0.2, 0.2], [1, 3]),
        ([0.1, 0.2, None, 0.2, 0.3], []),
        ([None, None, 0.4], [3]),
    ],
)
def test_a_score_between_hours_without_one_is_a_dot(scores, alone):
    example = {
        "hours": list(range(1, len(scores) + 1)),
        "score": scores,
        "alarms": [],
        "onset": None,
    }
    drawn = trajectory(example, 0.15)["data"]
    dots = [t["x"] for t in drawn if t["name"] == "score" and t["mode"] == "markers"]
    assert [x for xs in dots for x in xs] == alone
