from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from foretell.audits.dp import audit_clopper_pearson
from foretell.audits.dp.gaussian import epsilon_of
from foretell.audits.dp.result import binomial_high, binomial_low
from foretell.errors import DataError, ParameterError, PrivacyViolation
from foretell.training.private import PrivacyStatement


def normal(shift: float, n: int, seed: int) -> np.ndarray:
    return shift + np.random.default_rng(seed).standard_normal(n)


def statement(**changes) -> PrivacyStatement:
    given = {
        "epsilon": epsilon_of(1.0, 1e-5), "delta": 1e-5, "adjacency": "add_remove_example",
        "unit": "example", "sampling": "none", "accountant": "pld", "clipping": "exact",
        "sensitivity_factor": 1.0, "noise_multipliers": (1.0,), "steps": (1,), "assumptions": (),
        "dp_event": "none",
    }  # fmt: skip
    return PrivacyStatement(**{**given, **changes})


@pytest.mark.parametrize("threshold", ["split", "bonferroni"])
def test_the_mechanism_of_an_example_keeps_its_claim_and_that_of_a_micro_batch_breaks_it(threshold):
    """An example more moves a clipped sum by C, a micro-batch's from +C to -C."""
    n = 100_000
    example = audit_clopper_pearson(
        normal(1, n, 0),
        normal(0, n, 1),
        1e-5,
        threshold=threshold,
        threat_model="white_box_iterates",
    )
    batch = audit_clopper_pearson(
        normal(1, n, 2),
        normal(-1, n, 3),
        1e-5,
        threshold=threshold,
        threat_model="white_box_iterates",
    )
    claim, true = statement(), statement(epsilon=epsilon_of(2.0, 1e-5))
    example.check(claim)
    batch.check(true)
    assert 2 < example.epsilon < claim.epsilon < batch.epsilon < true.epsilon
    with pytest.raises(PrivacyViolation, match="is false: epsilon is at least") as caught:
        batch.check(claim)
    assert caught.value.claimed == claim.epsilon and caught.value.lower_bound == batch.epsilon
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.claimed) == (str(caught.value), claim.epsilon)


def test_a_fixed_threshold_gives_the_formula():
    inside, outside = np.r_[np.ones(80), np.zeros(20)], np.r_[np.ones(10), np.zeros(190)]
    found = audit_clopper_pearson(inside, outside, 1e-3, threshold=0.5)
    low, high = binomial_low(80, 100, 0.025), binomial_high(10, 200, 0.025)
    assert found.epsilon == pytest.approx(math.log((low - 1e-3) / high))
    assert (found.details["true_positive_rate"], found.details["false_positive_rate"]) == (
        0.8,
        0.05,
    )
    # Bounds of a share are where its tail has the chance that is left.
    from scipy.stats import binom

    assert binom.sf(79, 100, low) == pytest.approx(0.025)
    assert binom.cdf(10, 200, high) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("threshold", "curve"),
    [("split", "any"), ("bonferroni", "any"), ("split", "gaussian"), ("bonferroni", "gaussian")],
)
def test_true_claims_stand(threshold, curve):
    true = epsilon_of(1.0, 1e-3)
    wrong = sum(
        audit_clopper_pearson(
            normal(1, 300, 2 * s), normal(0, 300, 2 * s + 1), 1e-3, threshold=threshold, curve=curve
        ).epsilon
        > true
        for s in range(25)
    )
    assert wrong <= 4


def test_few_runs_tell_more_of_a_gaussian_trade_off():
    inside, outside = normal(2, 200, 0), normal(0, 200, 1)
    any_curve = audit_clopper_pearson(inside, outside, 1e-5)
    gaussian = audit_clopper_pearson(inside, outside, 1e-5, curve="gaussian")
    assert any_curve.epsilon < epsilon_of(1.0, 1e-5) < gaussian.epsilon < epsilon_of(2.0, 1e-5)
    assert gaussian.method == "clopper_pearson_gaussian"
    assert any("Gaussian" in text for text in gaussian.assumptions)


def test_the_other_way_round_counts_too():
    """What is rare with the canary and common without it refutes as well."""
    rng = np.random.default_rng(0)
    outside = np.where(rng.random(5000) < 0.3, -5.0, rng.standard_normal(5000))
    found = audit_clopper_pearson(rng.standard_normal(5000), outside, 1e-5)
    assert found.epsilon > 3 and found.details["threshold"] < -2


def test_equal_scores_prove_nothing():
    for threshold in ("split", "bonferroni"):
        assert (
            audit_clopper_pearson(np.ones(50), np.ones(60), 1e-5, threshold=threshold).epsilon == 0
        )


def test_a_statement_of_another_unit_or_delta_cannot_be_judged():
    found = audit_clopper_pearson(normal(1, 100, 0), normal(0, 100, 1), 1e-5)
    with pytest.raises(ParameterError, match="one microbatch"):
        found.check(statement(unit="microbatch"))
    with pytest.raises(ParameterError, match="smaller delta"):
        found.check(statement(delta=1e-3))
    found.check(statement(delta=1e-7))
    found.check(100.0)


def test_a_result_says_all_that_it_rests_on():
    found = audit_clopper_pearson(normal(1, 100, 0), normal(0, 100, 1), 1e-5)
    for word in ("white_box_final", "95% confidence", "delta 1e-05", "200 canaries"):
        assert word in str(found)
    assert found.interval == (found.epsilon, math.inf)
    assert found.to_dict()["tries"][0]["epsilon"] == found.epsilon
    assert found.to_polars().height == 1
    figure = found.plot(statement())
    assert len(figure.data) == 1 and figure.layout.shapes
    with pytest.raises(ParameterError, match="threat_model"):
        audit_clopper_pearson([1.0, 2], [0.0, 1], 1e-5, threat_model="psychic")


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(DataError, match="not finite"):
        audit_clopper_pearson([1.0, np.inf], [0.0, 1.0], 1e-5)
    with pytest.raises(DataError, match="two scores"):
        audit_clopper_pearson([1.0], [0.0, 1.0], 1e-5)
    with pytest.raises(ParameterError, match="threshold"):
        audit_clopper_pearson([1.0, 2], [0.0, 1], 1e-5, threshold="best")
    with pytest.raises(ParameterError, match="curve"):
        audit_clopper_pearson([1.0, 2], [0.0, 1], 0.0, curve="gaussian")
