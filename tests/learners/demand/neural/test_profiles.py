"""Group profiles: means by hand, nothing from after the fork, and continuation of stored ones."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.data.panel import Categorical, Panel
from foretell.errors import DataError
from foretell.learners.demand.neural import SequenceReader, learn_spec
from foretell.learners.demand.neural.profiles import GroupProfile

H, SEASON = 3, 4


def make_panel(seed=0):
    rng = np.random.default_rng(seed)
    values = [rng.lognormal(2, 0.4, m) for m in (20, 18, 15, 20)]
    values[1][6] = np.nan
    groups = Categorical.from_values(["a", "a", "a", "b"])
    return Panel.from_arrays(values, start=[10, 12, 14, 10], static_categorical={"group": groups})


def test_means_are_those_of_a_loop():
    panel = make_panel()
    profile = GroupProfile.of(panel, "group", ("a", "b"), window=3, floor=1e-6)
    for period in range(10, 32):
        values, scales = [], []
        for i in range(3):
            step = period - panel.starts[i]
            if 0 <= step < panel.lengths[i]:
                y = panel.series(i)[: step + 1]
                scales.append(y[~np.isnan(y)][-3:].mean())
                if not np.isnan(y[-1]):
                    values.append(y[-1])
        mean, there = profile.value_at(np.array([1]), np.array([period]))
        assert there[0] == (len(values) >= 2)
        if there[0]:
            assert mean[0] == pytest.approx(np.mean(values), rel=1e-5)
        scale, there = profile.scale_at(np.array([1]), np.array([period]))
        assert there[0] == (len(scales) >= 2)
        if there[0]:
            assert scale[0] == pytest.approx(np.mean(scales), rel=1e-5)
    # One member is no group, and unknown is none.
    assert not profile.value_at(np.array([2, 0]), np.array([15, 15]))[1].any()


def read(panel, spec, back, profiles=None):
    reader = SequenceReader(panel, spec, profiles)
    rows = np.arange(len(panel))
    forks = (panel.lengths - 1 - back - reader.first_observed)[:, None]
    return reader.read(rows, reader.first_observed, forks, int(forks.max()) + 1)


def test_references_of_a_fork_do_not_see_later_weeks_of_other_series():
    panel = make_panel()
    spec = learn_spec(panel, H, seasons=(SEASON,), scale_window=3, groups=["group"])
    whole, cut = read(panel, spec, 5), read(panel.until(int(panel.ends.min()) - 5), spec, 0)
    same_end = np.flatnonzero(panel.ends == panel.ends.min())
    for name in ("reference", "candidates", "available"):
        np.testing.assert_array_equal(whole[name][same_end], cut[name][same_end])
    assert whole["available"][0, 0, :, 5].all()


def test_a_few_series_rest_on_the_training_panels_groups():
    panel = make_panel()
    spec = learn_spec(panel, H, seasons=(SEASON,), scale_window=3, groups=["group"])
    stored = SequenceReader(panel, spec).profiles
    everyone = read(panel, spec, 0, stored)
    alone = read(panel.select(np.array([0])), spec, 0, stored)
    for name in ("reference", "candidates", "available"):
        np.testing.assert_array_equal(everyone[name][:1], alone[name])
    assert not read(panel.select(np.array([0])), spec, 0)["available"][0, 0, :, 5].any()
    arrays = stored["group"].to_arrays("x")
    again = GroupProfile.from_arrays(arrays, "x")
    assert again.first == stored["group"].first
    np.testing.assert_array_equal(again.values, stored["group"].values)


def test_unknown_group_is_named():
    with pytest.raises(DataError, match=r"static category.*'colour'"):
        learn_spec(make_panel(), H, seasons=(SEASON,), scale_window=3, groups=["colour"])
