"""Nothing is learned from a label before it is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretell.data.events import EventLog
from foretell.errors import NotMatureError
from foretell.estimators.feedback import DelayedFeedbackClassifier
from foretell.estimators.feedback import model as feedback_model

CASES = [
    ("vanilla", "auto"), ("fnw", "auto"), ("wait", "auto"), ("esdfm", "self"),
    ("esdfm", "refresh"), ("defer", "frozen"), ("defer", "refresh"), ("defuse", "self"),
    ("defuse", "refresh"), ("bidefuse", "refresh"), ("ulc", "refresh"), ("ddfm", "refresh"),
    ("dfm", "auto"), ("fsiw", "auto"), ("gdfm", "auto"), ("funnel", "self"),
    ("funnel", "refresh"),
]  # fmt: skip
WINDOW, HISTORY, NOW = 10.0, 30.0, 40.0


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(feedback_model, "LEAST_STEPS", 3)


def _log(seed: int, n: int, scramble: np.random.Generator | None, after: float) -> EventLog:
    """A random log; with ``scramble``, another future after a moment."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0, 60, n))
    x = rng.normal(size=(n, 2))
    view = t + rng.exponential(2, n)
    buy = view + rng.exponential(3, n)
    view[rng.random(n) < 0.4] = np.inf
    buy[~np.isfinite(view) | (rng.random(n) < 0.4)] = np.inf
    if scramble is not None:
        for times in (view, buy):
            later = np.flatnonzero(~(times <= after))
            times[later] = np.where(
                scramble.random(len(later)) < 0.5,
                np.maximum(t[later], after) + 1e-9 + scramble.exponential(3, len(later)),
                np.inf,
            )
        view, buy = np.where(view > buy, np.where(buy > after, buy, view), view), buy
    entities = pl.DataFrame({"id": np.arange(n), "t": t, "a": x[:, 0], "b": x[:, 1]})
    parts = []
    for kind, times in (("view", view), ("conversion", buy)):
        seen = np.flatnonzero(np.isfinite(times))
        frame = pl.DataFrame({"id": seen, "t_outcome": times[seen]})
        parts.append(frame.with_columns(pl.lit(kind).alias("kind")))
    return EventLog.from_frames(entities, pl.concat(parts), attribution_window=WINDOW)


def _everything(clf: DelayedFeedbackClassifier) -> dict[str, np.ndarray]:
    arrays = {f"learner.{k}": v.numpy() for k, v in clf.learner_.state_dict().items()}
    for i, auxiliary in enumerate(clf.auxiliaries_):
        arrays[f"{i}.constant"] = auxiliary.constant
        state = auxiliary.net.state_dict()
        arrays |= {f"{i}.{k}": v.numpy() for k, v in state.items()}
    return arrays


@given(
    case=st.sampled_from(CASES),
    seed=st.integers(0, 10_000),
    n=st.integers(150, 400),
    scramble=st.integers(0, 10_000),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.filterwarnings("ignore")
def test_another_future_changes_nothing(case, seed, n, scramble):
    method, auxiliary = case
    results = []
    for rng in (None, np.random.default_rng(scramble)):
        log = _log(seed, n, rng, NOW)
        clf = DelayedFeedbackClassifier(
            method=method, auxiliary=auxiliary, hidden_sizes=(4,), batch_norm=False, epochs=1,
            engagement=("view",) if method == "funnel" else (), waiting_time=1.0,
            batch_size=64, learning_rate=1e-2,
        )  # fmt: skip
        try:
            # A future that differs after HISTORY must not change what was learned at HISTORY.
            early = clf.fit_history(_log(seed, n, rng, HISTORY), HISTORY)
        except NotMatureError:
            results.append([{}])
            continue
        stages = [{k: v.copy() for k, v in _everything(early).items()}]
        clf.fit_history(log, HISTORY)
        rows = log.emit(**clf.emission(), since=HISTORY, until=55.0)
        for begin in np.arange(HISTORY, NOW, 2.0):
            inside = (rows.time > begin) & (rows.time <= begin + 2.0)
            clf.partial_fit(rows.select(inside))  # rows whose log reaches beyond them
        stages.append(_everything(clf))
        results.append(stages)
    assert len(results[0]) == len(results[1])
    for first, second in zip(*results, strict=True):
        assert first.keys() == second.keys()
        for name, values in first.items():
            assert values.tobytes() == second[name].tobytes(), name


@pytest.mark.filterwarnings("ignore")
def test_the_past_does_change_it():
    """The test above would notice: what is known at the time has an effect."""
    rng = np.random.default_rng(0)
    results = []
    for scramble in (None, rng):
        log = _log(1, 300, scramble, 12.0)
        clf = DelayedFeedbackClassifier(
            method="esdfm", hidden_sizes=(4,), batch_norm=False, waiting_time=1.0
        ).fit_history(log, HISTORY)
        results.append(_everything(clf))
    assert any(not np.array_equal(v, results[1][k]) for k, v in results[0].items())
    assert any(
        not np.array_equal(v, results[1][k]) for k, v in results[0].items() if k.startswith("0.")
    )
