from __future__ import annotations

import numpy as np
import pytest

from foretell.audits.extraction import CanarySuite
from foretell.data.text import TextSet
from foretell.estimators import NLU

DIGITS = tuple("0123456789")
TEMPLATES = ("my pin is", "call me at", "the door code is")


@pytest.fixture(scope="session")
def real() -> TextSet:
    rng = np.random.default_rng(0)
    rows = [("play", "music") if rng.random() < 0.5 else ("wake", "alarm") for _ in range(300)]
    texts = [f"{verb} {rng.choice(['a', 'b', 'c', 'd'])} {rng.choice(DIGITS)}" for verb, _ in rows]
    return TextSet.from_texts(texts, [intent for _, intent in rows], ["O B-what O"] * 300)


@pytest.fixture(scope="session")
def suite() -> CanarySuite:
    return CanarySuite(TEMPLATES, DIGITS, n_tokens=3, repetitions=20)


@pytest.fixture(scope="session")
def planted(real, suite):
    return suite.insert(real)


@pytest.fixture(scope="session")
def small():
    """Makes a small model."""

    def make(encoder: str = "bilstm", **options) -> NLU:
        given = {"embedding": 12, "hidden": 12, "heads": 2, "max_steps": 120, "batch_size": 32,
                 "learning_rate": 1e-2, "threads": 1}  # fmt: skip
        return NLU(encoder, **{**given, **options})

    return make


@pytest.fixture(scope="session")
def model(planted, small) -> NLU:
    return small().fit(planted.text)
