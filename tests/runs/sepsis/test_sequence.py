"""Sections of a recipe become continual methods."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from foretell.errors import RecipeError
from foretell.learners.risk import HourExamples
from foretell.runs.sepsis.recipe import MethodSection
from foretell.runs.sepsis.sequence import method_of
from foretell.training.continual import GEM

KINDS = [k for k in get_args(MethodSection.model_fields["kind"].annotation) if k != "wuperr"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_a_recipe_is_a_method(kind):
    made = method_of(kind, MethodSection(kind=kind), 3)
    assert getattr(made, "random_state", 3) == 3
    assert (getattr(made, "labels", None) is not None) == (made.keeps == "raw examples")


def test_memories_of_gem_keep_more_of_the_hours_before_an_onset():
    section = MethodSection(kind="gem", options={"memory": 40, "positives": 20, "margin": 0.1})
    made = method_of("held", section, 0)
    assert isinstance(made, GEM) and made.margin == 0.1
    rng = np.random.default_rng(0)
    label = (np.arange(1000) < 30).astype(np.int8)
    features = rng.normal(size=(1000, 3)).astype(np.float32)
    made.end(None, HourExamples(features, label, None, positives=0.5))
    assert label[made.kept[0].indices].sum() == 20 and len(made.kept[0]) == 40
    with pytest.raises(RecipeError, match="strength"):
        method_of("held", MethodSection(kind="gem", options={"strength": 1.0}), 0)
