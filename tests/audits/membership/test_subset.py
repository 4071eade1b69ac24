from __future__ import annotations

import numpy as np
import pytest
import torch

from foretell.audits.membership.subset import MemberExamples
from foretell.errors import DataError
from foretell.training import TensorExamples


def test_members_are_examples_of_their_own():
    weights = np.arange(1.0, 6.0)
    examples = TensorExamples({"x": torch.arange(5.0)}, sampling_weights=weights)
    members = np.array([True, False, True, False, True])
    part = MemberExamples(examples, members)
    assert len(part) == 3
    assert part.batch(np.array([2, 0]), np.random.default_rng(0))["x"].tolist() == [4.0, 0.0]
    assert part.sampling_weights.tolist() == [1.0, 3.0, 5.0]
    assert part.fingerprint != MemberExamples(examples, ~members).fingerprint
    with pytest.raises(DataError, match="nobody"):
        MemberExamples(examples, np.zeros(5, bool))
    with pytest.raises(DataError, match="mask of 5"):
        MemberExamples(examples, members[:3])
