"""No view of a log may depend on what happens after its ``now``."""

from __future__ import annotations

import numpy as np
import polars as pl
from event_strategies import build, tables
from hypothesis import assume, given
from hypothesis import strategies as st


def everything(log):
    """All that a view tells of its entities."""
    parts = [log.ids, log.times, log.windows, log.matured, log.age(), log.label(), log.count()]
    for kind in ("conversion", "view", "cart"):
        if kind in log.kinds:
            parts += [log.delay(kind), log.count(kind), log.outcome_times(kind)]
    if "view" in log.kinds:
        parts += [log.state(s, "view", strict=k) for s in (3, 9, 40) for k in (True, False)]
    entities, outcomes = log.to_polars()
    return parts, entities, outcomes, log.fingerprint()


@given(tables(), st.integers(0, 34), st.data())
def test_a_view_is_the_log_of_what_had_happened(given_tables, now, data):
    entities, outcomes = given_tables
    early = entities.filter(pl.col("t") <= now)
    assume(early.height)
    log = build(entities, outcomes)
    seen = build(early, outcomes.filter(pl.col("t_outcome") <= now)).until(now)
    views = [log.until(now), log.until(40).until(now), log.until(now).until(99)]
    rows = data.draw(st.permutations(range(len(log))))
    shuffled = log.select(np.array(rows)).until(now)
    for view in views:
        (parts, *tables_), (expected, *others) = everything(view), everything(seen)
        for have, want in zip(parts, expected, strict=False):
            np.testing.assert_array_equal(have, want)
        assert tables_[0].equals(others[0]) and tables_[1].equals(others[1])
        assert tables_[2] == others[2]
    back = np.argsort(shuffled.positions(seen.ids))
    np.testing.assert_array_equal(shuffled.delay(), seen.delay()[back])


@given(tables(), tables(), st.integers(0, 34))
def test_the_future_can_be_exchanged(first, second, now):
    entities, outcomes = first
    early = entities.filter(pl.col("t") <= now)
    assume(early.height)
    _, others = second
    future = others.filter(pl.col("t_outcome") > now)
    assume(future.height)
    # Another future for the same entities: their outcomes after now come from another log.
    names = pl.Series("id", [early["id"][i % early.height] for i in range(future.height)])
    exchanged = pl.concat(
        [
            outcomes.filter(pl.col("t_outcome") <= now, pl.col("id").is_in(early["id"].to_list())),
            future.with_columns(names),
        ]
    )
    one = build(entities, outcomes).until(now)
    two = build(early, exchanged).until(now)
    assert one.fingerprint() == two.fingerprint()
    for protocol in ("wait", "esdfm", "defer", "fnw", "snapshot"):
        a, b = one.emit(protocol, 2), two.emit(protocol, 2)
        assert a.to_polars().equals(b.to_polars())
