from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical import stays_from_frame
from foretell.errors import ParameterError
from foretell.learners.risk import EarlyWarningScore, news2, qsofa, sirs

NORMAL = {"Resp": 16, "O2Sat": 97, "oxygen": 0, "SBP": 120, "HR": 70, "alert": 1, "Temp": 37.0}

# Royal College of Physicians 2017, chart 1, every band by both its ends.
CHART = [
    ("Resp", [(1, 3), (8, 3), (9, 1), (11, 1), (12, 0), (20, 0), (21, 2), (24, 2), (25, 3),
              (60, 3)]),
    ("O2Sat", [(70, 3), (91, 3), (92, 2), (93, 2), (94, 1), (95, 1), (96, 0), (100, 0)]),
    ("SBP", [(50, 3), (90, 3), (91, 2), (100, 2), (101, 1), (110, 1), (111, 0), (219, 0),
             (220, 3)]),
    ("HR", [(20, 3), (40, 3), (41, 1), (50, 1), (51, 0), (90, 0), (91, 1), (110, 1), (111, 2),
            (130, 2), (131, 3)]),
    ("Temp", [(30, 3), (35.0, 3), (35.1, 1), (36.0, 1), (36.1, 0), (38.0, 0), (38.1, 1), (39.0, 1),
              (39.1, 2), (42, 2)]),
    ("oxygen", [(0, 0), (1, 2)]),
    ("alert", [(1, 0), (0, 3)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "points"), [(n, v, p) for n, b in CHART for v, p in b])
def test_every_band_of_the_news2_chart(name, value, points):
    found = news2({**NORMAL, name: value})
    assert found.points == points and found.known == 7 and found.lower == found.upper == points
    assert found.positive == (points == 3), "three in one component asks for a look"
    single = news2({k: np.float32(v) for k, v in {**NORMAL, name: value}.items()})
    assert single.points == points, "float32 decimals mean what they say"


@pytest.mark.parametrize(
    ("saturation", "on_air", "on_oxygen"),
    [(83, 3, 3), (84, 2, 2), (85, 2, 2), (86, 1, 1), (87, 1, 1), (88, 0, 0), (92, 0, 0),
     (93, 0, 1), (94, 0, 1), (95, 0, 2), (96, 0, 2), (97, 0, 3), (100, 0, 3)],
)  # fmt: skip
def test_the_second_saturation_scale(saturation, on_air, on_oxygen):
    air = news2({**NORMAL, "O2Sat": saturation}, hypercapnic=True)
    oxygen = news2({**NORMAL, "O2Sat": saturation, "oxygen": 1}, hypercapnic=True)
    assert air.points == on_air and oxygen.points == on_oxygen + 2


def test_values_between_the_chart_lines_are_rounded_half_up():
    assert news2({**NORMAL, "Resp": 8.5}).points == 1 and news2({**NORMAL, "Resp": 8.4}).points == 3
    assert news2({**NORMAL, "HR": 90.5}).points == 1
    assert news2({**NORMAL, "Temp": 36.05}).points == 0
    assert news2({**NORMAL, "Temp": 38.04}).points == 0


def test_a_worked_patient():
    # 22 breaths 2, 93 % 2 on oxygen 2, 98 mmHg 2, pulse 115 2, new confusion 3, 38.6 degrees 1
    sick = {"Resp": 22, "O2Sat": 93, "FiO2": 0.4, "SBP": 98, "HR": 115, "GCS": 14, "Temp": 38.6}
    assert news2(sick).points == 14 and news2(sick).positive
    assert qsofa(sick).points == 3 and qsofa(sick).positive
    assert sirs({**sick, "WBC": 3.9}).points == 4


def test_missing_values_are_policy_not_chance():
    nothing = news2({})
    assert nothing.points == 0 and nothing.known == 0 and not nothing.positive
    assert (nothing.lower, nothing.upper) == (0, 20), "the score is 0 to 20"
    partly = {"Resp": 25, "O2Sat": np.nan, "HR": 100}
    assert news2(partly).points == 4 and news2(partly).known == 2
    assert news2(partly, missing="worst").points == 4 + 3 + 2 + 3 + 3 + 3
    assert np.isnan(news2(partly, missing="nan").points)
    assert not sirs(partly, missing="nan").positive
    assert (sirs({}).upper, qsofa({}).upper) == (4, 3)
    with pytest.raises(ParameterError, match="missing"):
        sirs({}, missing="mean")


@pytest.mark.parametrize(
    ("values", "points"),
    [
        ({"Temp": 38.0}, 0), ({"Temp": 38.1}, 1), ({"Temp": 36.0}, 0), ({"Temp": 35.9}, 1),
        ({"HR": 90}, 0), ({"HR": 91}, 1), ({"Resp": 20}, 0), ({"Resp": 21}, 1),
        ({"PaCO2": 32}, 0), ({"PaCO2": 31.9}, 1), ({"Resp": 16, "PaCO2": 30}, 1),
        ({"Resp": 25, "PaCO2": np.nan}, 1), ({"Resp": 25, "PaCO2": 30}, 1),
        ({"WBC": 12}, 0), ({"WBC": 12.1}, 1), ({"WBC": 4}, 0), ({"WBC": 3.9}, 1),
        ({"WBC": 8, "bands": 11}, 1), ({"bands": 10}, 0),
    ],
)  # fmt: skip
def test_sirs_criteria(values, points):
    assert sirs(values).points == points
    assert sirs({k: np.float32(v) for k, v in values.items()}).points == points


@pytest.mark.parametrize(
    ("values", "points"),
    [({"Resp": 22}, 1), ({"Resp": 21}, 0), ({"SBP": 100}, 1), ({"SBP": 101}, 0), ({"GCS": 14}, 1),
     ({"GCS": 15}, 0), ({"alert": 0}, 1), ({"GCS": 15, "alert": 0}, 1)],
)  # fmt: skip
def test_qsofa_criteria(values, points):
    assert qsofa(values).points == points


values = st.fixed_dictionaries(
    {
        name: st.one_of(st.just(np.nan), st.floats(0, 300))
        for name in "Resp O2Sat SBP HR Temp FiO2 GCS WBC PaCO2".split()
    }
)


@given(values, st.sampled_from([news2, sirs, qsofa]))
def test_bounds_hold_whatever_is_filled_in(given_values, score):
    found = score(given_values)
    assert found.lower <= found.points <= found.upper
    # A criterion that one of two values can meet is known when one of them is.
    spare = {"Resp": "PaCO2", "PaCO2": "Resp"} if score is sirs else {}
    filled = {
        k: 50.0 if np.isnan(v) and np.isnan(given_values.get(spare.get(k, ""), np.nan)) else v
        for k, v in given_values.items()
    }
    full = score(filled)
    assert found.lower <= full.points <= found.upper
    for missing in ("worst", "nan"):
        again = score(given_values, missing=missing)
        assert (again.lower, again.upper) == (found.lower, found.upper)


def test_scores_of_stays_carry_the_last_values():
    frame = pl.DataFrame({
        "id": ["x"] * 3 + ["y"],
        "hour": [1, 2, 3, 1],
        "HR": [115.0, None, 80.0, None],
        "Resp": [None, 26.0, None, None],
    })  # fmt: skip
    stays = stays_from_frame(frame)
    assert EarlyWarningScore("news2").fit(stays).predict(stays).tolist() == [2, 5, 3, 0]
    assert EarlyWarningScore("news2", carry=False).predict(stays).tolist() == [2, 3, 0, 0]
    assert EarlyWarningScore("sirs").evaluate(stays).positive.tolist() == [
        False,
        True,
        False,
        False,
    ]
    with pytest.raises(ParameterError, match="'mews'"):
        EarlyWarningScore("mews").predict(stays)
