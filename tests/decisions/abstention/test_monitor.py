"""What goes to the bedside with a model, to compare what is seen there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical.stays import concatenate
from foretell.data.panel import Categorical
from foretell.data.simulators import hospitals
from foretell.decisions.abstention import DriftMonitor, blocks, expected_performance
from foretell.decisions.abstention.monitor import ALL
from foretell.decisions.alarms import Tier
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError


@pytest.fixture(scope="module")
def stays():
    return hospitals(stays=420, sites=1, hours=(8, 40), seed=5)[0]


@pytest.fixture(scope="module")
def scores(stays):
    rng = np.random.default_rng(0)
    p = rng.beta(1, 12, len(stays))[stays.stay_of_row()]
    return np.where(rng.random(stays.n_rows) < 0.05, np.nan, p)


@pytest.fixture(scope="module")
def monitor(stays, scores):
    view = stays.select(slice(0, 240))
    return DriftMonitor().fit(view, scores[: view.n_rows], 0.2)


def later(stays, scores):
    view = stays.select(slice(240, 420))
    begin = int(stays.offsets[240])
    parts = blocks(view, 12)
    rows = np.concatenate([
        np.arange(a, a + n // 12 * 12)
        for a, n in zip(view.offsets[:-1], view.lengths, strict=True)
    ])  # fmt: skip
    return parts, scores[begin:][rows]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 4))
def test_blocks_hold_each_whole_block_once(lengths, hours):
    base = hospitals(stays=6, sites=1, hours=(9, 10), seed=1)[0].select(slice(0, len(lengths)))
    stays = base.first(np.array(lengths))
    parts = blocks(stays, hours)
    assert len(parts) == sum(n // hours for n in lengths)
    assert (parts.lengths == hours).all() and len(set(parts.ids)) == len(parts)
    found = iter(range(len(parts)))
    for i, n in enumerate(lengths):
        whole = stays.select([i]).matrix()
        for k in range(n // hours):
            one = parts.select([next(found)])
            assert one.patients[0] == stays.patients[i] and one.starts[0] == 1 + k * hours
            np.testing.assert_array_equal(one.matrix(), whole[k * hours : (k + 1) * hours])


def test_what_has_not_changed_is_left_in_peace_and_what_has_is_named(stays, scores, monitor):
    parts, p = later(stays, scores)
    calm = monitor.compare(parts, p, "A")
    # The site has a reference of its own: it has patients enough.
    assert calm.reference == "A" and set(monitor.usual_) == {ALL, "A"}
    assert monitor.compare(parts, p, "elsewhere").reference == ALL
    assert calm.channels["drifted"].sum() == 0 and not calm.scores.drifted
    assert calm.blocks == len(parts) and calm.hours == 12 * len(parts) == parts.n_rows
    assert 100 < calm.patients < calm.blocks, "two blocks of one patient count once"
    assert calm.expected.rate == pytest.approx(calm.usual.rate, rel=0.3)
    warm = replace(stays, channels={**stays.channels, "Temp": stays.channels["Temp"] * 1.8 + 32})
    parts, p = later(warm, scores)
    moved = monitor.compare(parts, np.minimum(3 * p, 1), "A")
    assert moved.channels.filter("drifted")["channel"].to_list() == ["Temp"]
    assert moved.scores.drifted and moved.expected.rate > 2 * moved.usual.rate


def test_a_threshold_holds_where_the_hour_was(tmp_path):
    stays = hospitals(stays=500, sites=2, hours=(8, 40), seed=5)[0]
    unit = np.where(np.arange(len(stays)) % 3 == 0, "MICU", "ward")
    stays = replace(
        stays, categories={**stays.categories, "unit": Categorical.from_values(unit.tolist())}
    )
    p = np.random.default_rng(0).beta(1, 12, stays.n_rows)
    tier = Tier("alarm", 0.2, {"B": 0.05, "MICU": 0.3})
    monitor = DriftMonitor(least_of_site=100).fit(stays, p, tier)
    rows = np.concatenate([
        np.arange(a, a + n // 12 * 12)
        for a, n in zip(stays.offsets[:-1], stays.lengths, strict=True)
    ])  # fmt: skip
    parts, q = blocks(stays, 12), p[rows]
    mine, units = parts.names("site") == "B", parts.names("unit").astype(str)
    levels = np.repeat(np.where(units == "MICU", 0.3, np.where(mine, 0.05, 0.2)), 12)
    wanted = expected_performance(q, levels)
    assert monitor.usual_[ALL].expected == pytest.approx(wanted)
    wanted = expected_performance(q[np.repeat(mine, 12)], levels[np.repeat(mine, 12)])
    assert monitor.usual_["B"].expected == pytest.approx(wanted)
    # The same hours, of which only their table says where they were.
    at_b, of_b = parts.select(mine), q[np.repeat(mine, 12)]
    told = monitor.compare(at_b, of_b, "B")
    assert told.expected == told.usual == pytest.approx(wanted)
    plain = replace(at_b, categories={})
    again = monitor.compare(plain, of_b, "B", units=np.repeat(units[mine], 12))
    assert again.expected == told.expected
    assert monitor.compare(plain, of_b, "B").expected == expected_performance(of_b, 0.05)
    # Thresholds that whoever runs the service tells: what is usual of them is not known.
    other = monitor.compare(at_b, of_b, "B", tier=Tier("alarm", 0.1))
    assert other.expected == expected_performance(of_b, 0.1)
    assert other.usual[:1] + other.usual[4:] == told.usual[:1] + told.usual[4:]
    assert np.isnan(other.usual[1:4]).all()
    same = monitor.compare(at_b, of_b, "B", tier=Tier("urgent", 0.05, {"MICU": 0.3, "C": 0.9}))
    assert same.usual == told.usual
    with pytest.raises(DataError, match="units for"):
        monitor.compare(at_b, of_b, "B", units=["MICU"])
    monitor.save(tmp_path / "m")
    loaded = DriftMonitor.load(tmp_path / "m")
    assert loaded.version == monitor.version and loaded.tier_ == tier
    assert loaded.compare(at_b, of_b, "B").expected == told.expected
    number = DriftMonitor(least_of_site=100).fit(stays, p, 0.2)
    assert number.version == DriftMonitor(least_of_site=100).fit(stays, p, Tier("x", 0.2)).version
    assert number.version != monitor.version and number.threshold_ == 0.2


def test_blocks_of_one_patient_do_not_count_as_several(stays, scores, monitor):
    parts, p = later(stays, scores)
    again = concatenate([
        replace(parts.select(np.arange(len(parts))), ids=parts.ids + f"/{k}") for k in range(8)
    ])  # fmt: skip
    once, often = monitor.compare(parts, p, "A"), monitor.compare(again, np.tile(p, 8), "A")
    for name in ("missing_p", "distance_p", "discrepancy_p"):
        np.testing.assert_allclose(once.channels[name], often.channels[name], rtol=1e-6)
    assert often.scores.distance_p == pytest.approx(once.scores.distance_p)
    assert often.patients == once.patients and often.hours == 8 * once.hours


def test_no_value_of_a_patient_is_kept(stays, monitor):
    held = json.dumps([u.population.to_dict() for u in monitor.usual_.values()])
    usual = monitor.usual_[ALL].population.channels_["HR"]
    parts = blocks(stays.select(slice(0, 240)), 12)
    medians = [np.nanmedian(one.column("HR")) for one in parts.chunks(1)]
    assert len(usual.grid) <= len(medians) // 10
    assert min(medians) < usual.grid[0] and usual.grid[-1] < max(medians)
    assert not set(map(str, stays.patients)) & set(held.replace('"', " ").split())


def test_nothing_is_kept_of_the_values_of_a_few(stays, scores):
    """A channel that nine patients have is one of which only the missing rate is known."""
    values = stays.channels["Lactate"].copy()
    first = [int(stays.offsets[i]) for i in range(240) if stays.lengths[i] >= 12]
    # Patients of the generator have a stay each: so many patients have two values, in one block.
    assert len(set(stays.patients.astype(str))) == len(stays)
    for people in (1, 9, 10, 25):
        values[:] = np.nan
        values[first[:people]] = 1.5 + np.arange(people)
        values[[f + 1 for f in first[:people]]] = 50.5 + np.arange(people)
        view = replace(stays, channels={**stays.channels, "Lactate": values})
        view = view.select(slice(0, 240))
        held = DriftMonitor().fit(view, scores[: view.n_rows], 0.2).usual_[ALL].population
        kept = held.channels_["Lactate"]
        if people < 10:
            assert kept.values == kept.people == len(kept.grid) == len(kept.edges) == 0
            assert kept.embedding is None and kept.measured > 0
        else:
            assert kept.people == people and len(kept.grid) == len(kept.shares) == people // 10
        row = held.compare(blocks(stays.select(slice(240, 420)), 12)).filter(channel="Lactate")
        assert row["distance"][0] is None and row["missing_p"][0] is not None


def test_a_site_where_hardly_anybody_has_a_score_is_refused(stays, scores):
    view = stays.select(slice(0, 240))
    few = np.full(view.n_rows, np.nan)
    few[: int(view.offsets[5])] = 0.1
    with pytest.raises(DataError, match="patients have a score; 10 are needed"):
        DriftMonitor().fit(view, few, 0.2)


def test_it_is_kept_without_code_and_damage_is_found(stays, scores, monitor, tmp_path):
    monitor.save(tmp_path / "m")
    again = DriftMonitor.load(tmp_path / "m")
    assert again.version == monitor.version and again.channels == stays.schema.names
    parts, p = later(stays, scores)
    one, two = monitor.compare(parts, p, "A"), again.compare(parts, p, "A")
    assert one.channels.equals(two.channels) and one[2:] == two[2:]
    assert {f.name for f in (tmp_path / "m").iterdir()} == {"model.json", "arrays.safetensors"}
    file = tmp_path / "m" / "model.json"
    text = file.read_text()

    def damaged(change):
        told = json.loads(text)
        change(told["config"])
        file.write_text(json.dumps(told))
        with pytest.raises(ArtefactError):
            DriftMonitor.load(tmp_path / "m")

    damaged(lambda c: c.update(block=0))
    damaged(lambda c: c.update(threshold=2.0))
    damaged(lambda c: c.update(units={"MICU": 2.0}))
    damaged(lambda c: c.update(units=["MICU"]))
    damaged(lambda c: c.update(sites=[]))
    damaged(lambda c: c["sites"][0]["population"]["channels"]["HR"].update(unknown=1))
    damaged(lambda c: c["sites"][0].pop("scores"))
    file.write_text(text)
    from safetensors.numpy import load_file, save_file

    arrays = load_file(tmp_path / "m" / "arrays.safetensors")
    for name, values in (
        ("0.population.channels.HR.shares", np.ones(10)),
        ("0.population.channels.HR.grid", np.zeros(3)),
        ("0.scores.cdf", np.array([np.nan])),
    ):
        save_file({**arrays, name: values}, tmp_path / "m" / "arrays.safetensors")
        with pytest.raises(ArtefactError):
            DriftMonitor.load(tmp_path / "m")
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(ArtefactError):
        DriftMonitor.load(tmp_path / "m")


def test_what_does_not_fit_is_refused(stays, scores, monitor):
    few = stays.select(slice(0, 20))
    with pytest.raises(DataError, match="patients have 12 hours"):
        DriftMonitor().fit(few, scores[: few.n_rows], 0.2)
    with pytest.raises(DataError, match="scores for"):
        DriftMonitor().fit(stays, scores[:5], 0.2)
    with pytest.raises(DataError, match="blocks of 12 hours"):
        monitor.compare(few, scores[: few.n_rows])
    with pytest.raises(NotFittedError):
        DriftMonitor().compare(few, scores[: few.n_rows])
    with pytest.raises(ParameterError):
        DriftMonitor(least=50, least_of_site=20)
    with pytest.raises(ParameterError, match="at least one hour"):
        blocks(few, 0)
