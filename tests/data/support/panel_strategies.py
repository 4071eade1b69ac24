"""Panels for the tests of this folder: a hypothesis strategy and comparisons."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel


@st.composite
def panels(draw, *, aliases=("integer", "h", "D", "W-FRI", "ME", "QS"), full=True) -> Panel:
    """Ragged panels: gaps inside, observed ends, covariates and attributes of every kind."""
    grid = Frequency.parse(draw(st.sampled_from(aliases)))
    count = draw(st.integers(1, 5))
    lengths = np.array(draw(st.lists(st.integers(1, 12), min_size=count, max_size=count)))
    starts = np.array(draw(st.lists(st.integers(0, 40), min_size=count, max_size=count)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    begins = np.r_[0, np.cumsum(lengths)[:-1]]
    total = int(lengths.sum())
    target = rng.normal(10, 20, total).round(3).astype(np.float32)
    gaps = rng.random(total) < 0.2
    gaps[begins] = gaps[begins + lengths - 1] = False
    target[gaps] = np.nan
    ids = np.array([f"s{i}" for i in range(count)], object)
    if not full:
        return Panel(ids, grid, starts, begins, lengths, target)
    ahead = draw(st.integers(0, 4))
    known_lengths = lengths + ahead
    known_total = int(known_lengths.sum())
    return Panel(
        ids,
        grid,
        starts,
        begins,
        lengths,
        target,
        censored=rng.random(total) < 0.3,
        past={"views": rng.integers(0, 99, total).astype(np.float32)},
        known={
            "price": rng.uniform(1, 9, known_total).round(2).astype(np.float32),
            "sale": (rng.random(known_total) < 0.2).astype(np.float32),
        },
        known_begins=np.r_[0, np.cumsum(known_lengths)[:-1]],
        known_lengths=known_lengths,
        static_categorical={
            "colour": Categorical.from_values([["red", "blue", None][i % 3] for i in range(count)])
        },
        static_real={"size": rng.normal(size=count).astype(np.float32)},
        events=("sale",),
    )


def assert_same(a: Panel, b: Panel) -> None:
    """The same data: fingerprints say so, a field by field comparison says where not."""
    assert a.frequency == b.frequency
    assert list(a.ids) == list(b.ids)
    np.testing.assert_array_equal(a.starts, b.starts)
    np.testing.assert_array_equal(a.lengths, b.lengths)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.events == b.events
    assert a.fingerprint() == b.fingerprint()
