"""Invariants that make forking sequences honest: nothing from after a fork may reach it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data.frequency import Frequency
from foretell.data.panel import Categorical, Panel
from foretell.learners.demand.forecast import Span
from foretell.learners.demand.neural import (
    ForkingExamples,
    MQLearner,
    MQShape,
    SequenceReader,
    learn_spec,
)

H, SEASON = 5, 12


def make_panel(n=6, length=60, seed=0, **columns):
    rng = np.random.default_rng(seed)
    lengths = [length - 3 * i for i in range(n)]
    t = [np.arange(m) for m in lengths]
    values = [
        (20 + 5 * i) * (1 + 0.4 * np.sin(2 * np.pi * s / SEASON)) * rng.lognormal(0, 0.2, len(s))
        for i, s in enumerate(t)
    ]
    values[-1][5:9] = np.nan
    known_lengths = np.array([m + H for m in lengths], np.int64)
    total = int(known_lengths.sum())
    return Panel.from_arrays(
        values,
        frequency=Frequency.parse("MS"),
        start=[100 + 2 * i for i in range(n)],
        past={"temperature": rng.normal(size=sum(lengths)).astype(np.float32)},
        known={
            "promotion": (rng.random(total) < 0.1).astype(np.float32),
            "price": rng.normal(5, 1, total).astype(np.float32),
        },
        known_begins=np.concatenate([[0], np.cumsum(known_lengths)[:-1]]),
        known_lengths=known_lengths,
        events=("promotion",),
        static_categorical={"shop": Categorical.from_values([f"s{i % 3}" for i in range(n)])},
        static_real={"size": rng.normal(size=n).astype(np.float32)},
        **columns,
    )


def make_spec(panel, **options):
    options = {"spans": (Span(1, 3),), "event_distance": 2, "calendar": ("year",), **options}
    return learn_spec(panel, H, seasons=(SEASON,), scale_window=6, **options)


def make_learner(panel, spec, seed=0, **options):
    torch.manual_seed(seed)
    learner = MQLearner(MQShape.of(SequenceReader(panel, spec), hidden=8, **options)).eval()
    with torch.no_grad():  # away from the special point of the initial weights
        for p in learner.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return learner


def run(learner, panel, spec, rows, forks, length=None, begins=None):
    rows, forks = np.asarray(rows), np.asarray(forks)
    reader = SequenceReader(panel, spec)
    begins = reader.first_observed[rows] if begins is None else begins
    with torch.no_grad():
        return learner(reader.read(rows, begins, forks, length or int(forks.max()) + 1))


@pytest.mark.parametrize("encoder", ["cnn", "cnn-gluonts", "lstm", "gru"])
@pytest.mark.parametrize("guard", [False, True])
def test_truncation_invariance_with_scaling_on(encoder, guard):
    """GluonTS' scaler averages over the whole window: its early forks fail this."""
    panel = make_panel()
    spec = make_spec(panel, guard=guard)
    learner = make_learner(panel, spec, encoder=encoder)
    rows = np.arange(len(panel))
    for fork in (3, 20, 37):
        # All forks in one encoding of the whole series, against series that end at the fork.
        whole = run(learner, panel, spec, rows, np.tile(np.arange(44), (len(rows), 1)), 44)
        cut = panel.cut(panel.lengths - fork - 1)
        alone = run(learner, cut, spec, rows, np.full((len(rows), 1), fork))
        torch.testing.assert_close(
            whole.quantiles[:, fork], alone.quantiles[:, 0], rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(whole.spans[:, fork], alone.spans[:, 0], rtol=1e-5, atol=1e-5)


def test_corrupting_the_future_changes_nothing():
    panel = make_panel()
    spec = make_spec(panel)
    learner = make_learner(panel, spec)
    fork = 25
    noisy = panel.target.copy()
    other = panel.past["temperature"].copy()
    for b, m in zip(panel.begins, panel.lengths, strict=True):
        noisy[b + fork + 1 : b + m] = 1e6
        other[b + fork + 1 : b + m] = -1e6
    corrupted = Panel(**{**vars_of(panel), "target": noisy, "past": {"temperature": other}})
    rows = np.arange(len(panel))
    forks = np.full((len(rows), 1), fork)
    a = run(learner, panel, spec, rows, forks, 44)
    b = run(learner, corrupted, spec, rows, forks, 44)
    assert torch.equal(a.quantiles, b.quantiles) and torch.equal(a.spans, b.spans)


def vars_of(panel):
    return {name: getattr(panel, name) for name in Panel.__dataclass_fields__}


@settings(max_examples=15)
@given(st.floats(0.1, 1000.0))
def test_scale_equivariance_without_the_log_scale_input(factor):
    panel = make_panel()
    spec = make_spec(panel, log_scale=False)
    learner = make_learner(panel, spec)
    scaled = Panel(**{**vars_of(panel), "target": (panel.target * factor).astype(np.float32)})
    rows, forks = np.arange(6), np.tile([10, 30], (6, 1))
    a, b = (run(learner, p, spec, rows, forks) for p in (panel, scaled))
    torch.testing.assert_close(a.quantiles * factor, b.quantiles, rtol=1e-4, atol=1e-4 * factor)
    torch.testing.assert_close(a.spans * factor, b.spans, rtol=1e-4, atol=1e-3 * factor)


def test_order_and_company_in_a_batch_do_not_matter():
    panel = make_panel()
    spec = make_spec(panel)
    learner = make_learner(panel, spec, encoder="lstm")
    ends = panel.lengths - 1 - SequenceReader(panel, spec).first_observed
    rows = np.arange(6)
    together = run(learner, panel, spec, rows, ends[:, None])
    order = np.array([4, 2, 0, 5, 3, 1])
    mixed = run(learner, panel, spec, order, ends[order][:, None])
    torch.testing.assert_close(together.quantiles[order], mixed.quantiles)
    for i in rows:
        single = run(learner, panel, spec, [i], ends[[i]][:, None])
        torch.testing.assert_close(together.quantiles[[i]], single.quantiles, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("encoder", ["cnn", "lstm"])
def test_left_padding_changes_nothing(encoder):
    values = [np.random.default_rng(i).lognormal(3, 0.3, 40).astype(np.float32) for i in range(3)]
    padded = [np.concatenate([np.full(7 * (i + 1), np.nan), v]) for i, v in enumerate(values)]
    plain = Panel.from_arrays(values, start=[7, 14, 21], frequency=Frequency.parse("MS"))
    long = Panel.from_arrays(padded, start=0, frequency=Frequency.parse("MS"))
    spec = make_spec(plain, spans=(), calendar=("year",))
    learner = make_learner(plain, spec, encoder=encoder)
    outputs = []
    for panel in (plain, long):
        first = SequenceReader(panel, spec).first_observed
        outputs.append(run(learner, panel, spec, [0, 1, 2], (panel.lengths - 1 - first)[:, None]))
    torch.testing.assert_close(outputs[0].quantiles, outputs[1].quantiles)


def test_gradient_of_all_forks_is_the_sum_of_single_forks():
    panel = make_panel(n=3)
    spec = make_spec(panel)
    learner = make_learner(panel, spec)
    examples = ForkingExamples(panel, spec, n_forks="all", unknown_rate=0.0)
    batch = examples.batch(np.arange(3), np.random.default_rng(0))
    parameters = [p for p in learner.parameters() if p.requires_grad]

    def gradient(b):
        total = (learner.loss(b) * b["weight"]).sum()
        grads = torch.autograd.grad(total, parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
        ]

    whole = gradient(batch)
    by_fork = (
        "forks",
        "scale",
        "target",
        "observed",
        "future",
        "reference",
        "candidates",
        "available",
    )
    summed = [torch.zeros_like(g) for g in whole]
    for f in range(batch["forks"].shape[1]):
        single = {k: v[:, f : f + 1] if k in by_fork else v for k, v in batch.items()}
        single["weight"] = single["observed"].sum((1, 2)).float()
        summed = [s + g for s, g in zip(summed, gradient(single), strict=True)]
    for a, b in zip(whole, summed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(a.abs().max())))


def test_random_forks_estimate_the_whole_loss_without_bias():
    panel = make_panel(n=4)
    spec = make_spec(panel, spans=())
    learner = make_learner(panel, spec)
    rows = np.arange(4)

    def losses(n_forks, seed):
        examples = ForkingExamples(panel, spec, n_forks=n_forks, unknown_rate=0.0)
        batch = examples.batch(rows, np.random.default_rng(seed))
        count = (batch["forks"] >= 0).sum(1)
        with torch.no_grad():
            return (learner.loss(batch) * batch["weight"] / count).numpy()

    draws = np.array([losses(4, seed) for seed in range(300)])
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - losses("all", 0)) < 4 * error).all()


def test_partial_tails_are_kept_and_masked():
    panel = make_panel(n=1, length=30)
    spec = make_spec(panel)
    batch = ForkingExamples(panel, spec, n_forks="all").batch(
        np.array([0]), np.random.default_rng(0)
    )
    last = int(batch["forks"].max())
    assert last == 28  # the last step has no target, the one before it has one
    assert batch["observed"][0, last].tolist() == [True, False, False, False, False]
    assert batch["observed"][0, 20].all()
    assert float(batch["weight"]) == float(batch["observed"].sum())
    y = panel.series(0)
    assert batch["target"][0, 10].tolist() == pytest.approx(y[11:16].tolist())


def test_seasonal_reference_reaches_back_as_many_seasons_as_needed():
    y = np.arange(1.0, 31.0)
    panel = Panel.from_arrays([y])
    spec = learn_spec(panel, 7, seasons=(3,), scale_window=4)
    reader = SequenceReader(panel, spec)
    batch = reader.read(np.array([0]), np.array([0]), np.array([[20, 1]]), 21)
    scale = batch["scale"][0]
    lag = (batch["candidates"][0, 0, :, 1] * scale[0]).numpy()
    # Fork 20 knows y up to 21.0. Periods 1..7 refer to 22..28 less 3, 3, 3, 6, 6, 6, 9.
    assert lag == pytest.approx([19, 20, 21, 19, 20, 21, 19])
    assert batch["available"][0, 0, :, 1].all()
    # Fork 1 knows two values: period 1 would need one from before the beginning.
    assert batch["available"][0, 1, :, 1].tolist() == [False, True, True, False, True, True, False]
    assert batch["available"][0, 1, :, 0].all()


def test_a_quantile_above_censored_sales_is_not_charged():
    panel = make_panel(n=2, censored=np.ones(60 + 57, bool))
    spec = make_spec(panel, spans=())
    learner = make_learner(panel, spec)
    batch = ForkingExamples(panel, spec, n_forks=4).batch(np.arange(2), np.random.default_rng(0))
    output = learner(batch)
    high = output._replace(quantiles=batch["target"].unsqueeze(-1) + torch.ones(9))
    assert float(learner.score(high, batch).abs().max()) == pytest.approx(0.0, abs=1e-7)
    free = {k: v for k, v in batch.items() if k != "censored"}
    assert float(learner.score(high, free).min().detach()) > 0


def test_loss_weight_one_is_the_unscaled_loss():
    panel = make_panel(n=3)
    spec = make_spec(panel, spans=())
    learner = make_learner(panel, spec, loss_weight=1.0)
    batch = ForkingExamples(panel, spec, n_forks="all").batch(
        np.arange(3), np.random.default_rng(0)
    )
    with torch.no_grad():
        output = learner(batch)
        scores = learner.score(output, batch)
    error = batch["target"].unsqueeze(-1) - output.quantiles
    levels = learner.levels
    plain = torch.maximum(levels * error, (levels - 1) * error).mean(-1) * batch["observed"]
    expected = plain.sum((1, 2)) / batch["weight"] / spec.default_scale
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_the_guard_hides_event_periods():
    panel = make_panel()
    spec = make_spec(panel, guard=True)
    batch = SequenceReader(panel, spec).read(
        np.arange(6), np.zeros(6, np.int64), np.full((6, 1), 30), 31
    )
    event = panel.known_windows("promotion", np.arange(6), np.full(6, 31), 31) != 0
    assert event.any()
    assert np.allclose(batch["guard"][..., 0].numpy()[event], np.log(2.0))


def test_validation_forks_stand_on_the_last_periods_only():
    panel = make_panel()
    spec = make_spec(panel)
    examples = ForkingExamples(panel, spec, n_forks="all", first_origin=4, unknown_rate=0.0)
    batch = examples.batch(np.arange(6), np.random.default_rng(0))
    ends = torch.from_numpy(panel.lengths - 1 - examples.reader.first_observed)
    for b in range(6):
        forks = batch["forks"][b]
        assert forks[forks >= 0].tolist() == list(range(int(ends[b]) - 4, int(ends[b])))
