from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical import Schema, read_token
from foretell.errors import DataError, ParameterError

CHALLENGE = (
    "HR O2Sat Temp SBP MAP DBP Resp EtCO2 BaseExcess HCO3 FiO2 pH PaCO2 SaO2 AST BUN Alkalinephos "
    "Calcium Chloride Creatinine Bilirubin_direct Glucose Lactate Magnesium Phosphate Potassium "
    "Bilirubin_total TroponinI Hct Hgb PTT WBC Fibrinogen Platelets"
).split()


@pytest.fixture
def schema():
    return Schema.default()


def test_the_channels_are_those_of_the_challenge_in_its_order(schema):
    assert list(schema.channels("p19").names) == CHALLENGE
    assert list(schema.names[:34]) == CHALLENGE, "p19 comes first, so its numbering is stable"
    assert len(schema.channels("vitals")) == 8


def test_every_variable_is_complete(schema):
    for v in schema.variables:
        assert v.possible[0] <= v.plausible[0] < v.plausible[1] <= v.possible[1], v.name
        assert v.loinc and all(re.fullmatch(r"\d{1,5}-\d", code) for code in v.loinc), v.name
        for code in (*v.loinc, *v.loinc_shared):
            assert _check_digit(code), f"LOINC {code} of {v.name} has a wrong check digit"
        assert schema.unit(v.unit) == v.unit, "canonical units are UCUM spellings themselves"
        for unit in v.units:
            assert schema.unit(unit) == unit


def _check_digit(code: str) -> bool:
    """LOINC's own rule: the last digit makes the number pass Luhn's check (mod 10)."""
    digits = [int(d) for d in code.replace("-", "")][::-1]
    doubled = (sum(divmod(2 * d, 10)) if i % 2 else d for i, d in enumerate(digits))
    return sum(doubled) % 10 == 0


@pytest.mark.parametrize(
    ("name", "value", "unit", "expected"),
    [
        ("Temp", 98.6, "[degF]", 37.0),
        ("Temp", 310.15, "K", 37.0),
        ("Creatinine", 88.4, "µmol/L", 1.0),
        ("Bilirubin_total", 17.1, "umol/L", 1.0),
        ("Glucose", 5.0, "mmol/l", 90.08),
        ("Lactate", 9.01, "mg/dL", 1.0),
        ("FiO2", 40, "%", 0.4),
        ("PaCO2", 5.33, "kPa", 40.0),
        ("Hgb", 120, "g/L", 12.0),
        ("WBC", 7.5, "10*9/L", 7.5),
        ("Platelets", 150000, "/uL", 150),
        ("Potassium", 4.1, "mEq/L", 4.1),
        ("AST", 40, "IU/L", 40),
    ],
)
def test_units_are_converted(schema, name, value, unit, expected):
    assert schema.convert(name, value, unit) == pytest.approx(expected, rel=1e-3)
    assert schema.convert(name, expected, None) == expected


def test_an_unknown_unit_is_refused_with_the_known_ones(schema):
    with pytest.raises(DataError, match=r"'furlong' is not known for Temp.*\[degF\]"):
        schema.convert("Temp", 1, "furlong")


def test_codes_name_variables_and_shared_codes_give_way(schema):
    assert schema.by_loinc("8867-4").name == "HR"
    assert schema.by_loinc(["2708-6", "59408-5"]).name == "O2Sat"
    assert schema.by_loinc("2708-6").name == "SaO2"
    assert schema.by_loinc("32693-4").name == schema.by_loinc("2524-7").name == "Lactate"
    assert schema.by_loinc("0000-0") is None
    assert schema.find("spo2").name == "O2Sat" and schema.find("crea").name == "Creatinine"


def test_a_site_overrides_single_entries(schema, tmp_path):
    file = tmp_path / "site.toml"
    file.write_text(
        '[synonyms]\n"mg/dL" = ["mgdl"]\n[[variable]]\nname = "Lactate"\nloinc = ["99999-9"]\n'
        '[[variable]]\nname = "MDW"\ntitle = "monocyte distribution width"\nkind = "lab"\n'
        'unit = "1"\npossible = [5, 60]\nplausible = [10, 45]\n'
    )
    site = schema.override(file)
    assert site.by_loinc("99999-9").name == "Lactate" and site.by_loinc("2524-7") is None
    assert site["Lactate"].unit == "mmol/L" and site.names[-1] == "MDW"
    assert site.convert("Creatinine", 1, "mgdl") == 1
    assert schema.by_loinc("2524-7").name == "Lactate", "the shipped schema is as it was"
    file.write_text('[[variable]]\nname = "HR"\nlonic = ["1-8"]\n')
    with pytest.raises(ParameterError, match="lonic"):
        schema.override(file)
    file.write_text("not toml [")
    with pytest.raises(DataError, match="cannot be read"):
        schema.override(file)


def test_ambiguous_schemas_are_refused(schema):
    entry = {"name": "X", "title": "x", "kind": "lab", "unit": "1"}
    bounds = {"possible": [0, 1], "plausible": [0, 1]}
    with pytest.raises(ParameterError, match="8867-4 is used by"):
        Schema.from_dict(
            {"variable": [
                {**entry, **bounds, "loinc": ["8867-4"]},
                {**entry, **bounds, "name": "Y", "loinc": ["8867-4"]},
            ]}
        )  # fmt: skip
    with pytest.raises(ParameterError, match="not ascending"):
        Schema.from_dict({"variable": [{**entry, **bounds, "possible": [2, 1]}]})
    with pytest.raises(ParameterError, match="not complete"):
        Schema.from_dict({"variable": [entry]})
    with pytest.raises(ParameterError, match="no variable is called 'heart'"):
        schema["heart"]
    with pytest.raises(ParameterError, match="no set of channels"):
        schema.channels("p20")


def test_bounds_judge_numbers_only(schema):
    temperature = schema["Temp"]
    values = np.array([37, 50, np.nan, np.inf, -np.inf])
    assert temperature.is_possible(values).tolist() == [True, False, False, False, False]
    assert temperature.is_plausible([29, 30]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("token", "value", "comparator", "unit"),
    [
        ("7.2", 7.2, None, None),
        (" 7,2 ", 7.2, None, None),
        (">100", 100, ">", None),
        ("<0.1", 0.1, "<", None),
        ("<= 0,5 mg/dL", 0.5, "<", "mg/dL"),
        ("98.6 F", 98.6, None, "F"),
        ("-3.5e1", -35, None, None),
        ("~5", 5, None, None),
        ("7.5 10*3/uL", 7.5, None, "10*3/uL"),
        ("80/min", 80, None, "/min"),
    ],
)
def test_tokens_are_read(token, value, comparator, unit):
    assert read_token(token) == (pytest.approx(value), comparator, unit)


@given(st.text(max_size=40) | st.from_regex(r"[<>=]{0,2} ?[-+]?[0-9.,]{1,8} ?[a-zA-Z%/*^0-9]{0,8}"))
def test_any_text_is_read_or_refused_without_an_error(token):
    value, comparator, unit = read_token(token)
    assert comparator in (None, "<", ">") and (unit is None or unit == unit.strip() != "")
    assert np.isfinite(value) or (comparator, unit) == (None, None)


@pytest.mark.parametrize("token", ["HEMOLYZED", "", "1,200", "3-4", "1/2", ">", "1e999", "12 34"])
def test_what_is_no_clear_number_is_not_guessed(token):
    assert np.isnan(read_token(token).value)
