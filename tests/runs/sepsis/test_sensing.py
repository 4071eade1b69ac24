"""What a run's deployment carries to say which measurement would tell most."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from foretell.data.clinical import CausalFeatureBuilder, split_by_patient, target
from foretell.data.simulators.hospitals import hospitals
from foretell.decisions.sensing import HourlySensing
from foretell.runs.sepsis.sensing import FRESH, fit_sensing, hourly


@pytest.fixture(scope="module")
def stays():
    return hospitals(stays=12, sites=1, hours=(4, 30), seed=5)[0]


def test_hours_are_told_as_a_stream_knows_them(stays):
    """Against a loop over hours, with the streamed features of the same stay."""
    builder = CausalFeatureBuilder("p19-v1", schema=stays.schema).fit(stays)
    channels = [c for c in stays.schema.names if f"{c}:last" in builder.names]
    number = [stays.schema.names.index(c) for c in channels]
    columns = [builder.names.index(f"{c}:last") for c in channels]
    rows = np.sort(np.random.default_rng(0).choice(stays.n_rows, stays.n_rows // 2, replace=False))
    features, since, known, before = hourly(builder, stays, rows, channels)
    table, values = builder.transform(stays), stays.matrix()
    begins = np.repeat(stays.offsets[:-1], stays.lengths)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(features[i], table[row])
        for j, c in enumerate(number):
            there = [r for r in range(begins[row], row + 1) if not math.isnan(values[r, c])]
            assert known[i, j] == bool(there)
            old = [r for r in there if row - r >= FRESH]
            if there:
                assert since[i, j] == row - there[-1]
            if old:
                assert before[i, j] == table[row - FRESH, columns[j]]
            else:
                assert math.isnan(before[i, j])


def test_training_patients_of_the_last_site_are_learned_from_and_nobody_else(monkeypatch):
    both = hospitals(stays=40, sites=2, hours=(4, 30), seed=6)[0]
    split, hours = split_by_patient(both), 30
    builder = CausalFeatureBuilder("p19-v1", schema=both.schema).fit(split.train)
    given = {}
    monkeypatch.setattr(
        HourlySensing, "fit", lambda *told, **options: given.update(options, told=told)
    )
    recipe = SimpleNamespace(
        sensing=SimpleNamespace(sampler="mixture", hours=hours), seeds=[0], threads=1
    )
    fit_sensing(
        recipe, SimpleNamespace(split=split, sites=("A", "B")),
        SimpleNamespace(features_=builder, horizon=4),
    )  # fmt: skip
    mine = split.train.of("site", "B")
    wanted = target(mine, 4.0)
    well = int((wanted.at_risk & (wanted.label == 0)).sum())
    features, label = given["told"][1], given["told"][4]
    assert len(features) == len(label) == hours + int(wanted.label[wanted.at_risk].sum())
    assert given["share"] == pytest.approx(hours / well)
    known = {row.tobytes() for row in builder.transform(mine)}
    assert {row.tobytes() for row in features} <= known
    # Patients are counted, not hours: so few are one component, and their hours weigh as patients.
    assert given["sampler_options"]["components"] == 1
    assert given["sampler_options"]["prior"] >= 10 * len(features) / len(mine)
