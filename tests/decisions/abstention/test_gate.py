from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretell.data.clinical import Schema, Stays
from foretell.decisions.abstention import Gate, MondrianConformal, QualityMonitor, Status
from foretell.errors import DataError, NotFittedError, ParameterError


@pytest.fixture(scope="module")
def parts(data_root):
    """Three disjoint parts of hospital A."""
    if not (data_root / "physionet2019_sepsis").is_dir():
        pytest.skip("real data: 'physionet2019_sepsis' is not among the data sets here")
    from foretell.data.public import physionet2019

    stays = physionet2019(data_root / "physionet2019_sepsis", hospitals=("A",))
    numbers = np.arange(len(stays)) % 10
    return stays.select(numbers < 3), stays.select((numbers >= 3) & (numbers < 7)), stays.select(
        numbers == 8)  # fmt: skip


def scores(stays, seed=0):
    """A probability that knows a little."""
    ahead = np.repeat(np.nan_to_num(stays.onset, nan=1e9), stays.lengths) - stays.hours()
    rng = np.random.default_rng(seed)
    z = rng.normal(size=stays.n_rows) + np.where((ahead > 0) & (ahead <= 4), 2.0, 0.0) - 3
    return 1 / (1 + np.exp(-z))


@pytest.fixture(scope="module")
def gate(parts):
    train, calibration, _ = parts
    found = Gate(conformal=MondrianConformal(alpha=0.05), ambiguity=0.1)
    return found.fit(train, calibration, scores(calibration))


@pytest.mark.real_data
def test_few_clean_hours_are_rejected_and_reasons_are_told(gate, parts):
    test = parts[2]
    said = gate.judge(test, scores(test))
    shares = dict(said.to_polars().select("status", "share").iter_rows())
    assert 0 < shares["out_of_distribution"] < 0.06
    assert shares["invalid_input"] < 0.06 and 0.05 < shares["ambiguous"] < 0.95
    silent = np.isin(said.status, (Status.INVALID_INPUT, Status.OUT_OF_DISTRIBUTION))
    np.testing.assert_array_equal(np.isnan(said.score), silent)
    row = int(np.argmax(said.status == Status.OUT_OF_DISTRIBUTION))
    assert "unlike" in said.reasons(row)[-1]
    assert Status.INVALID_INPUT.indeterminate and not Status.AMBIGUOUS.indeterminate


def test_alarms_need_hours_like_those_before_an_onset(tmp_path):
    from foretell.data.clinical import target
    from foretell.data.simulators import hospitals
    from foretell.decisions.alarms import AlarmPolicy, Tier
    from foretell.estimators import FeedForwardRisk
    from foretell.serving.deployment import Deployment

    stays, _ = hospitals(stays=2400, sites=1, hours=(16, 40), seed=6)
    train, known, test = (
        stays.select(slice(a, b)) for a, b in ((0, 100), (100, 1400), (1400, 2400))
    )
    plain = Gate(conformal=MondrianConformal(alpha=0.02)).fit(train, known)
    level = 0.3
    gate = Gate(conformal=MondrianConformal(alpha=0.02), alarm_level=level).fit(train, known)
    assert not gate.conformal.pooled
    risk = scores(test)
    said, without = gate.judge(test, risk), plain.judge(test, risk)
    np.testing.assert_array_equal(said.score, without.score)
    np.testing.assert_array_equal(without.may_alarm, without.issued)
    np.testing.assert_array_equal(said.may_alarm, said.issued & (said.p_values[:, 1] >= level))
    # Of hours before an onset no more than the level is held back.
    wanted = target(test, gate.horizon)
    septic = wanted.at_risk & (wanted.label == 1) & said.issued
    held = ~said.may_alarm[septic]
    assert septic.sum() > 100 and 0.1 < held.mean() < level + 0.1
    row = int(np.flatnonzero(said.issued & ~said.may_alarm)[0])
    assert said.reasons(row)[-1].endswith("no alarm is raised")
    # The deployment heeds it, in tables and hour by hour, and keeps it.
    model = FeedForwardRisk(hidden=(8,), n_knots=3, max_steps=20, patience=9, threads=1)
    model.fit(train, validation=known)
    policy = AlarmPolicy(tiers=(Tier("urgent", 0.001),), snooze=0)
    Deployment(model, gate, policy).save(tmp_path)
    deployed = Deployment.load(tmp_path)
    few = test.select(slice(12))
    told = deployed.judge(few)
    np.testing.assert_array_equal(told.alarms.raised, told.gated.may_alarm & (told.risk >= 0.001))
    assert told.alarms.raised.any() and (told.gated.issued & ~told.alarms.raised).any()
    from foretell.serving.worker.deployed import DeploymentScorer

    scorer, offsets = DeploymentScorer(deployed), few.offsets
    for i in range(len(few)):
        one = few.select([i])
        described = {"age": float(one.number("age")[0]), "sex": str(one.names("sex")[0])}
        live, memory = deployed.stream(**described), scorer.state0()
        stream = scorer.builder.stream(scaled=True, **described)
        for hour, values in enumerate(one.matrix()):
            at = offsets[i] + hour
            assert (live.step(values).alarm is not None) == told.alarms.raised[at]
            memory, said_live = scorer.step(memory, stream.step(values))
            assert (said_live.alarming is not None) == told.gated.may_alarm[at]
    with pytest.raises(ParameterError, match="alarm_level"):
        Gate(alarm_level=1.0)


@pytest.mark.real_data
def test_a_temperature_in_fahrenheit_is_unlike_anything(gate, parts):
    test = parts[2]
    changed = {name: test.column(name) for name in test.schema.names}
    changed["Temp"] = changed["Temp"] * np.float32(1.8) + np.float32(32)
    other = replace(test, begins=test.offsets[:-1], channels=changed, label=test.labels())
    from foretell.data.clinical import carry_forward

    there = np.isfinite(carry_forward(test)[:, test.schema.names.index("Temp")])
    said = gate.judge(other, scores(other))
    assert (said.status[there] != Status.OK).mean() > 0.99


@pytest.mark.real_data
def test_streams_and_saved_gates_say_the_same(gate, parts, tmp_path):
    some = parts[2].select(slice(0, 12))
    values = scores(some)
    said = gate.judge(some, values)
    gate.save(tmp_path / "gate")
    again = Gate.load(tmp_path / "gate")
    loaded = again.judge(some, values)
    np.testing.assert_array_equal(loaded.status, said.status)
    np.testing.assert_array_equal(loaded.p_values, said.p_values)
    rows, row = some.matrix(), 0
    for length in some.lengths:
        stream = again.stream()
        for hour in range(length):
            told = stream.push(rows[row], values[row])
            assert told.status[0] == said.status[row]
            np.testing.assert_allclose(told.p_values[0], said.p_values[row], atol=1e-12)
            if hour == 3:
                stream = again.stream().restore(stream.snapshot())
            row += 1


def test_a_loaded_gate_keeps_the_limits_of_its_rules(tmp_path):
    rng, lengths = np.random.default_rng(0), np.full(40, 30)
    ids = np.array([f"s{i}" for i in range(40)], object)
    values = rng.normal(80, 8, 1200).round()
    values[rng.random(1200) < 0.3] = np.nan
    stays = Stays(
        ids, ids, np.arange(40) * 30, lengths, np.ones(40, np.int64),
        {"HR": values.astype(np.float32)}, Schema.default().channels(["HR"]), None,
        np.where(np.arange(40) % 2, 20.0, np.nan),
    )  # fmt: skip
    monitor = QualityMonitor(
        stays.schema, blocking=("stuck_sensor",), max_repeats={"HR": 2}, max_jump={"HR": 5.0},
        max_silence=2,
    )  # fmt: skip
    gate = Gate(monitor).fit(stays, stays)
    assert "40 patients are in the training and in the calibration part" in gate.notes[0]
    gate.save(tmp_path / "gate")
    assert Gate.load(tmp_path / "gate").notes == gate.notes
    apart = Gate(monitor).fit(stays.select(slice(20)), stays.select(slice(20, 40)))
    assert not any("are in the training" in note for note in apart.notes)
    apart.save(tmp_path / "apart")
    assert "shared_patients" not in (tmp_path / "apart" / "model.json").read_text()
    # Newer calibration hours are of whoever they are: the older ones are gone.
    newer = Gate.load(tmp_path / "gate").recalibrate(stays.select(slice(20, 40)))
    assert not any("are in the training" in note for note in newer.notes)
    numberless = gate.judge(stays, np.where(np.arange(1200) == 5, np.nan, 0.5))
    assert numberless.status[5] == Status.INVALID_INPUT
    assert numberless.quality.invalid[5] or "the model gave no number" in numberless.reasons(5)
    said, again = monitor.check(stays), Gate.load(tmp_path / "gate").quality.check(stays)
    assert said.flags.any(0)[[1, 4, 5]].all()
    np.testing.assert_array_equal(again.flags, said.flags)
    np.testing.assert_array_equal(again.invalid, said.invalid)


@pytest.mark.real_data
def test_what_is_missing_is_said(gate, parts):
    train, calibration, test = parts
    with pytest.raises(NotFittedError):
        Gate().judge(test, scores(test))
    with pytest.raises(DataError, match="ambiguity needs"):
        Gate(ambiguity=0.1, max_rows=5000).fit(train, calibration)
    with pytest.raises(DataError, match="scores for"):
        gate.judge(test, [0.1])
    broken = scores(test)
    broken[5] = np.nan
    assert gate.judge(test, broken).status[5] == Status.INVALID_INPUT
