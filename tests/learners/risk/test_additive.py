"""The additive risk net: whatever its weights, what it says fades towards the population."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.errors import ParameterError
from foretell.learners.risk.additive import AdditiveRiskLearner, AdditiveShape

CHANNELS = 4
# Values 0-3 and changes 4-7 of four channels, a ratio 8 of the first two, context 9, hours 10-13.
FADING = tuple((i, (10 + i % CHANNELS,)) for i in range(2 * CHANNELS))
RATIO = ((8, (10, 11)),)
HOURS = (10, 11, 12, 13)
WIDTH = 14
seeds = st.integers(0, 10_000)
spread = st.sampled_from([0.3, 1.0, 5.0])


def learner(seed, scale=1.0, *, form="sigmoid", ratio=True, hidden=(8,)):
    """A net with any weights and rates, that has met some population, in double precision."""
    shape = AdditiveShape(WIDTH, FADING + (RATIO if ratio else ()), HOURS, hidden, form=form)
    random = torch.Generator().manual_seed(seed)
    net = AdditiveRiskLearner(shape)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random))
        net.aging.uniform_(-6, 0, generator=random)
    net.meet(patients(seed + 1, 200).numpy().astype(np.float32))
    return net.double().eval()


def patients(seed, count):
    random = np.random.default_rng(seed)
    x = random.normal(0, 2, (count, WIDTH))
    x[:, HOURS] = scaled(random.uniform(0, 150, (count, CHANNELS)))
    return torch.from_numpy(x)


def scaled(hours):
    return np.log1p(np.minimum(hours, 200)) / math.log1p(200)


def aged(x, channels, hours):
    """(H, M, F) the patients, some of whose channels are older by each of the hours."""
    ago = np.expm1(x.numpy()[:, HOURS] * math.log1p(200))
    rows = np.repeat(x.numpy()[None], len(hours), axis=0)
    for channel in channels:
        older = ago[None, :, channel] + np.asarray(hours)[:, None]
        rows[:, :, HOURS[channel]] = scaled(older)
    return torch.from_numpy(rows)


def without(x, channels):
    """The same patients in whom channels were never measured."""
    x = x.clone()
    for channel in channels:
        x[:, HOURS[channel]] = 1
    return x


def logits(net, x):
    with torch.no_grad():
        return net({"x": x}).logit


@settings(max_examples=60, deadline=None)
@given(seeds, spread, st.integers(0, CHANNELS - 1), st.sampled_from([(8,), (6, 5)]))
def test_one_channel_that_grows_old_only_comes_nearer(seed, scale, channel, hidden):
    """Any weights, patients and ages: the gap keeps its sign and shrinks to nothing."""
    net, x = learner(seed, scale, hidden=hidden), patients(seed + 2, 20)
    middle = logits(net, without(x, [channel]))
    gap = logits(net, aged(x, [channel], np.linspace(0, 260, 60))) - middle
    assert (gap.abs().diff(dim=0) <= 1e-9).all()
    assert (gap * gap[0] >= -1e-9).all()
    assert (gap[-1].abs() <= 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(seeds, spread)
def test_exponential_fading_is_monotone_for_all_channels_at_once(seed, scale):
    net = learner(seed, scale, form="exponential", ratio=False)
    x = patients(seed + 2, 20)
    everyone = range(CHANNELS)
    hours = np.linspace(0, 49, 50)
    gap = logits(net, aged(x, everyone, hours)) - logits(net, without(x, everyone))
    expected = torch.exp(-net.rates * torch.from_numpy(hours))[:, None] * gap[0]
    assert torch.allclose(gap, expected, atol=1e-9)
    assert (gap.abs().diff(dim=0) <= 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(seeds, spread)
def test_all_at_once_stay_within_bounds_that_shrink(seed, scale):
    """The gap lies between what speaks against and for it now, at every later hour."""
    net, x = learner(seed, scale), patients(seed + 2, 20)
    everyone = range(CHANNELS)
    rows = aged(x, everyone, np.linspace(0, 260, 60))
    with torch.no_grad():
        terms = net.encode({"x": rows})[..., : 2 * CHANNELS + 1]
    above, below = terms.clamp(min=0).sum(-1), terms.clamp(max=0).sum(-1)
    gap = logits(net, rows) - logits(net, without(x, everyone))
    assert (above.diff(dim=0) <= 1e-9).all() and (below.diff(dim=0) >= -1e-9).all()
    assert (gap <= above + 1e-9).all() and (gap >= below - 1e-9).all()
    same = (above[0] == 0) | (below[0] == 0)
    assert (gap[:, same].abs().diff(dim=0) <= 1e-9).all()


def test_own_rates_cannot_be_monotone_for_all_at_once():
    """The counterexample of the proof: evidence against that fades faster than that for it."""
    net = learner(3, ratio=False)
    with torch.no_grad():
        net.aging.fill_(-8.0)
        net.aging[1] = 0.0
    x = patients(4, 1)
    x[:, HOURS] = 0
    with torch.no_grad():
        net.readout[[i for i in range(len(net.columns)) if i not in (0, 1)]] = 0
        said = net.fresh(x)[0]
        net.readout[0] *= 1 / said[0]
        net.readout[1] *= -0.9 / said[1]
    gap = logits(net, aged(x, range(CHANNELS), range(40))) - logits(net, without(x, range(4)))
    assert gap[0].item() == pytest.approx(0.1, abs=1e-9)
    assert gap.abs().max() > 0.9


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, CHANNELS - 1), st.floats(0, 199))
def test_the_mean_over_the_population_is_what_is_said_without_the_channel(seed, channel, hours):
    """So that age by itself says nothing in the mean."""
    net, x = learner(seed, ratio=False), patients(seed + 2, 5)
    x[:, HOURS[channel]] = float(scaled(hours))
    values = net.population
    everyone = x[:, None].repeat(1, len(values), 1)
    for column in (channel, channel + CHANNELS):
        everyone[:, :, column] = values[:, net.columns.index(column)]
    assert torch.allclose(
        logits(net, everyone).mean(1), logits(net, without(x, [channel])), atol=1e-9
    )


def test_contributions_add_up_and_what_was_never_measured_has_none():
    net, x = learner(7), patients(8, 6)
    x[:, HOURS[2]] = 1
    with torch.no_grad():
        terms = net.encode({"x": x})
        assert torch.allclose(terms.sum(-1) + net.bias, logits(net, x))
    assert not terms[:, [2, 6]].any()
    assert terms[:, [0, 1, 3]].all()


def test_the_population_are_the_hours_in_which_a_channel_was_known():
    shape = AdditiveShape(3, ((0, (1,)),), (1,))
    net = AdditiveRiskLearner(shape)
    table = np.zeros((100, 3), np.float32)
    table[:50, 1] = 1
    table[50:, 0] = 2
    net.meet(table)
    assert net.columns == (0, 2)
    assert (net.population[:, 0] == 2).all() and not net.population[:, 1].any()


@pytest.mark.parametrize("form", ["sigmoid", "exponential"])
def test_half_life_before_training(form):
    shape = AdditiveShape(2, ((0, (1,)),), (1,), form=form)
    net = AdditiveRiskLearner(shape, half_life=12)
    x = torch.tensor([[0.0, 0.0], [0.0, scaled(12)], [0.0, 1.0]], dtype=torch.float32)
    with torch.no_grad():
        weights = net.age_weights(x)[:, 0]
    assert weights[0] == 1 and weights[2] == 0
    assert weights[1].item() == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        {"fading": ((0, (9,)),)},
        {"fading": ((0, (1,)), (0, (1,)))},
        {"fading": ((0, ()),)},
        {"fading": ((0, (1,)),), "left_out": (0,)},
        {"left_out": (0, 1, 2)},
        {"hidden": ()},
        {"dropout": 1.0},
        {"form": "linear"},
        {"fading": ((0, (1, 2)),), "form": "exponential"},
    ],
)
def test_shapes_that_make_no_sense(given):
    with pytest.raises(ParameterError):
        AdditiveShape(3, **given)
