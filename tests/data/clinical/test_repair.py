from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import Schema
from foretell.data.clinical.repair import UnitRepair, Verdict
from foretell.errors import DataError

SCHEMA = Schema.default().channels("p19")


@pytest.fixture(scope="module")
def hospitals(data_root):
    if not (data_root / "physionet2019_sepsis").is_dir():
        pytest.skip("real data: 'physionet2019_sepsis' is not among the data sets here")
    from foretell.data.public import physionet2019

    return physionet2019(data_root / "physionet2019_sepsis").by("hospital")


def test_an_emergency_is_not_a_unit():
    repair = UnitRepair(SCHEMA, {"Glucose": 120.0, "Creatinine": 1.0})
    for name, value in (("Glucose", 18.0), ("Creatinine", 30.0), ("Lactate", 27.0), ("SBP", 32.0)):
        found = repair.values(name, [value])
        assert found.values[0] == value and found.verdict[0] == Verdict.UNUSUAL


def test_the_impossible_is_explained_by_one_unit_or_invalid():
    repair = UnitRepair(SCHEMA)
    found = repair.values("Temp", [98.6, 37.0, 310.15, 60.0, np.nan])
    np.testing.assert_allclose(found.values, [37.0, 37.0, 37.0, np.nan, np.nan], atol=1e-6)
    np.testing.assert_array_equal(
        found.verdict,
        [Verdict.REPAIRED, Verdict.KEPT, Verdict.REPAIRED, Verdict.INVALID, Verdict.MISSING],
    )
    found = repair.values("FiO2", [40.0, 0.4, 4000.0, -50.0])
    np.testing.assert_allclose(found.values, [0.4, 0.4, np.nan, np.nan])
    # 17 is a hemoglobin in g/L, mmol/L and g/dL: possible as it stands, so it stays.
    assert repair.values("Hgb", [17.0]).values[0] == 17.0


def test_a_stated_unit_is_taken_at_its_word():
    repair = UnitRepair(SCHEMA)
    found = repair.values("Glucose", [5.0, 500.0], unit="mmol/L")
    np.testing.assert_allclose(found.values[0], 5.0 * SCHEMA["Glucose"].units["mmol/L"].factor)
    assert found.verdict.tolist() == [Verdict.KEPT, Verdict.INVALID]
    with pytest.raises(DataError, match="not known for Glucose"):
        repair.values("Glucose", [5.0], unit="furlong")


def test_a_source_is_judged_as_a_whole():
    rng = np.random.default_rng(0)
    repair = UnitRepair(SCHEMA, {"Lactate": 1.7})
    lactate = rng.lognormal(np.log(1.9), 0.5, 300)
    factor = SCHEMA["Lactate"].units["mg/dL"].factor
    assert repair.unit_of("Lactate", lactate) is None
    assert repair.unit_of("Lactate", lactate / factor) == "mg/dL"
    assert repair.unit_of("Lactate", lactate[:5] / factor) is None
    learned = repair.learn("Lactate", lactate / factor, source="laboratory")
    found = learned.values("Lactate", lactate / factor, source="laboratory")
    np.testing.assert_allclose(found.values, lactate, rtol=1e-9)
    assert (found.verdict == Verdict.REPAIRED).all()
    other = learned.values("Lactate", [3.0], source="elsewhere")
    assert other.verdict[0] == Verdict.KEPT
    again = learned.learn("Lactate", lactate, source="laboratory")
    assert again.values("Lactate", [3.0], source="laboratory").values[0] == 3.0


@pytest.mark.real_data
def test_nothing_is_converted_where_units_are_right(hospitals):
    repair = UnitRepair.fit(hospitals["A"])
    same, table = repair.stays(hospitals["A"], by="hospital")
    assert table["repaired"].sum() == 0
    for name in SCHEMA.names:
        before, after = hospitals["A"].column(name), same.column(name)
        lost = np.isnan(after) & ~np.isnan(before)
        assert not SCHEMA[name].is_possible(before[lost]).any()
        np.testing.assert_array_equal(after[~lost], before[~lost])
    other, table = repair.stays(hospitals["B"], by="hospital")
    fio2 = other.column("FiO2")
    assert np.nanmin(fio2) >= 0.15 and np.nanmax(fio2) <= 1.0
    assert table.filter(channel="FiO2")["invalid"].item() > 50
    assert table["unit"].null_count() == len(table)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "unit"),
    [("Temp", "[degF]"), ("Creatinine", "umol/L"), ("Glucose", "mmol/L"), ("Lactate", "mg/dL")],
)
def test_a_changed_unit_is_restored(hospitals, name, unit):
    repair = UnitRepair.fit(hospitals["A"])
    stays = hospitals["A"].select(slice(0, 4000))
    how = SCHEMA[name].units[unit]
    clean = np.array(stays.column(name))
    sent = {**{k: stays.column(k) for k in SCHEMA.names}, name: (clean - how.offset) / how.factor}
    stays = replace(stays, begins=stays.offsets[:-1], channels=sent, label=stays.labels())
    back, table = repair.stays(stays)
    assert table.filter(channel=name)["unit"].item() == unit
    there = ~np.isnan(clean)
    near = np.abs(back.column(name)[there] / clean[there] - 1) < 0.01
    assert near.mean() >= 0.99
    assert table.filter(pl.col("channel") != name)["repaired"].sum() == 0
