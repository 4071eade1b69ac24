"""A sex as files tell it, in tables, in feeds and under codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from foretell.data.clinical import CausalFeatureBuilder, FeatureSpec, stays_from_frame
from foretell.data.clinical.deidentify import Deidentifier
from foretell.data.clinical.fhir.writer import bundles_of
from foretell.data.clinical.hl7.writer import messages_of
from foretell.data.panel import Categorical

from .conftest import make_stays


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        # A column of numbers with a gap is one of floats.
        ([1.0, 0.0, None], [1, 0, np.nan]),
        (["1.0", "0.0", "NaN"], [1, 0, np.nan]),
        ([1, 0, 1], [1, 0, 1]),
        (["M", "N/A", "?"], [1, np.nan, np.nan]),
        (["Female", "Not specified", "-"], [0, np.nan, np.nan]),
        (["ASKU", "Intersex", "m"], [np.nan, np.nan, 1]),
    ],
)
def test_a_sex_of_a_file_is_read_whatever_it_is_stored_as(column, wanted):
    table = pl.DataFrame({"id": ["a", "b", "c"], "hour": 1, "HR": 80.0, "sex": column})
    builder = CausalFeatureBuilder(FeatureSpec(static=("sex",)))
    found = builder.raw(stays_from_frame(table))[:, builder.names.index("sex")]
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))


def test_feeds_and_codes_tell_the_sex_that_features_take():
    words = ["M", "Female", "1.0", "male", "f", "other"]
    stays = make_stays(0, 6)
    stays = replace(stays, patients=stays.ids, categories={"sex": Categorical.from_values(words)})
    wanted = ["male", "female", "male", "male", "female", None]
    people = {
        entry["resource"]["id"]: entry["resource"].get("gender")
        for _, bundle in bundles_of(stays)
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "Patient"
    }
    assert list(people.values()) == wanted
    letters = [
        line.split("|")[8]
        for _, message in messages_of(stays)
        for line in message.decode().split("\r")
        if line.startswith("PID") and b"ADT^A01" in message
    ]
    assert [{"M": "male", "F": "female"}.get(letter) for letter in letters] == wanted
    # Under codes stays stand in the order of these.
    coded = Deidentifier("safe-harbor").stays(stays)
    assert sorted(coded.names("sex")) == sorted(word or "unknown" for word in wanted)
