"""Heads, losses, scales, encoders, calendar and fork drawing, each against what it must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foretell.data.frequency import Frequency
from foretell.errors import ParameterError
from foretell.learners.demand.neural.calendar import calendar_features
from foretell.learners.demand.neural.encoders import CausalCNN, make_encoder
from foretell.learners.demand.neural.ensembling import ensemble_origins
from foretell.learners.demand.neural.forking import draw_forks
from foretell.learners.demand.neural.heads import MonotoneGridHead, spread
from foretell.learners.demand.neural.losses import censored_pinball, pinball
from foretell.learners.demand.neural.scaling import causal_mean_scale

LEVELS = torch.tensor([0.1, 0.5, 0.9])
floats = st.floats(-(2.0**66), 2.0**66, width=32)


@given(
    arrays(np.float32, (7, 9), elements=floats),
    st.floats(-(2.0**20), 2.0**20, width=32),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(0, 8),
)
def test_quantiles_never_cross_in_single_precision(raw, base, unit, anchor):
    size = torch.full((7,), unit)
    result = spread(torch.from_numpy(raw), anchor, torch.full((7,), base), size)
    assert bool((result.diff(dim=-1) >= 0).all())


def test_every_level_of_the_head_has_a_gradient():
    head = MonotoneGridHead(4, [0.1, 0.3, 0.5, 0.7, 0.9])
    assert head.anchor == 2
    head(torch.randn(3, 4)).square().sum().backward()
    assert bool((head.linear.weight.grad.abs().sum(1) > 0).all())
    assert MonotoneGridHead(4, [0.9])(torch.randn(3, 4)).shape == (3, 1)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_pinball_is_minimised_by_its_own_quantile(level):
    """A summary of the paper prints q and 1 - q swapped: then this picks the wrong end."""
    y = torch.from_numpy(np.random.default_rng(0).lognormal(size=2001).astype(np.float32))
    grid = torch.linspace(0, 8, 1601)
    loss = pinball(y[:, None].expand(-1, 1601), grid[:, None], torch.tensor([level])).mean((0, 2))
    empirical = float(torch.quantile(y, level))
    assert abs(float(grid[loss.argmin()]) - empirical) < 0.02


def test_censored_pinball_charges_only_quantiles_below_the_sales():
    y = torch.tensor([10.0])
    q = torch.tensor([[8.0, 10.0, 15.0]])
    cut = censored_pinball(y, q, LEVELS, torch.tensor([True]))
    assert cut[0].tolist() == pytest.approx([0.2, 0.0, 0.0])
    free = censored_pinball(y, q, LEVELS, torch.tensor([False]))
    assert torch.equal(free, pinball(y, q, LEVELS)) and float(free[0, 2]) > 0


def test_causal_scale_equals_the_loop():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(5, 40)) * 10
    seen = rng.random((5, 40)) < 0.6
    seen[4] = False
    got = causal_mean_scale(y, seen, window=6, floor=0.5, default=7.0)
    for b in range(5):
        for t in range(40):
            last = np.abs(y[b, : t + 1][seen[b, : t + 1]])[-6:]
            assert got[b, t] == pytest.approx(max(last.mean(), 0.5) if last.size else 7.0, rel=1e-5)


def test_causal_scale_survives_a_fall_from_millions_to_one():
    y = np.concatenate([np.full(50, 1e8), np.ones(20)])[None]
    got = causal_mean_scale(y, np.ones_like(y, bool), window=5, floor=1e-6, default=1.0)
    assert got[0, -1] == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("name", ["cnn", "cnn-gluonts", "lstm", "gru"])
def test_encoders_are_causal(name):
    """Public MQ-RNN code reads the sequence in both directions: its early forks see the labels."""
    torch.manual_seed(0)
    encoder = make_encoder(name, 3, 8).eval()
    inputs = torch.randn(2, 80, 3)
    changed = inputs.clone()
    changed[:, 50:] += torch.randn(2, 30, 3) * 100
    with torch.no_grad():
        first, second = encoder(inputs), encoder(changed)
    assert torch.equal(first[:, :50], second[:, :50])
    assert not torch.allclose(first[:, 50:], second[:, 50:])


def test_receptive_fields_are_those_of_the_gradient():
    for kernels, dilations, field in [
        ((2,) * 6, (1, 2, 4, 8, 16, 32), 64),
        ((7, 3, 3), (1, 3, 9), 31),
    ]:
        encoder = CausalCNN(1, 4, kernels, dilations).eval()
        for p in encoder.parameters():
            torch.nn.init.constant_(p, 0.1)
        inputs = torch.randn(1, 100, 1, requires_grad=True)
        encoder(inputs)[0, -1].sum().backward()
        reached = torch.nonzero(inputs.grad[0, :, 0]).flatten()
        assert encoder.receptive_field == field == 100 - int(reached.min())


def test_unknown_encoder_is_named():
    with pytest.raises(ParameterError, match="'wavelet'"):
        make_encoder("wavelet", 1, 4)


@pytest.mark.parametrize("draw", ["random", "contiguous", "last", "common"])
def test_forks_are_drawn_without_replacement_from_usable_steps(draw):
    rng = np.random.default_rng(0)
    usable = np.zeros((4, 30), bool)
    usable[0, 5:25] = True
    usable[1, 28:] = True
    usable[2, :] = True
    forks = draw_forks(usable, 6, draw, rng)
    assert forks.shape == (4, 6)
    for b in range(4):
        chosen = forks[b][forks[b] >= 0]
        assert len(chosen) == min(6, usable[b].sum()) == len(set(chosen.tolist()))
        assert usable[b, chosen].all()
        if draw not in ("random", "common") and len(chosen) > 1:
            assert set(np.diff(chosen)) == {1}
    if draw == "last":
        assert forks[0].tolist() == [19, 20, 21, 22, 23, 24]


def test_common_forks_stand_at_the_same_steps_of_all_series():
    usable = np.ones((5, 40), bool)
    rng = np.random.default_rng(0)
    forks = [draw_forks(usable, 2, "common", rng) for _ in range(50)]
    assert all((step == step[0]).all() for step in forks)
    assert len(np.unique(np.concatenate(forks))) > 30


def test_random_forks_are_uniform():
    usable = np.ones((20_000, 10), bool)
    forks = draw_forks(usable, 3, "random", np.random.default_rng(0))
    shares = np.bincount(forks.ravel(), minlength=10) / len(usable)
    assert np.abs(shares - 0.3).max() < 0.015


def test_calendar_knows_easter_and_repeats_every_year():
    weekly = Frequency.parse("W-FRI")
    dates = np.array(["2011-04-22", "2011-04-29", "2012-04-06", "2012-07-06"], "datetime64[us]")
    values, names = calendar_features(weekly, weekly.index(dates))
    easter = values[:, names.index("easter+0")]
    assert easter.tolist() == pytest.approx([5 / 7, 2 / 7, 5 / 7, 0.0])
    assert calendar_features(Frequency(), np.arange(5))[0].shape == (5, 0)
    hourly = Frequency.parse("h")
    values, names = calendar_features(hourly, np.arange(48))
    day = [i for i, n in enumerate(names) if n.startswith("day_")]
    assert np.allclose(values[:24, day], values[24:, day], atol=1e-5)
    for alias in ("MS", "QS", "D", "30min", "YS"):
        got = calendar_features(Frequency.parse(alias), np.arange(30))[0]
        assert np.isfinite(got).all() and np.abs(got).max(initial=0) <= 1


def test_causal_ensemble_by_hand():
    q = np.zeros((1, 3, 3, 1), np.float32)
    q[0, 0, :, 0] = [10, 20, 30]  # made now
    q[0, 1, :, 0] = [0, 12, 24]  # a period ago: its period 2 is our period 1
    q[0, 2, :, 0] = [0, 0, 17]
    assert ensemble_origins(q, "mean")[0, :, 0].tolist() == pytest.approx([13, 22, 30])
    assert ensemble_origins(q, "median")[0, :, 0].tolist() == pytest.approx([12, 22, 30])
    ewm = ensemble_origins(q, "ewm")[0, :, 0]
    assert ewm[0] == pytest.approx((10 + 12 * 0.5 + 17 * 0.25) / 1.75)
    with pytest.raises(ParameterError, match="mode"):
        ensemble_origins(q, "mode")
