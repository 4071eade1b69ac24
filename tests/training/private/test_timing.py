"""The table of steps, on networks' own sizes and few words."""

from __future__ import annotations

from foretell.training.private.timing import MAKE, time_steps


def test_every_way_that_can_be_had_has_a_row():
    told: list[str] = []
    skip = ["loop", "per_sample"]
    rows = time_steps(4, 6, 1, skip=skip, tell=told.append)
    assert {row["network"] for row in rows} == {"transformer", "bilstm"}
    ours = {"ordinary", "floor", "book_keeping", "ghost", "microbatch"}
    for name in ("transformer", "bilstm"):
        ways = {row["way"] for row in rows if row["network"] == name}
        assert ours <= ways <= set(MAKE) - set(skip)
        for way in set(MAKE) - set(skip) - ways:  # a peer that is not there says so
            assert any(line.startswith(f"{name}, {way}: ") for line in told)
    assert all(row["to_ours"] == 1 for row in rows if row["way"] == "book_keeping")
    assert all(row["cpu_ms"] > 0 for row in rows)
