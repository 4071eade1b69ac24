from __future__ import annotations

import json

import numpy as np
import pytest

from foretell.data.clinical import Schema
from foretell.decisions.abstention.quality import RULES, QualityMonitor, QualityStream
from foretell.errors import DataError, ParameterError

SCHEMA = Schema.default().channels("p19")
NAMES = SCHEMA.names


def judge(*hours, **options):
    """Names of the rules that speak, hour by hour."""
    stream = QualityMonitor(**options).stream()
    told = []
    for hour in hours:
        row = np.full(len(NAMES), np.nan)
        for name, value in hour.items():
            row[NAMES.index(name)] = value
        told.append(stream.push(row).reasons(0))
    return told


def test_each_rule_speaks_when_it_should():
    assert judge({}, {"HR": 80}, {}) == [["no_data"], [], []]
    assert judge({"SBP": 80, "DBP": 120}, {"SBP": 130}) == [["pressure_order"], []]
    assert judge({"SBP": 120, "DBP": 60, "MAP": 160}) == [["mean_pressure"]]
    assert judge({"HR": 80}, {"HR": 230}, {"HR": 235}) == [[], ["jump"], []]
    assert judge({"HR": 80}, {}, {}, {"HR": 230})[-1] == []
    assert judge({"HR": 80, "FiO2": 40.0}) == [["impossible_value"]]
    stuck = judge(*[{"O2Sat": 60}] * 7, {"O2Sat": 61})
    assert stuck == [[]] * 5 + [["stuck_sensor"]] * 2 + [[]]
    assert judge(*[{"O2Sat": 100}] * 12) == [[]] * 12
    assert judge({"O2Sat": 97, "SaO2": 60}) == [["saturation_gap"]]
    assert judge({"O2Sat": 97}, {"SaO2": 60}, {"SaO2": 60}) == [[], ["saturation_gap"], []]
    assert judge({"O2Sat": 97}, {}, {"SaO2": 60}, {"O2Sat": 80}) == [[]] * 4
    silent = judge({"HR": 80}, *[{"Lactate": 2.0}] * 13)
    assert silent == [[]] * 12 + [["no_vitals"]] * 2


def test_an_impossible_value_does_not_replace_the_last_one():
    told = judge({"SBP": 120, "DBP": 60}, {"SBP": 3.0}, {})
    assert told == [[], ["impossible_value"], []]


def test_what_blocks_is_a_choice():
    monitor = QualityMonitor(blocking=("jump",))
    stream = monitor.stream()
    row = np.full(len(NAMES), np.nan)
    assert not stream.push(row).invalid[0]
    with pytest.raises(ParameterError, match="unknown rule 'leap'"):
        QualityMonitor(blocking=("leap",))
    with pytest.raises(ParameterError, match="positive"):
        QualityMonitor(max_repeats={"HR": 0})
    with pytest.raises(ParameterError, match="max_silence"):
        QualityMonitor(max_silence=0)
    with pytest.raises(DataError, match="34 values"):
        stream.push([1.0])


@pytest.mark.real_data
def test_real_hours_pass_and_stream_as_in_tables(data_root):
    if not (data_root / "physionet2019_sepsis").is_dir():
        pytest.skip("real data: 'physionet2019_sepsis' is not among the data sets here")
    from foretell.data.public import physionet2019

    stays = physionet2019(data_root / "physionet2019_sepsis", hospitals=("A",))
    monitor = QualityMonitor()
    found = monitor.check(stays)
    shares = dict(found.to_polars().select("rule", "share").iter_rows())
    for rule in ("pressure_order", "stuck_sensor", "jump", "impossible_value",
                 "not_a_number"):  # fmt: skip
        assert shares[rule] < 0.002, rule
    assert shares["saturation_gap"] < 0.02
    # 5 % of first hours hold no measurement at all; there silence is right.
    assert shares["no_data"] < 0.05 and found.invalid.mean() < 0.05
    some = stays.select(slice(0, 40))
    rows, row = some.matrix(), 0
    for length in some.lengths:
        stream = monitor.stream()
        for _ in range(length):
            told = stream.push(rows[row])
            np.testing.assert_array_equal(told.flags[0], found.flags[row])
            stream = QualityStream(monitor, json.loads(json.dumps(stream.state())))
            row += 1
    assert set(RULES) == set(found.to_polars()["rule"])
    swapped = {k: stays.column(k) for k in NAMES}
    swapped["SBP"], swapped["DBP"] = swapped["DBP"], swapped["SBP"]
    from dataclasses import replace

    other = replace(stays, channels=swapped, begins=stays.offsets[:-1], label=stays.labels())
    both = np.isfinite(other.column("SBP")) & np.isfinite(other.column("DBP"))
    column = list(RULES).index("pressure_order")
    assert monitor.check(other).flags[both, column].mean() > 0.95
