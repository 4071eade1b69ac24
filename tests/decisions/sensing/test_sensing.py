from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from foretell.data.simulators.panels import (
    COSTS,
    N_CONTEXT,
    context_of,
    exact_gain,
    panel_patients,
    panel_posterior,
    panel_risk,
)
from foretell.decisions.sensing import (
    EIGSensing,
    NearestDonors,
    Panel,
    SensingPolicy,
    Situation,
    UncertaintyPropagationSensing,
    read_panels,
    reveal,
)
from foretell.errors import DataError, ParameterError

PANELS = [Panel(f"p{j + 1}", (N_CONTEXT + j,), COSTS[j], loinc=("1-1",)) for j in range(6)]


def start(size):
    seen = np.zeros((size, 9), bool)
    seen[:, :N_CONTEXT] = True
    return seen


@pytest.fixture(scope="module")
def sensing():
    """The true posterior as model, real draws as donors."""
    train = panel_patients(6000, seed=1)
    return EIGSensing(panel_risk, PANELS).fit(train.values, np.ones((6000, 9), bool), donors=48)


def test_the_posterior_is_bayes_rule():
    patients = panel_patients(200_000, seed=0)
    risk = panel_risk(patients.values, np.ones((200_000, 9), bool))
    edges = np.linspace(0, 1, 11)
    for low, high in pairwise(edges):
        mine = (risk >= low) & (risk < high)
        if mine.sum() > 500:
            assert patients.label[mine].mean() == pytest.approx(risk[mine].mean(), abs=0.04)
    nothing = panel_posterior(patients.values[:1], np.zeros((1, 9), bool))
    np.testing.assert_allclose(nothing[0], [0.85, *[0.0375] * 4])


def test_gains_are_near_the_exact_ones(sensing):
    patients = panel_patients(400, seed=2)
    exact = exact_gain(patients.values, start(400), draws=2000)
    found = sensing.gains(patients.values, start(400))
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.9
    # The sixth panel tells nothing, however the draws fall.
    assert found[:, 5].mean() < 0.1 * found[:, :5].mean()
    assert (found >= 0).all()


@pytest.mark.parametrize("subtype", [1, 2, 3, 4])
def test_the_panel_of_the_subtype_is_asked_for_first(sensing, subtype):
    values = np.zeros(9)
    values[:3] = context_of(subtype)
    (found,) = SensingPolicy(sensing).recommend(values, start(1)[0])
    assert found.panel == f"p{subtype}"
    assert found.expected_result_by == 1.0 and found.loinc == ("1-1",)
    assert "never measured" in found.reason
    said = float(found.reason.split("expected gain ")[1].split(" at cost")[0])
    assert said == pytest.approx(found.gain, rel=0.1) and "e-" not in found.reason


def test_a_measured_panel_has_no_gain(sensing):
    patients = panel_patients(20, seed=3)
    seen = start(20)
    seen[:, 3] = True
    assert (sensing.gains(patients.values, seen)[:, 0] == 0).all()


def test_a_dearer_panel_is_asked_for_less(sensing):
    patients = panel_patients(300, seed=4)
    gains = sensing.gains(patients.values, start(300))
    counts = []
    for cost in (0.5, 1.0, 2.0, 4.0):
        priced = [Panel("p1", (3,), cost), *PANELS[1:]]
        policy = SensingPolicy(EIGSensing(panel_risk, priced))
        counts.append(int((policy.utilities(gains).argmax(1) == 0).sum()))
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_when_nothing_is_recommended(sensing):
    values = np.zeros(9)
    values[:3] = context_of(1)
    seen = start(1)[0]
    policy = SensingPolicy(sensing)
    for why in ("comfort care", "dialysis"):
        assert policy.recommend(values, seen, Situation(suppressed=why)) == []
    assert policy.recommend(values, seen, Situation(certain=True)) == []
    assert SensingPolicy(sensing, risk_range=(0.99, 1.0)).recommend(values, seen) == []
    assert SensingPolicy(sensing, min_utility=5.0).recommend(values, seen) == []
    everything = Situation(pending=[p.name for p in PANELS])
    assert policy.recommend(values, seen, everything) == []


def test_orders_and_fresh_results_are_not_repeated(sensing):
    values = np.zeros(9)
    values[:3] = context_of(1)
    seen = start(1)[0]
    policy = SensingPolicy(sensing)
    first = [r.panel for r in policy.recommend(values, seen, k=3)]
    assert first[0] == "p1" and len(first) == 3
    after = policy.recommend(values, seen, Situation(hour=7, since={"p1": 2.0}), k=1)[0]
    assert after.panel == first[1] and after.expected_result_by == 8.0
    stale = policy.recommend(values, seen, Situation(since={"p1": 9.0}), k=1)[0]
    assert stale.panel == "p1" and "9 h ago" in stale.reason
    away = policy.recommend(values, seen, Situation(unavailable=["p1"]), k=1)[0]
    assert away.panel == first[1]
    # What was just recommended is not said again every hour, ordered or not.
    said = policy.recommend(values, seen, Situation(recommended={"p1": 1.0}), k=1)[0]
    assert said.panel == first[1]
    again = policy.recommend(values, seen, Situation(recommended={"p1": 4.5}), k=1)[0]
    assert again.panel == "p1" and "never measured" in again.reason
    edge = policy.recommend(values, seen, Situation(since={"p1": PANELS[0].refractory}), k=1)[0]
    assert edge.panel == first[1]
    with pytest.raises(DataError, match="no panel 'p9'"):
        policy.recommend(values, seen, Situation(pending=["p9"]))


def test_a_risk_that_is_certain_asks_for_nothing():
    train = panel_patients(200, seed=1)
    for certain in (0.0, 1.0):
        sure = EIGSensing(lambda X, S, p=certain: np.full(len(X), p), PANELS)
        sure.fit(train.values, np.ones((200, 9), bool))
        assert sure.gains(train.values[:20], start(20)).max() == 0
        assert SensingPolicy(sure).recommend(train.values[0], start(1)[0], k=6) == []


def test_members_that_disagree_are_reported(sensing):
    train = panel_patients(500, seed=1)

    def members(X, S):
        risk = panel_risk(X, S)
        return np.stack([risk, np.clip(risk + 0.1, 0, 1), np.clip(risk - 0.1, 0, 1)])

    values = np.zeros(9)
    values[:3] = context_of(1)
    ensemble = EIGSensing(members, PANELS).fit(train.values, np.ones((500, 9), bool))
    found = SensingPolicy(ensemble).recommend(values, start(1)[0])[0]
    expected = members(values[None], start(1)).std(0)[0]
    assert found.disagreement == pytest.approx(expected) and expected > 0.05
    assert SensingPolicy(sensing).recommend(values, start(1)[0])[0].disagreement is None


def test_panels_come_from_a_file(tmp_path):
    shipped = read_panels({"Lactate": 3, "WBC": 5, "Platelets": 4})
    assert [p.name for p in shipped] == ["lactate", "blood count"]
    assert shipped[1].features == (5, 4) and shipped[1].cost > 0
    file = tmp_path / "panels.toml"

    def read(text):
        file.write_text(text)
        return read_panels({"a": 0, "b": 1}, file)

    own = read('[x]\nchannels = ["a"]\ncost = 2\nturnaround = 3\nloinc = ["1-1"]')[0]
    assert own == Panel("x", (0,), 2, 3, loinc=("1-1",))
    for text, message in (
        ('[x]\nchannels = ["a"]', r"panel 'x' has no cost.*panels.toml"),
        ("[x]\ncost = 1", "no channels"),
        ("[x]\ncost = 1\nchannels = []", "no channels"),
        ('[x]\nchannels = ["a"]\ncost = "dear"', "'dear' is no number"),
        ('[x]\nchannels = "a"\ncost = 1', "list of names"),
        ('[x]\nchannels = ["a"]\ncost = 1\nprice = 1', "unknown key.*price"),
        ("x = 1", "must be a table"),
        ("[x", "cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            read(text)
    with pytest.raises(ParameterError, match="costs 0"):
        read('[x]\nchannels = ["a"]\ncost = 0')
    with pytest.raises(ParameterError, match="share no feature"):
        read('[x]\nchannels = ["a"]\ncost = 1\n[y]\nchannels = ["a"]\ncost = 1')
    with pytest.raises(DataError, match="cannot be read"):
        read_panels({}, tmp_path / "none.toml")


def test_value_of_information_is_none_where_no_result_changes_the_decision():
    train = panel_patients(2000, seed=1)
    cheap = EIGSensing(panel_risk, PANELS, losses=(1e6, 1.0))
    cheap.fit(train.values, np.ones((2000, 9), bool))
    # A missed patient costs so much that everybody is treated, whatever the panel shows.
    assert cheap.gains(train.values[:50], start(50)).max() < 0.2
    fair = EIGSensing(panel_risk, PANELS, losses=(5.0, 1.0))
    fair.fit(train.values, np.ones((2000, 9), bool))
    assert fair.gains(train.values[:50], start(50))[:, :4].max() > 0.05


def test_donors_are_alike_and_have_the_panel():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 3))
    values[:, 2] = 10 * values[:, 0]
    seen = np.ones((300, 3), bool)
    seen[:150, 2] = False
    donors = NearestDonors(values, seen, size=5)
    asked = np.array([[1.0, 0.0, 0.0]])
    shown, there = donors.draw(asked, np.array([[True, True, False]]), Panel("x", (2,), 1.0))
    assert there.all() and abs(shown.mean() - 10) < 4
    by_hand = (values - values.mean(0)) / values.std(0) - (asked - values.mean(0)) / values.std(0)
    far = donors.distances(asked, np.array([[True, True, False]]))[0]
    np.testing.assert_allclose(far, (by_hand[:, :2] ** 2).mean(1), atol=1e-9)
    seen[:, 2] = False
    with pytest.raises(DataError, match="no training patient has panel 'x'"):
        NearestDonors(values, seen).draw(
            asked, np.array([[True, True, False]]), Panel("x", (2,), 1)
        )


def test_only_what_is_on_record_is_revealed(sensing):
    patients = panel_patients(100, seed=5)
    record = np.random.default_rng(0).random((100, 9)) < 0.6
    record[:, :3] = True
    for order, policy in ((np.arange(6), None), (None, SensingPolicy(sensing)), (None, None)):
        steps = reveal(order, sensing, patients.values, start(100), record, budget=6, policy=policy)
        for before, after in pairwise(steps):
            assert (after >= before).all() and (after.sum(1) - before.sum(1) <= 1).all()
        np.testing.assert_array_equal(steps[-1], record)
    steps = reveal(np.array([5, 4, 3, 2, 1, 0]), sensing, patients.values, start(100),
                   np.ones((100, 9), bool), budget=2)  # fmt: skip
    assert steps[2][:, [8, 7]].all() and not steps[2][:, 3:7].any()


def test_propagated_variance_is_the_variance_of_a_linear_model():
    weights = np.array([1.0, -2.0, 0.5, 3.0])
    sensing = UncertaintyPropagationSensing(
        lambda X, S: np.broadcast_to(weights, X.shape),
        [Panel("a", (2,), 1.0), Panel("b", (1, 3), 1.0)],
        np.array([1.0, 0.5, 2.0, 0.1]),
    )
    seen = np.array([[True, False, False, False], [True, True, False, False]])
    found = sensing.gains(np.zeros((2, 4)), seen)
    np.testing.assert_allclose(found, [[1.0, 1.0 + 0.09], [1.0, 0.0]])


def test_panels_and_policies_are_checked(sensing):
    for arguments, message in (
        (("x", (), 1.0), "needs features"),
        (("x", (1, 1), 1.0), "each once"),
        (("x", (1,), 0.0), "costs 0"),
        (("x", (1,), float("nan")), "costs nan"),
    ):
        with pytest.raises(ParameterError, match=message):
            Panel(*arguments)
    with pytest.raises(ParameterError, match="share no feature"):
        EIGSensing(panel_risk, [Panel("a", (1,), 1.0), Panel("b", (1,), 1.0)])
    with pytest.raises(ParameterError, match="no panel"):
        EIGSensing(panel_risk, [])
    with pytest.raises(ParameterError, match="losses"):
        EIGSensing(panel_risk, PANELS, losses=(1.0, 0.0))
    with pytest.raises(ParameterError, match="risk_range"):
        SensingPolicy(sensing, risk_range=(0.5, 0.5))
    with pytest.raises(DataError, match="no donors yet"):
        EIGSensing(panel_risk, PANELS).gains(np.zeros((1, 9)), start(1))
