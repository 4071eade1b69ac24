"""Which reason comes first, and what each leaves of the score."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.decisions.abstention.quality import RULES, Quality
from foretell.decisions.abstention.verdict import Status, verdict


class Both:
    """Prediction sets that have both classes for scores near a half."""

    def ambiguous(self, scores):
        return np.abs(scores - 0.5) < 0.2


def judged(scores, p_values, broken=(), **settings):
    flags = np.zeros((len(scores), len(RULES)), bool)
    flags[list(broken), 0] = True
    quality = Quality(flags, flags.any(1))
    return verdict(
        quality, np.array(scores, float), np.array(p_values, float), alpha=0.1, **settings
    )


def test_broken_comes_before_strange_and_strange_before_ambiguous():
    said = judged(
        [0.5, 0.5, 0.5, 0.9, np.nan, 0.9],
        [[0.01, 0.02], [0.01, 0.02], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.01, 0.5]],
        broken=[0], sets=Both(),
    )  # fmt: skip
    assert [Status(s).name for s in said.status] == [
        "INVALID_INPUT", "OUT_OF_DISTRIBUTION", "AMBIGUOUS", "OK", "INVALID_INPUT", "OK",
    ]  # fmt: skip
    np.testing.assert_array_equal(said.issued, [False, False, True, True, False, True])
    np.testing.assert_array_equal(said.may_alarm, said.issued)
    assert said.score[2] == 0.5 and said.score[3] == 0.9
    assert said.reasons(0)[0] == next(iter(RULES.values())) and "unlike" in said.reasons(1)[0]
    assert "do not decide" in said.reasons(2)[0] and said.reasons(3) == []
    counts = dict(said.to_polars().select("status", "hours").iter_rows())
    assert counts == {"ok": 2, "invalid_input": 2, "out_of_distribution": 1, "ambiguous": 1}


def test_without_sets_nothing_is_ambiguous_and_a_level_holds_alarms_back():
    said = judged([0.5, 0.5, 0.5], [[0.5, 0.3], [0.5, 0.29], [0.01, 0.01]], alarm_level=0.3)
    assert said.status.tolist() == [Status.OK, Status.OK, Status.OUT_OF_DISTRIBUTION]
    assert said.may_alarm.tolist() == [True, False, False]
    assert said.score[1] == 0.5 and said.reasons(1)[-1].endswith("no alarm is raised")


@pytest.mark.parametrize("sets", [None, Both()])
def test_of_no_hours_nothing_is_said(sets):
    said = judged([], np.zeros((0, 2)), sets=sets)
    assert len(said.status) == len(said.score) == 0
    assert said.to_polars()["share"].sum() == 0
