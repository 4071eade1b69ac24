"""The closed forms of late labels: constants, brute force over two points, and a simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from foretell.data.events.emission import Protocol, plan
from foretell.errors import ParameterError
from foretell.training.weighting import (
    DuallyEnhancedLabels,
    ElapsedTimeSampling,
    FakeNegativeLabels,
    FakeNegativeWeighting,
    FunnelWeighting,
    RealNegativeDuplicates,
    UnbiasedLabelCorrection,
    effective_sample_size,
    exact,
    published,
)

P, S = np.array([0.2, 0.5]), np.array([0.5, 0.8])
DELAYED = P * S
REAL = exact.real_negative(P, DELAYED)
TOLERANCE = 1e-12


def _expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Expected masses (positive, negative) an entity leaves at each of the two points."""
    one, zero = np.ones(2), np.zeros(2)
    early, late, never = P - DELAYED, DELAYED, 1 - P
    pale = 1 - P + DELAYED  # looks negative when it is first emitted
    if name == "vanilla":
        return P, pale
    if name.startswith("fnw"):
        form = exact.fnw if name == "fnw exact" else published.fnw
        return P * form(one, P), one * form(zero, P)
    if name.startswith("esdfm"):
        if name == "esdfm exact":
            return P * exact.esdfm(one, REAL), pale * exact.esdfm(zero, REAL)
        return P * published.esdfm(one, REAL, DELAYED), pale * published.esdfm(zero, REAL, DELAYED)
    if name.startswith("defer"):
        form = exact.defer if name == "defer exact" else published.defer
        return (early + P) * form(one, P, DELAYED), (pale + never) * form(zero, P, DELAYED)
    if name.startswith("defuse"):
        form = exact.defuse if name == "defuse exact" else published.defuse
        rows = [(early, one, zero), (late, one, one), (pale, zero, zero)]
        parts = [(n, form(label, copied, REAL, DELAYED)) for n, label, copied in rows]
    elif name.startswith("ddfm"):
        form = exact.ddfm if name == "ddfm exact" else published.ddfm
        rows = [(early, one, zero), (pale, zero, zero), (late, one, one), (never, zero, one)]
        parts = [(n, form(label, second, REAL, P, DELAYED)) for n, label, second in rows]
    else:
        parts = [(early, published.ulc(one, REAL)), (pale, published.ulc(zero, REAL))]
    return sum(n * m[0] for n, m in parts), sum(n * m[1] for n, m in parts)


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("vanilla", 0.28),
        ("esdfm published", 0.368),
        ("esdfm exact", 0.35),
        ("fnw published", 11 / 30),
        ("fnw exact", 0.35),
        ("defer published", 0.35),
        ("defer exact", 0.35),
        ("defuse published", 0.368),
        ("defuse exact", 0.35),
        ("ddfm published", (0.2 * 1.9 + 0.5 * 1.9) / (1.9 + 1.9)),
        ("ddfm exact", 0.35),
        ("ulc", 0.35),
    ],
)
def test_best_constant_predictor_tells_tilted_weights_from_exact_ones(name, constant):
    positive, negative = _expected(name)
    assert abs(positive.sum() / (positive + negative).sum() - constant) < TOLERANCE
    if name != "vanilla":  # a model that sees x is right under either form
        assert_allclose(positive / (positive + negative), P, atol=TOLERANCE)


def test_released_defuse_weights_are_not_reproduced():
    # The released code gives every positive row (1 + p_dp) + 1, which is wrong at every point.
    z, delayed = 1 - REAL, DELAYED
    pale = 1 - P + DELAYED
    positive = P * (2 + delayed) + pale * z * delayed
    negative = pale * (1 - z) * (1 + delayed)
    assert_allclose(positive / (positive + negative), [0.328, 0.660], atol=5e-4)
    ours, theirs = _expected("defuse published")
    assert_allclose(ours / (ours + theirs), P, atol=TOLERANCE)


def test_funnel_weights_give_back_the_class_masses():
    engaged, converts = np.array([0.4, 0.7]), np.array([0.5, 0.6])
    late_engaged, late = np.array([0.3, 0.5]), np.array([0.8, 0.9])
    y = engaged * converts
    final = np.stack([1 - engaged, engaged - y, y], 1)
    weights = exact.finality(final, np.stack([late_engaged, late], 1))
    rows = np.stack([1 - engaged + engaged * late_engaged, engaged - y + y * late, y], 1)
    assert_allclose((weights * rows).mean(0), [0.45, 0.24, 0.31], atol=TOLERANCE)
    assert_allclose(weights * rows, final, atol=TOLERANCE)


def test_funnel_of_two_labels_is_the_binary_problem():
    final = np.stack([1 - P, P], 1)
    weights = exact.finality(final, S[:, None])
    assert_allclose(weights, np.stack([REAL, np.ones(2)], 1), atol=TOLERANCE)
    as_tensor = exact.finality(torch.from_numpy(final), torch.from_numpy(S[:, None]))
    assert_allclose(as_tensor.numpy(), weights, atol=TOLERANCE)
    with pytest.raises(ParameterError, match="3 labels and 1 survivals"):
        exact.finality(np.ones((1, 3)), np.ones((1, 1)))


@given(p=st.floats(0.001, 0.999), s=st.floats(0.0, 1.0))
def test_serving_correction_inverts_the_bias(p, s):
    observed = exact.observed_positive(p, p * s)
    assert exact.fnc(observed, s) == pytest.approx(p, rel=1e-9)
    if s == 1:
        assert exact.fnc(observed) == pytest.approx(observed / (1 - observed))


def test_effective_sample_size():
    assert effective_sample_size(np.ones(7)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.zeros(3)) == 0


# ---------------------------------------------------------------------- simulation

N, WAIT, WINDOW = 2_000_000, 1.0, 10.0


@pytest.fixture(scope="module")
def entities():
    """Two kinds of entities with late engagement and later conversion."""
    rng = np.random.default_rng(11)
    x = rng.integers(0, 2, N)
    engages = rng.random(N) < np.array([0.4, 0.7])[x]
    converts = engages & (rng.random(N) < np.array([0.5, 0.6])[x])
    engaged = np.where(engages, rng.exponential(np.array([0.8, 1.4])[x]), np.inf)
    converted = np.where(converts, engaged + rng.exponential(np.array([1.0, 3.0])[x]), np.inf)
    engaged[engaged > WINDOW] = np.inf
    converted[converted > WINDOW] = np.inf
    return x, engaged, converted


def _rows(protocol, entities):
    _, engaged, converted = entities
    times = np.zeros(N)
    kinds = ("view",) if protocol == "funnel" else ()
    what = Protocol(protocol, WAIT, kinds)
    return plan(what, times, times + WINDOW, converted, engaged if kinds else None)


def _estimate(positive, total, x):
    """Saturated optimum and its standard error at each x."""
    result = []
    for kind in (0, 1):
        a, n = positive[x == kind], total[x == kind]
        p = a.sum() / n.sum()
        result.append((p, np.sqrt(((a - p * n) ** 2).sum()) / n.sum()))
    return np.array(result).T


CASES = [
    ("fnw", FakeNegativeWeighting),
    ("esdfm", ElapsedTimeSampling),
    ("defer", RealNegativeDuplicates),
    ("defuse", FakeNegativeLabels),
    ("ulc", UnbiasedLabelCorrection),
    ("ddfm", DuallyEnhancedLabels),
    ("vanilla", None),
]


@pytest.mark.parametrize("weights", ["exact", "published"])
@pytest.mark.parametrize(("protocol", "kind"), CASES)
def test_simulated_rows_give_back_the_probability(protocol, kind, weights, entities):
    x, _, converted = entities
    truth = np.array([np.isfinite(converted[x == k]).mean() for k in (0, 1)])
    late = np.isfinite(converted) & (converted > WAIT)
    survival = np.array([late[x == k].sum() / np.isfinite(converted[x == k]).sum() for k in (0, 1)])
    rows = _rows(protocol, entities)
    keep = np.ones(len(rows.entity), bool)
    if protocol == "ddfm":
        keep = (rows.stage != 2) | (rows.label == 0) | (rows.time > WAIT)
    label, stage, kinds = rows.label[keep], rows.stage[keep], x[rows.entity[keep]]
    if kind is None:
        positive, total = label.astype(float), np.ones(len(label))
    else:
        batch = {
            "label": torch.from_numpy(label.astype(np.int64)),
            "copied": torch.from_numpy((stage == 1).astype(np.float64)),
            "second": torch.from_numpy((stage == 2).astype(np.float64)),
            "survival": torch.from_numpy(survival[kinds][:, None]),
        }
        p = torch.from_numpy(truth[kinds])
        masses = kind(weights, floor=0.0).row_masses(torch.stack([1 - p, p], 1), batch).numpy()
        positive, total = masses[:, 1], masses.sum(1)
    found, error = _estimate(positive, total, kinds)
    off = np.abs(found - truth) / error
    assert (off > 10).all() if kind is None else (off < 3).all()


def test_simulated_funnel_rows_give_back_the_labels(entities):
    x, engaged, converted = entities
    state = np.where(np.isfinite(converted), 2, np.isfinite(engaged))
    final = np.stack([[(state[x == k] == j).mean() for j in range(3)] for k in (0, 1)])
    beyond = [np.minimum(engaged, converted), np.where(np.isfinite(converted), converted, np.inf)]
    survival = np.stack(
        [[(d[(x == k) & np.isfinite(d)] > WAIT).mean() for d in beyond] for k in (0, 1)]
    )
    rows = _rows("funnel", entities)
    kinds = x[rows.entity]
    batch = {
        "label": torch.from_numpy(rows.label.astype(np.int64)),
        "survival": torch.from_numpy(survival[kinds]),
    }
    masses = FunnelWeighting(floor=0.0).row_masses(torch.from_numpy(final[kinds]), batch).numpy()
    for label in range(3):
        found, error = _estimate(masses[:, label], masses.sum(1), kinds)
        assert (np.abs(found - final[:, label]) < 3 * error).all()
