from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse, stats

from foretell.audits.membership import (
    blind_baseline,
    check_bound,
    content_hashes,
    find_duplicates,
)
from foretell.errors import DataError


def test_a_shift_between_members_and_others_makes_an_audit_invalid():
    rng = np.random.default_rng(0)
    member = rng.random(600) < 0.5
    same = rng.normal(size=(600, 5))
    assert not blind_baseline(same, member).invalid
    shifted = same + 0.6 * member[:, None]
    found = blind_baseline(shifted, member)
    assert found.invalid and found.auc > 0.7
    assert blind_baseline(sparse.csr_matrix(shifted), member).invalid


def test_a_new_topic_is_seen_in_texts():
    texts = [f"the weather of day {i}" for i in range(60)]
    texts += [f"the election of day {i}" for i in range(60)]
    member = np.arange(120) < 60
    assert blind_baseline(texts, member).invalid
    assert not blind_baseline(texts, np.random.default_rng(0).permutation(member)).invalid


def test_chance_in_few_examples_does_not_make_it_invalid():
    verdicts = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        member = rng.permutation(40) < 20
        verdicts.append(blind_baseline(rng.normal(size=(40, 3)), member).invalid)
    assert sum(verdicts) <= 3
    with pytest.raises(DataError, match="too few"):
        blind_baseline(np.zeros((8, 2)), np.arange(8) < 4)


def test_twins_are_found_whatever_their_case_and_spaces():
    hashes = content_hashes(["Play  jazz", "play jazz ", "stop", b"x", np.arange(3), np.arange(3)])
    found = find_duplicates(hashes, [True, False, True, True, True, True])
    assert [group.tolist() for group in found.groups] == [[0, 1], [4, 5]]
    assert found.across == 2
    assert find_duplicates(hashes).across == 0


def test_the_bound_of_differential_privacy_holds_for_the_mechanism_and_not_below_it():
    # A Gaussian mechanism with sensitivity 1: epsilon at delta by the exact formula.
    rng = np.random.default_rng(0)
    member = np.arange(200_000) < 100_000
    sigma, delta = 1.0, 1e-5
    scores = rng.normal(0, sigma, len(member)) + member

    def cost(epsilon):
        a = 1 / (2 * sigma)
        return stats.norm.cdf(a - epsilon * sigma) - math.exp(epsilon) * stats.norm.cdf(
            -a - epsilon * sigma
        )

    epsilon = next(e for e in np.arange(0.1, 10, 0.01) if cost(e) <= delta)
    fine = check_bound(scores, member, epsilon, delta)
    assert fine.violations == 0 and 0.5 < fine.closest < epsilon
    wrong = check_bound(scores, member, 1.0, delta)
    assert wrong.violations > 0 and wrong.closest > 1.0
