"""Population drift: what changed is named, what did not is not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from foretell.data.simulators import hospitals
from foretell.decisions.abstention.drift import (
    AlarmChart,
    PopulationMonitor,
    benjamini_hochberg,
)
from foretell.errors import DataError, ParameterError


@pytest.fixture(scope="module")
def stays():
    return hospitals(stays=400, sites=1, hours=(12, 30), seed=5)[0]


@pytest.fixture(scope="module")
def monitor(stays):
    return PopulationMonitor().fit(stays.select(slice(0, 200)))


def changed(stays, name, values):
    return replace(stays, channels={**stays.channels, name: values.astype(np.float32)})


def test_the_same_population_is_left_in_peace(stays, monitor):
    found = monitor.compare(stays.select(slice(200, 400)))
    assert found["drifted"].sum() == 0


def test_a_shifted_channel_is_named_alone(stays, monitor):
    later = changed(stays, "Temp", stays.channels["Temp"] * 9 / 5 + 32).select(slice(200, 400))
    found = monitor.compare(later).filter("drifted")
    assert found["channel"].to_list() == ["Temp"]
    assert "distribution" in found["why"][0] and "stability index" in found["why"][0]
    assert found["distance"][0] == pytest.approx(1.0)


def test_a_channel_that_falls_silent_is_named_by_its_missing_rate(stays, monitor):
    values = stays.channels["Lactate"].copy()
    values[:] = np.nan
    found = monitor.compare(changed(stays, "Lactate", values).select(slice(200, 400)))
    row = found.filter(channel="Lactate").row(0, named=True)
    assert row["why"] == "missing rate"
    assert row["missing"] == 1.0
    assert row["stability_index"] is None and row["distance"] is None


def test_a_channel_that_was_never_there_is_named_and_a_rare_one_is_not(stays):
    usual = stays.select(slice(0, 200))
    never = changed(stays, "Lactate", np.full_like(stays.channels["Lactate"], np.nan))
    found = PopulationMonitor().fit(never.select(slice(0, 200)))
    row = found.compare(stays.select(slice(200, 400))).filter(channel="Lactate").row(0, named=True)
    assert row["why"] == "missing rate" and row["stability_index"] is None
    # Two patients in two hundred have it: in forty others nobody need have.
    rare = np.full_like(stays.channels["Lactate"], np.nan)
    rare[usual.offsets[[3, 90]]] = 2.0
    few = changed(stays, "Lactate", rare)
    told = PopulationMonitor().fit(few.select(slice(0, 200))).compare(few.select(slice(200, 240)))
    assert "missing rate" not in told.filter(channel="Lactate")["why"][0]


def test_an_index_of_few_patients_is_not_named_by_chance(stays):
    monitor = PopulationMonitor().fit(stays.select(slice(0, 200)))
    named = [
        "stability" in " ".join(monitor.compare(stays.select(slice(a, a + 32)))["why"])
        for a in range(200, 400, 24)
    ]
    assert sum(named) == 0


def test_distance_is_that_of_scipy(stays, monitor):
    later = stays.select(slice(200, 400))

    def medians(part):
        return [np.nanmedian(v) for v in (s.column("HR") for s in part.chunks(1)) if
                np.isfinite(v).any()]  # fmt: skip

    ours = monitor.compare(later).filter(channel="HR")["distance"][0]
    theirs = stats.ks_2samp(medians(stays.select(slice(0, 200))), medians(later)).statistic
    assert ours == pytest.approx(theirs, abs=0.02)


def test_a_discrepancy_is_seen_where_the_shape_alone_has_changed(stays, monitor):
    from foretell.decisions.abstention.embedding import MeanEmbedding

    rng = np.random.default_rng(2)
    usual = MeanEmbedding.of(rng.normal(80, 10, 400))
    said = np.array([usual.compare(rng.normal(80, 10, 150))[1] for _ in range(400)])
    # Of periods in which nothing has changed, few are named.
    assert 0.005 < (said < 0.05).mean() < 0.1 and (said < 0.01).mean() < 0.03
    two = rng.normal(80, 1, 150) + rng.choice([-10, 10], 150)
    gap, chance = usual.compare(two)
    assert chance < 0.002 and gap > 0
    # By pairs, as it is defined: the kernel is near the product of features.
    x, y = rng.normal(80, 10, 60), rng.normal(88, 10, 50)
    one = MeanEmbedding.of(x)

    def kernel(a, b):
        return np.exp(-(((a[:, None] - b) / one.scale) ** 2) / 2).mean()

    exact = np.sqrt(kernel(x, x) - 2 * kernel(x, y) + kernel(y, y))
    assert one.compare(y)[0] == pytest.approx(exact, rel=0.25)
    flat = MeanEmbedding.of(np.full(50, 7.0))
    assert flat.compare(np.full(9, 7.0))[1] == 1 and flat.compare(np.full(9, 8.0))[1] == 0
    later = changed(stays, "HR", stays.channels["HR"] + 8).select(slice(200, 400))
    row = monitor.compare(later).filter(channel="HR").row(0, named=True)
    assert row["discrepancy_p"] < 1e-6 and "discrepancy" in row["why"]


def test_a_monitor_is_plain_json(stays, monitor):
    again = PopulationMonitor.from_dict(json.loads(json.dumps(monitor.to_dict())))
    later = stays.select(slice(200, 400))
    assert again.compare(later).equals(monitor.compare(later))
    with pytest.raises(DataError, match="no population monitor"):
        PopulationMonitor.from_dict({"channels": {"HR": {}}})
    with pytest.raises(DataError, match="fitted"):
        PopulationMonitor().compare(later)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 0.5))
def test_benjamini_hochberg_is_that_of_scipy(p, rate):
    ours = benjamini_hochberg(p, rate)
    adjusted = stats.false_discovery_control(p)
    # Ties of floating-point numbers at the border may fall either way.
    sure = np.abs(adjusted - rate) > 1e-12
    assert (ours == (adjusted <= rate))[sure].all()


def test_false_discoveries_stay_within_the_rate():
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(300):
        p = rng.random(50)
        p[:10] = stats.norm.sf(rng.normal(4, 1, 10))
        named = benjamini_hochberg(p, 0.1)
        wrong.append(named[10:].sum() / max(named.sum(), 1))
    assert np.mean(wrong) <= 0.1


def test_chart_is_quiet_at_the_reference_and_speaks_beyond_it():
    rng = np.random.default_rng(1)
    chart = AlarmChart(0.02)
    hours = rng.uniform(500, 3000, 400)
    quiet = chart.read(rng.poisson(0.02 * hours), hours)
    assert (quiet["signal"] == "limit").mean() < 0.02
    loud = chart.read(rng.poisson(0.06 * hours), hours)
    assert (loud["signal"] == "limit").mean() > 0.9
    slow = chart.read(rng.poisson(0.023 * hours), hours)
    assert (slow["signal"] == "run").any()
    row = quiet.row(0, named=True)
    assert row["lower"] < 0.02 < row["upper"]


def test_chart_with_empty_periods_and_bad_input():
    chart = AlarmChart(0.02)
    found = chart.read([0, 3], [0, 100])
    assert found["rate"][0] is None and found["signal"][0] == ""
    for alarms, hours in (([1], [0]), ([-1], [10]), ([1, 2], [10])):
        with pytest.raises(DataError):
            chart.read(alarms, hours)
    with pytest.raises(ParameterError):
        AlarmChart(0.0)
    with pytest.raises(ParameterError):
        PopulationMonitor(false_discovery=1.0)
    with pytest.raises(ParameterError):
        benjamini_hochberg([2.0], 0.1)
