"""What released implementations of these methods got wrong must not come back."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data.events import EventLog
from foretell.estimators.feedback import DelayedFeedbackClassifier
from foretell.estimators.feedback.auxiliary import DelayNet, FinalityNet, WindowNet
from foretell.estimators.feedback.method import Setting

WINDOW = 10.0


def _log(seed: int, n: int = 300, later: bool = False, now: float = 40.0) -> EventLog:
    """Random entities; with ``later``, everything after ``now`` is another world."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0, 60, n))
    delay = np.where(rng.random(n) < 0.5, rng.uniform(0, WINDOW, n), np.inf)
    view = np.minimum(delay, rng.uniform(0, WINDOW, n))
    x = rng.normal(size=n)
    if later:
        turn = np.random.default_rng(seed + 1)
        x = np.where(t > now, 100 * x, x)
        move = t + delay > now  # not known at now: some convert, some do not, some at another time
        other = np.where(turn.random(n) < 0.5, turn.uniform(0, WINDOW, n), np.inf)
        other = np.where(t + other > now, other, np.inf)
        open_ = t + WINDOW > now
        delay = np.where(move & open_, other, delay)
        view = np.where(t + view > now, np.minimum(delay, view + 0.1), view)
        view = np.where(view <= delay, view, delay)
    outcomes = [
        pl.DataFrame({"id": np.arange(n)[k], "t_outcome": (t + d)[k]}).with_columns(
            pl.lit(kind).alias("kind")
        )
        for kind, d in (("conversion", delay), ("view", view))
        for k in (np.isfinite(d),)
    ]
    return EventLog.from_frames(
        pl.DataFrame({"id": np.arange(n), "t": t, "x": x}),
        pl.concat(outcomes),
        attribution_window=WINDOW,
    )


@given(st.integers(0, 10_000), st.floats(12.0, 58.0))
@settings(max_examples=30)
def test_auxiliary_nets_learn_from_final_labels_of_the_past_only(seed: int, now: float) -> None:
    # The released ES-DFM takes the final labels of all days before the stream, conversions that
    # happen in it included.
    targets = []
    for later in (False, True):
        view = _log(seed, later=later, now=now).until(now)
        matured = view.select(np.flatnonzero(view.matured))
        assert (matured.times + WINDOW <= now + 1e-9).all()
        setting = Setting(2.0, WINDOW, engagement=("view",))
        nets = (
            WindowNet(setting, ("delayed_positive", "real_negative", "positive")),
            DelayNet(setting, changing=2),
            FinalityNet(setting),
        )
        found = [net.examples(matured, np.random.default_rng(0)) for net in nets]
        targets.append([(f.entity, f.target, f.known) for f in found])
    for mine, other in zip(*targets, strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:only .* matured examples")
@pytest.mark.parametrize("auxiliary", ["frozen", "self"])
def test_the_pretrained_esdfm_does_not_know_the_stream(auxiliary: str) -> None:
    found = []
    for later in (False, True):
        log = _log(3, later=later)
        model = DelayedFeedbackClassifier(
            method="esdfm", auxiliary=auxiliary, waiting_time=2.0, hidden_sizes=(4,), epochs=1,
            batch_norm=False,
        )  # fmt: skip
        model.fit_history(log, until=40.0)
        rows = log.until(40.0).emit(**model.emission(), since=30.0, until=40.0)
        found.append(
            (model.predict_proba(np.linspace(-2, 2, 9)[:, None]), model.sample_weight(rows))
        )
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("protocol", ["defuse", "bidefuse", "defer", "ddfm", "esdfm"])
def test_no_row_is_emitted_before_the_waiting_time(protocol: str) -> None:
    # The released DEFUSE emits conversions within the waiting time at the click: a label that
    # nobody has yet.
    log = _log(1)
    rows = log.emit(protocol, 2.0)
    age = rows.time - log.times[rows.entity]
    delay = log.delay()[rows.entity]
    quick = delay <= 2.0
    assert quick.any() and (age >= 2.0 - 1e-9).all()
    positive = rows.label == 1
    assert (age[positive] >= delay[positive] - 1e-9).all()
    first = rows.stage == 0
    np.testing.assert_allclose(age[first], 2.0, atol=1e-9)
    np.testing.assert_array_equal(rows.label[first] == 1, quick[first])


@pytest.mark.parametrize("form", ["exact", "published"])
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_defuse_is_right_where_the_released_loss_is_not(form: str, p: float) -> None:
    # Pointwise optimum: the share of the mass on label 1. The released loss gives .328 and .660.
    from foretell.training.weighting import exact, published

    survival = {0.2: 0.5, 0.5: 0.8}[p]
    delayed = p * survival
    rn = float(exact.real_negative(p, delayed))
    rule = {"exact": exact, "published": published}[form]
    mass = np.zeros(2)
    for label, copied, rows in (
        (1, 0, p - delayed),
        (1, 1, delayed),
        (0, 0, 1 - p + delayed),
    ):
        positive, negative = rule.defuse(float(label), float(copied), rn, delayed)
        mass += rows * np.array([negative, positive])
    assert mass[1] / mass.sum() == pytest.approx(p, abs=1e-12)
