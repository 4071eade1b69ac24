from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from foretell.audits.membership import attack_result, plot_curves, thinned
from foretell.errors import DataError, ParameterError


def test_two_normals_have_the_known_curve():
    rng = np.random.default_rng(0)
    member = np.arange(40_000) < 20_000
    found = attack_result(rng.normal(size=40_000) + member, member)
    assert found.auc == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.006)
    assert found.balanced_accuracy == pytest.approx(stats.norm.cdf(0.5), abs=0.006)
    point = found.tpr_at(0.01)
    expected = stats.norm.sf(stats.norm.isf(0.01) - 1)
    assert point.low < point.tpr < point.high
    assert point.tpr == pytest.approx(expected, abs=0.015) and not point.low_count


def test_rates_below_one_non_member_say_nothing_and_few_are_flagged():
    member = np.arange(4000) < 2000
    found = attack_result(np.random.default_rng(0).normal(size=4000), member)
    none, few, many = found.points
    assert none.tpr is None and none.low is None
    assert few.tpr is not None and few.low_count
    assert not many.low_count


def test_rates_never_accuse_more_than_allowed():
    # Three non-members share the highest score: at 10% of 20 nobody can be called.
    scores = np.r_[np.full(3, 9.0), np.zeros(17), np.full(5, 9.0), np.full(5, 10.0)]
    member = np.arange(30) >= 20
    assert attack_result(scores, member).tpr_at(0.1).tpr == 0.5
    assert attack_result(scores, member).tpr_at(0.15).tpr == 1.0


def test_classes_of_unequal_size_weigh_the_same():
    member = np.arange(1000) < 10
    found = attack_result(np.zeros(1000), member, guesses=np.zeros(1000, bool))
    assert found.auc == 0.5
    assert found.balanced_accuracy == 0.5
    assert found.guessed_accuracy == 0.5


def test_vulnerability_is_the_share_of_others_below():
    found = attack_result([3.0, 1.0, 0.0, 1.0, 2.0], [True, True, False, False, False])
    assert found.vulnerability == pytest.approx([1.0, 0.5, 1 / 6, 0.5, 5 / 6])


def test_every_result_names_what_the_attacker_sees():
    found = attack_result([1.0, 0.0], [True, False], threat_model="white_box_final")
    assert found.to_dict()["threat_model"] == "white_box_final"
    assert "white_box_final" in repr(found)
    json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(ParameterError, match="threat_model"):
        attack_result([1.0, 0.0], [True, False], threat_model="omniscient")


@pytest.mark.parametrize(
    ("scores", "member", "match"),
    [
        ([1.0, np.nan], [True, False], "a score is nan"),
        ([1.0, 2.0], [True, True], "one of them is missing"),
        ([1.0, 2.0, 3.0], [True, False], "one length"),
        ([1.0, 2.0], [0, 2], "true or false"),
    ],
)
def test_bad_input_is_named(scores, member, match):
    with pytest.raises(DataError, match=match):
        attack_result(scores, member)


def test_curves_are_drawn_and_thinned_without_losing_their_ends():
    rng = np.random.default_rng(0)
    member = rng.random(5000) < 0.5
    found = attack_result(rng.normal(size=5000) + member, member, attack="one")
    fpr, tpr = thinned(found.curve)
    assert len(fpr) <= 202 and (fpr[0], tpr[0]) == (0, 0) and (fpr[-1], tpr[-1]) == (1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    figure = plot_curves([found])
    assert figure.data[0].name.startswith("one, AUC 0.7")
    assert found.plot().layout.xaxis.type == "log"
