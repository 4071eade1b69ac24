from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from event_strategies import AGES, WINDOW, build, protocol_of, rows_of, tables
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from foretell.data import PROTOCOLS, EmissionEngine, EventLog, EventSchema
from foretell.errors import ArtefactError, DataError, ParameterError

LIVE = tuple(p for p in PROTOCOLS if p != "oracle")


def engine_of(protocol="esdfm", e=1.0, **arguments) -> EmissionEngine:
    settings = {"ids": "text", "window": WINDOW, "kinds": ("view",)}
    schema = {k: arguments.pop(k, v) for k, v in settings.items()}
    return EmissionEngine(EventSchema(**schema), protocol, e, **arguments)


def entity(name, t, **columns):
    return {"id": [name], "t": [float(t)], **{k: [v] for k, v in columns.items()}}


def outcome(name, t, kind="conversion"):
    return {"id": [name], "kind": [kind], "t_outcome": [float(t)]}


@st.composite
def deliveries(draw):
    """A log's tables, and the order in which pieces of them are pushed before each advance."""
    entities, outcomes = draw(tables())
    moments = sorted(set(draw(st.lists(st.integers(0, 36), max_size=6))) | {60})
    steps, since = [], -1.0
    for now in moments:
        part = [
            ("entities", r)
            for r in np.flatnonzero(((entities["t"] > since) & (entities["t"] <= now)).to_numpy())
        ]
        part += [
            ("outcomes", r)
            for r in np.flatnonzero(
                ((outcomes["t_outcome"] > since) & (outcomes["t_outcome"] <= now)).to_numpy()
            )
        ]
        steps.append((now, draw(st.permutations(part))))
        since = now
    return entities, outcomes, steps


def run(engine, entities, outcomes, steps, between=lambda engine: engine):
    deadline = "deadline" if "deadline" in entities.columns else None
    parts = []
    for now, order in steps:
        for which, row in order:
            if which == "entities":
                engine.push_entities(entities[int(row)], deadline=deadline)
            else:
                engine.push_outcomes(outcomes[int(row)])
        parts.append(engine.advance(now))
        engine = between(engine)
    return parts, engine


@given(
    deliveries(),
    st.sampled_from(LIVE),
    st.sampled_from([0, 1, 3.5]),
    st.sampled_from([("view",), ("view", "cart")]),
    st.booleans(),
    st.sampled_from([None, 0, 1000]),
)
def test_live_is_batch_in_any_order_that_respects_time(
    delivery, protocol, e, engagement, strict, grace
):
    entities, outcomes, steps = delivery
    log = build(entities, outcomes)
    setting = protocol_of(protocol, e, engagement, strict)
    parts, engine = run(EmissionEngine(log, setting, grace=grace), entities, outcomes, steps)
    batch = log.emit(setting)
    assert [r for part in parts for r in rows_of(part)] == rows_of(batch)
    live = pl.concat([part.to_polars() for part in parts])
    assert live.equals(batch.to_polars())
    assert {part.stream for part in parts} == {batch.stream}
    late = sum(n.count for n in log.notes if n.kind == "after_window")
    # What was forgotten already cannot be told from what never was.
    assert set(engine.dead_letters) <= {"after_window", "unknown_entity"}
    assert engine.dead_letter_count == late
    for part in parts:
        seen = log.until(part.log.now)
        rows = seen.positions(part.log.ids)
        np.testing.assert_array_equal(part.log.delay(), seen.delay()[rows])
        np.testing.assert_array_equal(part.log.matrix(), seen.matrix(rows))
        np.testing.assert_array_equal(part.log.matured, seen.matured[rows])


@given(deliveries(), st.sampled_from(LIVE), st.data())
def test_a_resumed_engine_goes_on_and_repeats_nothing(tmp_path_factory, delivery, protocol, data):
    entities, outcomes, steps = delivery
    log = build(entities, outcomes)
    setting = protocol_of(protocol, 2)
    file = tmp_path_factory.mktemp("engine") / "engine.safetensors"

    def crash(engine):
        engine.save(file)
        resumed = EmissionEngine.load(file)
        assert resumed.stream == engine.stream and len(resumed) == len(engine)
        assert len(resumed.advance(resumed.now)) == 0
        if data.draw(st.booleans()):
            # Whoever feeds the engine repeats all it has sent.
            deadline = "deadline" if "deadline" in entities.columns else None
            resumed.push_entities(entities.filter(pl.col("t") <= resumed.now), deadline=deadline)
            resumed.push_outcomes(outcomes.filter(pl.col("t_outcome") <= resumed.now))
            assert len(resumed.advance(resumed.now)) == 0
        return resumed

    parts, _ = run(EmissionEngine(log, setting), entities, outcomes, steps, crash)
    assert [r for part in parts for r in rows_of(part)] == rows_of(log.emit(setting))


@given(deliveries(), st.sampled_from(LIVE), st.randoms(use_true_random=False))
def test_no_key_is_emitted_twice_however_late_events_are(delivery, protocol, random):
    entities, outcomes, steps = delivery
    moments = [now for now, _ in steps]
    events = [item for _, order in steps for item in order]
    random.shuffle(events)
    cuts = sorted(random.randrange(len(events) + 1) for _ in moments[1:])
    pieces = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    log = build(entities, outcomes)
    setting = protocol_of(protocol, 2)
    engine = EmissionEngine(log, setting, grace=1000)
    parts, engine = run(engine, entities, outcomes, list(zip(moments, pieces, strict=True)))
    keys = [k for part in parts for k in part.key]
    assert len(set(keys)) == len(keys)
    times = np.concatenate([part.time for part in parts])
    assert np.all(np.diff(times) >= 0), "a row is never emitted into the past"
    if setting.by_label:
        # With the whole story told, the last label of every entity is the final one.
        final = log.state(np.inf, "view") if protocol == "funnel" else log.label()
        last = dict(zip(
            [i for part in parts for i in part.ids],
            [k for part in parts for k in part.label],
            strict=True,
        ))  # fmt: skip
        assert last == dict(zip(log.ids, final, strict=True))


def test_late_outcomes_raise_labels_while_within_the_window():
    engine = engine_of(e=2.0)
    engine.push_entities(entity("a", 0))
    assert rows_of(engine.advance(5)) == [(2.0, "a", 0, 0)]
    engine.push_outcomes(outcome("a", 1))  # before the first emission, known only now
    assert rows_of(engine.advance(6)) == [(5.0, "a", 1, 1)]
    assert engine.dead_letters == {}
    engine.push_entities(entity("b", 0))
    engine.advance(20)
    engine.push_outcomes(outcome("b", 12))  # the window is over, the outcome lies inside
    assert rows_of(engine.advance(21)) == [(20.0, "b", 1, 1)]
    engine.push_outcomes(outcome("b", 12.5))
    assert engine.dead_letters == {"after_window": 1} and engine.dead_letter_count == 1


def test_dead_letters_are_counted_by_reason():
    engine = engine_of(grace=0)
    engine.push_entities(entity("a", 5))
    engine.push_outcomes(outcome("a", 4))
    engine.push_outcomes(outcome("zz", 6))
    engine.advance(10)
    assert engine.dead_letters == {"before_exposure": 1, "unknown_entity": 1}
    engine.push_entities(entity("old", -10))
    engine.push_outcomes(outcome("never", 1))
    assert engine.dead_letters["expired_entity"] == 1
    assert engine.dead_letters["unknown_entity"] == 2
    engine.advance(40)
    assert len(engine) == 0
    engine.push_outcomes(outcome("a", 11))
    assert engine.dead_letters["unknown_entity"] == 3


@pytest.mark.parametrize(
    ("protocol", "delay"), [("wait", 3), ("defer", 3), ("ulc", 0.5), ("ages", 0.5)]
)
def test_what_a_protocol_cannot_correct_is_counted(protocol, delay):
    engine = engine_of(protocol)
    engine.push_entities(entity("a", 0))
    assert set(engine.advance(13).label) == {0}
    engine.push_outcomes(outcome("a", delay))
    assert len(engine.advance(14)) == 0 and engine.dead_letters == {"too_late": 1}


def test_outcomes_may_come_before_their_entity():
    engine = engine_of("funnel", engagement="view")
    engine.push_outcomes(outcome("a", 1, "view"))
    engine.push_outcomes(outcome("a", 3))
    engine.push_entities(entity("a", 0))
    assert rows_of(engine.advance(5)) == [(1.0, "a", 0, 1), (3.0, "a", 1, 2)]


def test_repeats_are_ignored_and_contradictions_refused():
    engine = engine_of()
    assert engine.push_entities(entity("a", 0)) == 1
    assert engine.push_entities(entity("a", 0)) == 0
    with pytest.raises(DataError, match="known with time 0, not 1"):
        engine.push_entities({"id": ["b", "a"], "t": [0.0, 1.0]})
    assert len(engine) == 1, "a refused table leaves no trace"
    with pytest.raises(DataError, match="known with time 2, not 3"):
        engine.push_entities({"id": ["c", "c"], "t": [2.0, 3.0]})
    with pytest.raises(ParameterError, match="runs backwards: from 4 to 3"):
        engine.advance(4)
        engine.advance(3)


def test_delivered_rows_can_be_marked_after_a_crash(tmp_path):
    engine = engine_of()
    engine.push_entities(entity("a", 0))
    engine.save(tmp_path / "engine")
    delivered = engine.advance(5)
    assert len(delivered) == 1
    resumed = EmissionEngine.load(tmp_path / "engine")
    resumed.mark_emitted(delivered)
    assert len(resumed.advance(5)) == 0
    resumed.push_outcomes(outcome("a", 6))
    assert rows_of(resumed.advance(7)) == [(6.0, "a", 1, 1)]


def test_another_window_is_another_stream():
    engine = engine_of()
    engine.push_entities(entity("a", 0))
    first = engine.advance(3)
    follower = engine.changed(window=24)
    assert follower.version == 2 and follower.schema.window == 24 and len(follower) == 0
    assert follower.stream != engine.stream and follower.now == 3
    follower.push_entities(entity("b", 4))
    engine.push_outcomes(outcome("a", 9))
    follower.push_outcomes(outcome("b", 20))
    assert rows_of(engine.advance(30)) == [(9.0, "a", 1, 1)]
    rows = follower.advance(30)
    assert rows_of(rows) == [(5.0, "b", 0, 0), (20.0, "b", 1, 1)]
    assert rows.stream != first.stream
    assert engine.changed().stream != engine.stream, "even an unchanged stream begins anew"


def test_new_categories_are_unknown_and_features_reach_the_rows():
    log = EventLog.from_frames(
        {"id": [1], "t": [0.0], "x": [1.0], "c": ["u"]}, attribution_window=WINDOW
    )
    engine = EmissionEngine(log, "esdfm", 1)
    engine.push_entities({"id": [5, 6], "t": [0.0, 0.0], "x": [None, 2], "c": ["new", "u"]})
    rows = engine.advance(2)
    np.testing.assert_array_equal(rows.matrix(), [[np.nan, 0], [2, 1]])
    assert rows.to_polars()["c"].to_list() == [None, "u"]
    with pytest.raises(DataError, match="holds text, not numbers"):
        engine.push_entities({"id": [7], "t": [3.0], "x": ["?"], "c": ["u"]})
    with pytest.raises(DataError, match="ids are text, those of the stream integer"):
        engine.push_entities({"id": ["7"], "t": [3.0], "x": [1.0], "c": ["u"]})
    with pytest.raises(DataError, match=r"columns .'c'. are missing"):
        engine.push_entities({"id": [7], "t": [3.0], "x": [1.0]})
    with pytest.raises(DataError, match="these are dates"):
        engine.push_outcomes({"id": [5], "t_outcome": ["2024-01-01"]})


def test_oracle_and_monotone_protocols_are_refused_where_they_cannot_work():
    with pytest.raises(ParameterError, match="only be emitted from a complete log"):
        engine_of("oracle")
    with pytest.raises(ParameterError, match="must be shorter"):
        engine_of(e=WINDOW)
    schema = EventSchema(window=WINDOW, revocation="refund")
    with pytest.raises(ParameterError, match="labels that only rise"):
        EmissionEngine(schema, "esdfm", 1)
    engine = EmissionEngine(schema, "wait")
    engine.push_entities({"id": ["a", "b"], "t": [0.0, 0.0]})
    engine.push_outcomes(
        {"id": ["a", "a", "b"], "kind": ["conversion", "refund", "conversion"],
         "t_outcome": [1.0, 2.0, 3.0]}
    )  # fmt: skip
    assert engine.advance(12).label.tolist() == [0, 1]


def test_many_outcomes_before_exposure_are_warned_of():
    engine = engine_of()
    names = [f"e{i}" for i in range(200)]
    engine.push_entities({"id": names, "t": [10.0] * 200})
    with pytest.warns(UserWarning, match="3 of 200 outcomes lie before"):
        engine.push_outcomes({"id": names, "t_outcome": [9.0] * 3 + [11.0] * 197})


def test_memory_does_not_grow_with_the_stream():
    engine = engine_of(ids="integer")
    for hour in range(200):
        ids = np.arange(hour * 10, hour * 10 + 10)
        engine.push_entities({"id": ids, "t": np.full(10, float(hour))})
        engine.push_outcomes({"id": ids[:3], "t_outcome": np.full(3, hour + 0.5)})
        engine.advance(hour + 1)
    assert len(engine) < 10 * (2 * WINDOW + 2) * 4 / 3
    assert sum(len(s) for s in engine._outcome_slots) < 3 * (2 * WINDOW + 2) * 2


def test_a_damaged_or_foreign_state_is_refused(tmp_path):
    file = tmp_path / "engine"
    with pytest.raises(ArtefactError, match="no saved emission engine"):
        EmissionEngine.load(file)
    engine = engine_of("ages", engagement=())
    engine.push_entities(entity("ä", 0))
    engine.push_outcomes(outcome("later", 3))
    engine.save(file)
    assert list(EmissionEngine.load(file)._slots) == ["ä"]
    raw = file.read_bytes()
    file.write_bytes(raw[:-8])
    with pytest.raises(ArtefactError, match="damaged"):
        EmissionEngine.load(file)
    file.write_bytes(raw)
    arrays = load_file(file)
    save_file(arrays, file, metadata={"engine": json.dumps({"format": "other"})})
    with pytest.raises(ArtefactError, match="format"):
        EmissionEngine.load(file)
    engine.save(file)
    with safe_open(file, "numpy") as stored:
        header = json.loads(stored.metadata()["engine"])
    for change in ({"version": 99}, {"kinds": []}, {"protocol": {"name": "no"}}, {"now": "x"}):
        save_file(arrays, file, metadata={"engine": json.dumps({**header, **change})})
        with pytest.raises(ArtefactError):
            EmissionEngine.load(file)
    for name in arrays:
        save_file(
            {**arrays, name: np.zeros(3, np.complex64)} | {name: np.zeros((3, 2), np.float32)},
            file,
            metadata={"engine": json.dumps(header)},
        )
        with pytest.raises(ArtefactError, match="damaged"):
            EmissionEngine.load(file)
    assert not list(tmp_path.glob("*.partial"))


def test_ages_survive_saving(tmp_path):
    engine = EmissionEngine(EventSchema(window=WINDOW), protocol_of("ages", 1))
    engine.save(tmp_path / "engine")
    assert EmissionEngine.load(tmp_path / "engine").protocol.ages == AGES


def test_a_deadline_before_exposure_is_named():
    engine = engine_of()
    with pytest.raises(DataError, match="deadline lies before exposure"):
        engine.push_entities(entity("a", 5.0, end=2.0), deadline="end")
    assert len(engine) == 0


def test_rows_come_with_all_that_matured(tmp_path):
    """Negatives emit no row when they mature; who learned from rows' entities alone missed them."""
    engine = engine_of("esdfm", e=1.0)
    for i, t in enumerate((0.0, 1.0, 2.0)):
        engine.push_entities(entity(f"n{i}", t))
    engine.advance(3.0)
    engine.push_entities(entity("late", 2.5 + WINDOW))
    engine.save(tmp_path / "engine")
    engine = EmissionEngine.load(tmp_path / "engine")
    rows = engine.advance(3.5 + WINDOW)
    assert rows.ids.tolist() == ["late"]
    assert rows.log.ids[rows.log.matured].tolist() == ["n0", "n1", "n2"]
    engine.push_entities(entity("later", 4.0 + WINDOW))
    assert not engine.advance(5.0 + WINDOW).log.matured.any()
