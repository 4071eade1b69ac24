from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from foretell.data.simulators import FUNNEL_STREAMS, FunnelStream, funnel_stream
from foretell.errors import ParameterError


@pytest.fixture(params=list(FUNNEL_STREAMS), scope="module")
def stream(request):
    return funnel_stream(request.param, seed=1)


def test_the_two_streams_are_those_of_the_protocol():
    default, short = FUNNEL_STREAMS["default"], FUNNEL_STREAMS["short_window"]
    assert (default.window, default.waiting_time, default.period) == (96, 6, 480)
    assert (default.engagement_delay, default.conversion_delay) == (3, 30)
    assert (short.window, short.waiting_time, short.period) == (24, 1, 1440)
    assert (short.engagement_delay, short.conversion_delay) == (1, 8)


def test_a_stream_is_a_log_in_order_of_time(stream):
    log, truth = stream
    assert len(log) == 72_000 and log.unit == "h" and log.window == truth.settings.window
    np.testing.assert_array_equal(log.ids, np.arange(72_000))
    np.testing.assert_array_equal(log.times, truth.t)
    np.testing.assert_array_equal(log.matrix(), truth.X)
    assert np.all(np.diff(log.times) >= 0) and log.times.max() < 720
    assert not log.notes, "nothing had to be dropped"
    delay = log.delay()
    assert delay[np.isfinite(delay)].max() <= log.window
    # A strict funnel.
    assert np.all(log.delay("view")[np.isfinite(delay)] <= delay[np.isfinite(delay)])


def test_late_positives_are_the_rule_in_the_default_stream():
    shares, late = [], []
    for seed in range(5):
        log, _ = funnel_stream(seed=seed)
        delay = log.delay()
        positive = np.isfinite(delay)
        shares.append(positive.mean())
        late.append((delay[positive] > 6).mean())
    assert 0.1 < np.mean(shares) < 0.2 and 0.8 < np.mean(late) < 0.9


@pytest.mark.parametrize("which", ["conversion", "engagement"])
def test_the_truth_is_what_happens(stream, which):
    log, truth = stream
    probability = getattr(truth, which)()
    label = log.label("conversion" if which == "conversion" else "view")
    bins = np.digitize(probability, np.quantile(probability, np.linspace(0, 1, 21)[1:-1]))
    for b in range(20):
        mine = bins == b
        error = np.sqrt(np.sum(probability[mine] * (1 - probability[mine]))) / mine.sum()
        assert abs(label[mine].mean() - probability[mine].mean()) < 4 * error
    early = getattr(truth, which)(within=2.0)
    assert np.all(early <= probability)
    kind = "conversion" if which == "conversion" else "view"
    assert (log.delay(kind) <= 2).mean() == pytest.approx(early.mean(), abs=0.006)


def test_the_truth_by_monte_carlo():
    log, truth = funnel_stream(seed=3, days=1)
    rng = np.random.default_rng(0)
    X, draws = truth.X[:20], 200_000
    first, further = truth.delay_means(X)
    for i in range(20):
        delay = rng.exponential(first[i], draws) + rng.exponential(further[i], draws)
        for within in (1.0, 20.0, 96.0):
            share = (delay <= within).mean()
            exact = truth.delay_cdf(X[i : i + 1], within)[0]
            assert exact == pytest.approx(share, abs=4 * np.sqrt(0.25 / draws))
    expected = truth.engages() * truth.converts() * truth.delay_cdf(truth.X, log.window)
    np.testing.assert_allclose(truth.conversion(), expected, rtol=1e-12)


@settings(max_examples=50)
@given(st.floats(0.01, 100), st.floats(-3, 3), st.floats(0, 200))
def test_the_delay_distribution_near_equal_means(mean, log_ratio, within):
    settings_ = FunnelStream(features=1, engagement_delay=mean, conversion_delay=mean)
    _, truth = funnel_stream(settings_, days=0.01)
    X = np.array([[1.0]])
    cut = [type(truth)(**{**vars(truth), "h": np.zeros(1), "g": np.array([g])}) for g in (
        0.0, 1e-13, log_ratio
    )]  # fmt: skip
    equal, nearly, other = (t.delay_cdf(X, within)[0] for t in cut)
    assert equal == pytest.approx(stats.gamma.cdf(within, 2, scale=mean), abs=1e-10)
    assert nearly == pytest.approx(equal, abs=1e-9)
    assert 0 <= other <= 1
    a, b = 1 / mean, 1 / (mean * np.exp(log_ratio))
    if abs(a - b) > 1e-3 * a:
        closed = 1 - (b * np.exp(-a * within) - a * np.exp(-b * within)) / (b - a)
        assert other == pytest.approx(closed, abs=1e-8)


def test_seeds_and_settings():
    one, other = (funnel_stream(seed=s, days=1)[0].fingerprint() for s in (0, 1))
    assert one == funnel_stream(seed=0, days=1)[0].fingerprint() != other
    log, truth = funnel_stream("short_window", days=2, rate=10, features=3, window=48)
    assert len(log) == 480 and log.window == 48 and truth.X.shape == (480, 3)
    with pytest.raises(ParameterError, match="not one of default, short_window"):
        funnel_stream("long")
    with pytest.raises(ParameterError, match="hours"):
        funnel_stream(hours=3)
    with pytest.raises(ParameterError, match="window must be positive"):
        funnel_stream(window=0)
