from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from event_strategies import WINDOW, build, protocol_of, rows_of, tables, written_out
from hypothesis import given
from hypothesis import strategies as st

from foretell.data import PROTOCOLS, EventLog
from foretell.errors import ParameterError

MONOTONE = ("vanilla", "esdfm", "defuse", "fnw", "funnel")


@given(
    tables(),
    st.sampled_from(PROTOCOLS),
    st.sampled_from([0, 1, 3, 3.5]),
    st.sampled_from([("view",), ("view", "cart")]),
    st.booleans(),
)
def test_rows_are_those_of_the_protocols_words(given_tables, protocol, e, engagement, strict):
    entities, outcomes = given_tables
    log = build(entities, outcomes)
    rows = log.emit(protocol_of(protocol, e, engagement, strict))
    assert rows_of(rows) == written_out(entities, outcomes, protocol, e, engagement, strict)


@given(
    tables(),
    st.sampled_from(PROTOCOLS),
    st.sampled_from([0, 2]),
    st.lists(st.integers(0, 34), max_size=5).map(sorted),
)
def test_pieces_of_time_join_to_the_whole(given_tables, protocol, e, cuts):
    log = build(*given_tables)
    protocol = protocol_of(protocol, e)
    whole = log.emit(protocol)
    edges = [-np.inf, *cuts, np.inf]
    parts = [log.emit(protocol, since=a, until=b) for a, b in itertools.pairwise(edges)]
    assert [r for part in parts for r in rows_of(part)] == rows_of(whole)
    again = [whole.between(a, b) for a, b in itertools.pairwise(edges)]
    assert [r for part in again for r in rows_of(part)] == rows_of(whole)


@given(tables(), st.sampled_from(PROTOCOLS), st.sampled_from([0, 2]), st.integers(0, 34))
def test_rows_up_to_now_need_nothing_later(given_tables, protocol, e, now):
    entities, outcomes = given_tables
    if protocol == "oracle":
        return
    log = build(entities, outcomes)
    early = (
        build(entities.filter(pl.col("t") <= now), outcomes.filter(pl.col("t_outcome") <= now))
        if (entities["t"] <= now).any()
        else log.until(now)
    )
    protocol = protocol_of(protocol, e)
    rows = log.emit(protocol, until=now)
    assert rows_of(rows) == rows_of(log.until(now).emit(protocol))
    assert rows_of(rows) == rows_of(early.emit(protocol, until=now))
    assert rows.log.now == now and (rows.time <= now).all()


@given(tables(), st.sampled_from(MONOTONE), st.sampled_from([0, 1, 5]))
def test_every_entity_emits_its_final_label_once_and_rises(given_tables, protocol, e):
    # What makes the exact weights P(final = k | a row (x, k) is emitted) exact.
    log = build(*given_tables)
    rows = log.emit(protocol, e, engagement="view")
    final = log.state(np.inf, "view") if protocol == "funnel" else log.label()
    for entity in range(len(log)):
        labels = rows.label[rows.entity == entity]
        assert np.all(np.diff(labels) > 0) and labels[-1] == final[entity]
    assert len(set(rows.key)) == len(rows)


@given(tables(), st.sampled_from([0, 1, 3, 7]))
def test_row_counts(given_tables, e):
    log = build(*given_tables)
    n, delay, window = len(log), log.delay(), log.windows
    positive, late = np.isfinite(delay), (delay > np.minimum(e, window)) & np.isfinite(delay)
    counts = {p: len(log.emit(p, e, engagement="view")) for p in PROTOCOLS}
    assert counts["oracle"] == counts["wait"] == counts["ulc"] == counts["snapshot"] == n
    assert counts["vanilla"] == counts["esdfm"] == counts["defuse"] == n + late.sum()
    assert counts["fnw"] == counts["fnc"] == n + positive.sum()
    assert counts["defer"] == counts["ddfm"] == 2 * n
    engaged = log.delay("view")
    between = (engaged > np.minimum(e, window)) & (engaged < delay) & np.isfinite(engaged)
    assert counts["funnel"] == n + late.sum() + between.sum()


def test_observed_distribution_of_each_protocol():
    # N(x) and q(y = 1 | x) of the table of protocols, two equally likely x.
    rng = np.random.default_rng(0)
    n, e = 200_000, 3.0
    x = rng.integers(0, 2, n)
    p, survival = np.array([0.2, 0.5])[x], np.array([0.5, 0.8])[x]
    t = rng.uniform(0, 1000, n)
    converted = rng.random(n) < p
    delay = np.where(rng.random(n) < survival, rng.uniform(e, WINDOW, n), rng.uniform(0, e, n))
    log = EventLog.from_frames(
        {"id": np.arange(n), "t": t, "x": x},
        {"id": np.flatnonzero(converted), "t_outcome": (t + delay)[converted]},
        attribution_window=WINDOW,
    )
    expected = {
        "wait": lambda p, dp: (1, p),
        "vanilla": lambda p, dp: (1 + dp, p / (1 + dp)),
        "fnw": lambda p, dp: (1 + p, p / (1 + p)),
        "defer": lambda p, dp: (2, p - dp / 2),
        "snapshot": lambda p, dp: (1, p - dp),
    }
    for protocol, formula in expected.items():
        rows = log.emit(protocol, e)
        at = rows.matrix()[:, 0]
        for value, rate, kept in ((0, 0.2, 0.5), (1, 0.5, 0.8)):
            count, share = formula(rate, rate * kept)
            mine = at == value
            assert mine.sum() / (log.matrix()[:, 0] == value).sum() == pytest.approx(
                count, abs=0.01
            )
            assert rows.label[mine].mean() == pytest.approx(share, abs=0.01), protocol


def test_a_short_deadline_ends_the_wait():
    log = EventLog.from_frames(
        {"id": ["a", "b"], "t": [0.0, 0.0], "end": [2.0, 50.0]},
        {"id": ["a", "b"], "t_outcome": [1.5, 30.0]},
        attribution_window=40,
        deadline="end",
    )
    assert rows_of(log.emit("esdfm", 5)) == [(2.0, "a", 0, 1), (5.0, "b", 0, 0), (30.0, "b", 1, 1)]
    assert rows_of(log.emit("wait", 5)) == [(2.0, "a", 0, 1), (40.0, "b", 0, 1)]


def test_ties_are_ordered_by_id_and_oracle_leaves_out_what_is_not_final():
    log = EventLog.from_frames(
        {"id": ["b", "a", "c"], "t": [0.0, 1.0, 2.0]},
        {"id": ["b", "a"], "t_outcome": [5.0, 5.0]},
        attribution_window=10,
    )
    rows = log.emit("vanilla", 1)
    assert list(rows.ids[rows.time == 5.0]) == ["a", "b"]
    assert list(log.until(11).emit("oracle").ids) == ["b", "a"]
    assert list(log.emit("oracle", until=1).label) == [1, 1]
    assert not log.until(1).emit("oracle")


@pytest.mark.parametrize("e", [12, 13.0, "12h"])
def test_waiting_as_long_as_the_window_is_an_error(e):
    log = EventLog.from_frames({"id": [1], "t": [0.0]}, attribution_window=12, unit="h")
    with pytest.raises(ParameterError, match="must be shorter than the attribution window 12"):
        log.emit("esdfm", e)
    with pytest.raises(ValueError):
        log.emit("esdfm", e)


def test_wrong_settings_are_named():
    log = EventLog.from_frames({"id": [1], "t": [0.0]}, attribution_window=12)
    with pytest.raises(ParameterError, match="'es-dfm' is not one of oracle, wait"):
        log.emit("es-dfm", 1)
    with pytest.raises(ParameterError, match="at least 0"):
        log.emit("esdfm", -1)
    with pytest.raises(ParameterError, match="needs engagement="):
        log.emit("funnel", 1)
    with pytest.raises(ParameterError, match="no outcome of kind 'view'"):
        log.emit("funnel", 1, engagement="view")
    with pytest.raises(ParameterError, match="names a unit"):
        log.emit("esdfm", "1h")


def test_rows_carry_features_keys_and_stream():
    log = EventLog.from_frames(
        {"id": [7, 8], "t": [0.0, 1.0], "x": [1.5, None], "c": ["u", "v"]},
        {"id": [7], "t_outcome": [5.0]},
        attribution_window=10,
    )
    rows = log.emit("esdfm", 1)
    np.testing.assert_array_equal(rows.matrix()[:, 0], [1.5, np.nan, 1.5])
    assert [k.split("/", 1)[1] for k in rows.key] == ["7/0", "8/0", "7/1"]
    assert [k.split("/", 1)[1] for k in log.emit("defer", 1).key] == [
        "7/s0", "8/s0", "7/s2", "8/s2"
    ]  # fmt: skip
    assert rows.stream == log.emit("vanilla", 1).stream != log.emit("esdfm", 2).stream
    assert log.with_window(9).emit("esdfm", 1).stream != rows.stream
    assert rows.to_polars()["c"].to_list() == ["u", "v", "u"]
    assert rows.select(rows.label == 1).ids.tolist() == [7]


def test_no_entity_and_no_outcome_are_no_problem():
    none = EventLog.from_frames(
        {"id": pl.Series([], dtype=pl.String), "t": pl.Series([], dtype=pl.Float64)},
        attribution_window=5,
    )
    one = EventLog.from_frames({"id": ["a"], "t": [1.0]}, attribution_window=5)
    for protocol in set(PROTOCOLS) - {"funnel"}:
        assert len(none.emit(protocol, 1)) == 0
        assert set(one.emit(protocol, 1).label) == {0}
    assert len(one.emit("esdfm", 1, until=0.5)) == 0
