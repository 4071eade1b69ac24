"""Random small logs for hypothesis, and the protocols written out entity by entity."""

from __future__ import annotations

import math

import polars as pl
from hypothesis import strategies as st

from foretell.data import EventLog, Protocol

WINDOW = 12
KINDS = ("conversion", "view", "cart")
AGES = (5.0, 9.0)


def protocol_of(name, e=0.0, engagement=("view",), strict=True) -> Protocol:
    """A protocol with every setting it needs."""
    ages = AGES if name == "ages" else ()
    return Protocol(name, float(e), tuple(engagement), strict, ages)


@st.composite
def tables(draw, *, deadlines: bool = True, max_entities: int = 12):
    """Two tables of a log on a coarse clock, so that times tie and meet the edges of windows."""
    n = draw(st.integers(1, max_entities))
    text = draw(st.booleans())
    times = draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))
    names = draw(st.permutations(range(100, 100 + n)))
    ids = [f"e{i}" for i in names] if text else list(names)
    rows = []
    for name, t in zip(ids, times, strict=True):
        for kind in KINDS:
            # Up to three outcomes of a kind, some of them after the window.
            delays = draw(st.lists(st.integers(0, WINDOW + 4), max_size=2))
            rows += [(name, kind, float(t + d)) for d in delays]
    rows = draw(st.permutations(rows))
    columns = {
        "id": ids,
        "t": [float(t) for t in times],
        "x": draw(st.lists(st.none() | st.integers(-3, 3).map(float), min_size=n, max_size=n)),
        "c": draw(st.lists(st.none() | st.sampled_from("abc"), min_size=n, max_size=n)),
    }
    if deadlines and draw(st.booleans()):
        reach = draw(st.lists(st.integers(0, WINDOW + 3), min_size=n, max_size=n))
        columns["deadline"] = [float(t + w) for t, w in zip(times, reach, strict=True)]
    schema = {"x": pl.Float64, "c": pl.String}
    entities = pl.DataFrame(columns, schema_overrides=schema)
    outcomes = pl.DataFrame(
        {
            "id": [r[0] for r in rows],
            "kind": [r[1] for r in rows],
            "t_outcome": [r[2] for r in rows],
        },
        schema={"id": entities["id"].dtype, "kind": pl.String, "t_outcome": pl.Float64},
    )
    return entities, outcomes


def build(entities: pl.DataFrame, outcomes: pl.DataFrame, **arguments) -> EventLog:
    deadline = "deadline" if "deadline" in entities.columns else None
    settings = {"attribution_window": WINDOW, "features": ["x", "c"], "deadline": deadline}
    settings["kinds"] = KINDS
    return EventLog.from_frames(entities, outcomes, **{**settings, **arguments})


def written_out(entities, outcomes, protocol, e, engagement=("view",), strict=True):
    """The rows (time, id, stage, label) of a protocol by its words, one entity at a time."""
    found = []
    for entity in entities.iter_rows(named=True):
        t = entity["t"]
        end = min(t + WINDOW, entity.get("deadline", math.inf))
        mine = outcomes.filter((pl.col("id") == entity["id"]) & (pl.col("t_outcome") <= end))

        def first(kinds, mine=mine):
            times = mine.filter(pl.col("kind").is_in(list(kinds)))["t_outcome"]
            return times.min() if len(times) else math.inf

        y, seen = first(["conversion"]), first(engagement)
        final, start = int(y < math.inf), min(t + e, end)
        at_start = int(y <= start)
        if protocol == "oracle":
            rows = [(t, 0, final)]
        elif protocol == "wait":
            rows = [(end, 0, final)]
        elif protocol in ("snapshot", "ulc"):
            rows = [(start, 0, at_start)]
        elif protocol in ("fnw", "fnc"):
            rows = [(t, 0, 0)] + [(y, 1, 1)] * final
        elif protocol in ("vanilla", "esdfm", "defuse", "bidefuse"):
            rows = [(start, 0, at_start)] + [(y, 1, 1)] * (final - at_start)
        elif protocol == "ages":
            moments = sorted({start, *(min(t + a, end) for a in AGES)})
            rows = [(s, i, int(y <= s)) for i, s in enumerate(moments)]
            if len(moments) <= len(AGES):  # a short window ends before an age: its number is left
                ages = [start, *(min(t + a, end) for a in AGES)]
                rows = [(s, ages.index(s), label) for s, _, label in rows]
        elif protocol in ("defer", "ddfm"):
            rows = [(start, 0, at_start), (max(y, start) if final else end, 2, final)]
        else:

            def state(s, y=y, seen=seen):
                if y <= s:
                    return 2 if strict or seen <= y else 3
                return 1 if seen <= s else 0

            rows, label = [(start, 0, state(start))], state(start)
            for moment in sorted({y, seen} - {math.inf}):
                if moment > start and state(moment) != label:
                    label = state(moment)
                    rows.append((moment, 1, label))
        found += [(time, entity["id"], stage, label) for time, stage, label in rows]
    return sorted(found)


def rows_of(emission):
    """An emission as written_out gives it, in its own order."""
    table = emission.to_polars()
    return list(zip(table["emit_time"], table["id"], table["stage"], table["label"], strict=True))
