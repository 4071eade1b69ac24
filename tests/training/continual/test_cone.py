from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.errors import ParameterError
from foretell.training.continual.cone import multipliers


def drawn(seed, tasks, size=12):
    rng = np.random.default_rng(seed)
    lengths = 10.0 ** rng.uniform(-3, 3, (tasks, 1))
    return lengths * rng.normal(size=(tasks, size)), rng.normal(size=size)


def projected(references, vector, margin=0.0):
    found = multipliers(references @ references.T, references @ vector, margin)
    return found, vector + references.T @ found


def by_active_sets(references, vector, margin=0.0):
    """The best of all optima with some of the multipliers at the margin and the others free."""
    gram, against, tasks = references @ references.T, references @ vector, len(references)
    best, least = None, np.inf
    for count in range(tasks + 1):
        for free in map(list, combinations(range(tasks), count)):
            v = np.full(tasks, margin)
            rest = [i for i in range(tasks) if i not in free]
            slope = against[free] + gram[np.ix_(free, rest)] @ v[rest]
            v[free] = np.linalg.lstsq(gram[np.ix_(free, free)], -slope, rcond=None)[0]
            value = 0.5 * v @ gram @ v + against @ v
            if (v >= margin).all() and value < least:
                best, least = v, value
    return best


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_the_optimum_is_the_best_of_all_active_sets(tasks, margin):
    free = set()
    for seed in range(60):
        references, vector = drawn((seed, tasks), tasks)
        references /= np.linalg.norm(references, axis=1, keepdims=True)
        found, _ = projected(references, vector, margin)
        expected = by_active_sets(references, vector, margin)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
        free.add(int((found > margin).sum()))
    assert free == set(range(tasks + 1))  # every number of active constraints was seen


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([0.0, 0.5, 2.0]))
def test_no_reference_is_opposed_and_what_is_free_is_orthogonal(seed, tasks, margin):
    references, vector = drawn(seed, tasks)
    found, new = projected(references, vector, margin)
    inner = references @ new / np.linalg.norm(references, axis=1)
    scale = np.linalg.norm(vector) + np.linalg.norm(margin * references)
    assert (found >= margin).all()
    assert inner.min() >= -1e-9 * scale
    assert (np.abs(inner[found > margin]) <= 1e-9 * scale).all()


def test_with_one_reference_it_is_the_closed_form():
    for seed in range(20):
        references, vector = drawn(seed, 1)
        inner, length = references[0] @ vector, references[0] @ references[0]
        expected = vector - min(inner / length, 0) * references[0]
        np.testing.assert_allclose(projected(references, vector)[1], expected, rtol=1e-10)


def test_where_nothing_is_opposed_nothing_changes():
    references, _ = drawn(1, 3)
    vector = np.linalg.pinv(references) @ np.ones(3)
    assert (multipliers(references @ references.T, references @ vector) == 0).all()


def test_references_may_depend_on_each_other_or_be_zero():
    one, other = np.array([3.0, 0, 0, 0]), np.array([1.0, 1, 0, 0])
    references = np.stack([one, 2 * one, -one, np.zeros(4), other])
    vector = np.array([-2.0, -3, 5, 7])
    found, new = projected(references, vector)
    # Neither along the first axis nor against it: only the second may remain, which is opposed.
    np.testing.assert_allclose(new, [0, 0, 5, 7], atol=1e-9)
    assert found[3] == 0
    np.testing.assert_array_equal(multipliers(np.zeros((2, 2)), np.zeros(2), 0.5), [0.5, 0.5])


@pytest.mark.parametrize(
    ("gram", "against", "message"),
    [
        (np.eye(2), np.ones(3), r"\(2, 2\) and \(3,\)"),
        (np.eye(2), np.array([1, np.nan]), "finite"),
        (np.full((1, 1), np.inf), np.ones(1), "finite"),
    ],
)
def test_what_is_no_programme_is_refused(gram, against, message):
    with pytest.raises(ParameterError, match=message):
        multipliers(gram, against)
