from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.base import BaseEstimator

from foretell.data.events import EventLog
from foretell.data.simulators.funnel_stream import FunnelTruth, funnel_stream
from foretell.errors import ParameterError
from foretell.estimators.feedback import DelayedFeedbackClassifier
from foretell.evaluation.feedback import PrequentialResult, prequential

START, END = 80.0, 90.0
NET = {
    "hidden_sizes": (8,),
    "batch_norm": False,
    "learning_rate": 1e-2,
    "waiting_time": 1.0,
    "epochs": 1,
}


pytestmark = pytest.mark.filterwarnings("ignore:only .* matured examples")


@pytest.fixture(scope="module")
def stream() -> tuple[EventLog, FunnelTruth]:
    return funnel_stream("short_window", days=5, rate=15, seed=0)


class Spy(BaseEstimator):
    """Predicts a constant and remembers what it was shown."""

    seen: list[dict[str, Any]] = []

    def __init__(self, protocol: str = "esdfm") -> None:
        self.protocol = protocol

    def emission(self) -> dict[str, Any]:
        return {"protocol": self.protocol, "waiting_time": 1.0}

    def _note(self, what: str, log: EventLog) -> None:
        entities, outcomes = log.to_polars()
        last = max(entities["t"].max(), outcomes["t_outcome"].max())  # type: ignore[type-var]
        Spy.seen.append({"what": what, "now": log.now, "last": last, "ids": log.ids.max()})

    def fit_history(self, log: EventLog, until: float | None = None) -> Spy:
        self._note("history", log)
        return self

    def partial_fit(self, rows: Any) -> Spy:
        self._note("rows", rows.log)
        Spy.seen[-1]["times"] = (rows.time.min(), rows.time.max())
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        Spy.seen.append({"what": "predict", "shape": X.shape})
        return np.tile([0.7, 0.3], (len(X), 1))


def test_a_classifier_is_shown_what_was_visible_and_nothing_else(
    stream: tuple[EventLog, FunnelTruth],
) -> None:
    log, _ = stream
    Spy.seen = []
    result = prequential({"spy": Spy()}, log, START, END, 2.0, references=())
    history, *rest = Spy.seen
    assert history["now"] == START and history["last"] <= START
    predicts, updates = rest[::2], rest[1::2]
    assert [p["what"] for p in predicts] == ["predict"] * 5
    for i, update in enumerate(updates):
        until = START + 2.0 * (i + 1)
        assert update["now"] <= until and update["last"] <= until
        assert until - 2.0 < update["times"][0] <= update["times"][1] <= until
    inside = (log.times > START) & (log.times <= END)
    assert sum(p["shape"][0] for p in predicts) == inside.sum() == result.table["n"].sum()


def test_the_oracle_alone_is_told_final_labels(stream: tuple[EventLog, FunnelTruth]) -> None:
    log, _ = stream
    Spy.seen = []
    prequential({"spy": Spy("oracle")}, log, START, END, 2.0, references=())
    updates = [s for s in Spy.seen if s["what"] == "rows"]
    # The labels of its rows are final; the log it is handed is still that of the present.
    assert all(s["now"] <= START + 2.0 * (i + 1) for i, s in enumerate(updates))


def _altered(log: EventLog, moment: float) -> EventLog:
    """The same until a moment; then every other entity is gone and labels are turned round."""
    entities, outcomes = log.to_polars()
    keep = (pl.col("t") <= moment) | (pl.col("id") % 2 == 0)
    entities = entities.filter(keep)
    known = outcomes.filter(pl.col("t_outcome") <= moment)
    converted = set(outcomes.filter(pl.col("kind") == "conversion")["id"].to_list())
    turned = entities.filter(
        (pl.col("t") + log.window > moment) & ~pl.col("id").is_in(list(converted))
    )
    later = turned.select(
        "id",
        pl.lit("conversion").alias("kind"),
        pl.max_horizontal(pl.col("t"), pl.lit(moment + 1e-6)).alias("t_outcome"),
    )
    return EventLog.from_frames(
        entities, pl.concat([known, later]), attribution_window=log.window, unit="h"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "esdfm", "auxiliary": "refresh"},
        {"method": "funnel", "engagement": ("view",)},
        {"method": "dfm"},
        {"method": "fsiw", "auxiliary": "refresh"},
        {"method": "gdfm", "engagement": ("view",)},
    ],
    ids=lambda s: s["method"],
)
def test_predictions_do_not_depend_on_the_future(
    stream: tuple[EventLog, FunnelTruth], settings: dict[str, Any]
) -> None:
    log, _ = stream
    moment = START + 4.0
    other = _altered(log, moment)
    assert len(other) < len(log)
    found = []
    for version in (log, other):
        model = DelayedFeedbackClassifier(**NET, **settings)
        result = prequential(
            {"m": model}, version, START, END, 2.0, references=(), keep_predictions=True
        )
        assert result.predictions is not None
        found.append(result.predictions)
    # Buckets up to the moment, and the one after it, which is predicted before it is learned.
    same = [f.filter(pl.col("time") <= moment)["p"].to_numpy() for f in found]
    np.testing.assert_array_equal(*same)
    next_ids = found[1].filter(pl.col("time").is_between(moment, moment + 2.0))["id"]
    after = [f.filter(pl.col("id").is_in(next_ids.to_list()))["p"].to_numpy() for f in found]
    assert len(after[0])
    np.testing.assert_allclose(*after, rtol=1e-6)  # batches of other sizes round differently
    ends = [f.filter(pl.col("time") > END - 2.0).sort("id") for f in found]
    both = ends[0].join(ends[1], on="id")
    assert (both["p"] - both["p_right"]).abs().max() > 1e-4  # the alteration does matter later


@pytest.fixture(scope="module")
def result(stream: tuple[EventLog, FunnelTruth]) -> PrequentialResult:
    log, truth = stream
    model = DelayedFeedbackClassifier(method="esdfm", **NET)
    return prequential(
        {"esdfm": model},
        log,
        START,
        END,
        "1h",
        truth=truth.conversion(),
        seeds=(0, 1),
        keep_predictions=True,
    )


def test_table_and_references(
    result: PrequentialResult, stream: tuple[EventLog, FunnelTruth]
) -> None:
    assert set(result.methods) == {"pretrain", "vanilla", "wait", "oracle", "esdfm"}
    assert len(result.table) == 5 * 2 * 10
    never = result.table.filter(pl.col("method") == "pretrain")
    assert never["rows"].sum() == 0
    assert result.predictions is not None
    log, truth = stream
    one = result.predictions.filter((pl.col("method") == "esdfm") & (pl.col("seed") == 1))
    p, y = one["p"].to_numpy(), one["y"].to_numpy()
    nll = -np.mean(np.where(y > 0, np.log(p), np.log1p(-p)))
    run = result.per_run().filter((pl.col("method") == "esdfm") & (pl.col("seed") == 1))
    assert run["nll"][0] == pytest.approx(nll, rel=1e-9)
    assert run["ratio"][0] == pytest.approx(p.mean() / y.mean(), rel=1e-9)
    t = truth.conversion()[log.positions(one["id"].to_numpy())]
    kl = np.mean(t * np.log(t / p) + (1 - t) * np.log((1 - t) / (1 - p)))
    assert run["kl"][0] == pytest.approx(kl, rel=1e-9)
    assert 0 < run["ece"][0] < 1


def test_the_pretrained_row_is_the_model_after_its_history(
    result: PrequentialResult, stream: tuple[EventLog, FunnelTruth]
) -> None:
    log, _ = stream
    model = DelayedFeedbackClassifier(method="vanilla", **NET, random_state=1)
    model.fit_history(log, until=START)
    inside = np.flatnonzero((log.times > START) & (log.times <= END))
    assert result.predictions is not None
    kept = result.predictions.filter((pl.col("method") == "pretrain") & (pl.col("seed") == 1))
    p = model.predict_proba(log.matrix(inside))[:, 1]
    np.testing.assert_allclose(kept["p"].to_numpy(), p, rtol=1e-5)


def test_summary_and_intervals(result: PrequentialResult) -> None:
    summary = result.summary(block=3, resamples=200)
    for metric in ("nll", "kl", "auc", "ratio", "pr_auc"):
        assert (summary[f"{metric}_lower"] <= summary[metric]).all()
        assert (summary[metric] <= summary[f"{metric}_upper"]).all()
    assert summary["runs"].to_list() == [2] * 5
    relative = result.relative("nll", block=3, resamples=50)
    by = {row["method"]: row for row in relative.iter_rows(named=True)}
    assert by["pretrain"]["relative"] == by["pretrain"]["upper"] == 0
    assert by["oracle"]["relative"] == by["oracle"]["lower"] == 1
    ratio = result.ratio_to("vanilla", "kl", block=3, resamples=50)
    assert ratio.filter(pl.col("method") == "vanilla")["ratio"][0] == 1
    means = {row["method"]: row["kl"] for row in summary.iter_rows(named=True)}
    esdfm = ratio.filter(pl.col("method") == "esdfm")["ratio"][0]
    assert esdfm == pytest.approx(means["esdfm"] / means["vanilla"])
    plain = result.summary(resamples=0)
    assert plain["nll"].to_list() == pytest.approx(summary["nll"].to_list(), rel=1e-12)
    assert "nll_lower" not in plain.columns


def test_runs_are_deterministic_and_seeds_differ(
    result: PrequentialResult, stream: tuple[EventLog, FunnelTruth]
) -> None:
    log, _ = stream
    model = DelayedFeedbackClassifier(method="esdfm", **NET)
    again = prequential({"esdfm": model}, log, START, END, "1h", references=(), seeds=(0,))
    before = result.table.filter((pl.col("method") == "esdfm") & (pl.col("seed") == 0))
    assert again.table["nll"].to_list() == before["nll"].to_list()
    other = result.table.filter((pl.col("method") == "esdfm") & (pl.col("seed") == 1))
    assert other["nll"].to_list() != before["nll"].to_list()
    assert not hasattr(model, "learner_")  # the prototype is left alone
    joined = PrequentialResult.join(
        [
            PrequentialResult(r.table.with_columns(stream=pl.lit(name)), r.bins.with_columns(
                stream=pl.lit(name)), r.seconds)
            for name, r in (("a", again), ("b", again))
        ]
    )  # fmt: skip
    assert joined.summary(resamples=10)["n"][0] == 2 * again.summary(resamples=0)["n"][0]
    with pytest.raises(ParameterError, match="two results"):
        PrequentialResult.join([again, again])


def test_hours_without_conversions_have_no_auc(stream: tuple[EventLog, FunnelTruth]) -> None:
    log, _ = stream
    model = DelayedFeedbackClassifier(method="vanilla", **NET)
    result = prequential({"m": model}, log, START, START + 1, 0.05, references=())
    assert result.table["auc"].null_count() > 0
    assert result.table["nll"].null_count() == (result.table["n"] == 0).sum() > 0
    summary = result.summary(resamples=20)
    assert np.isfinite(summary["nll"][0]) and np.isfinite(summary["ratio"][0])
    assert summary["kl"][0] is None


def test_refusals(stream: tuple[EventLog, FunnelTruth]) -> None:
    log, _ = stream
    model = DelayedFeedbackClassifier(method="vanilla", **NET)
    with pytest.raises(ParameterError, match="cannot be judged"):
        prequential({"m": model}, log.until(100.0), START, END, "1h")
    with pytest.raises(ParameterError, match="no bucket"):
        prequential({"m": model}, log, START, START + 0.5, "1h")
    with pytest.raises(ParameterError, match="bucket must be positive"):
        prequential({"m": model}, log, START, END, -1)
    with pytest.raises(ParameterError, match="no entity"):
        prequential({"m": model}, log, 1e6, 1e6 + 2, "1h")
    with pytest.raises(ParameterError, match="references must be among"):
        prequential({"m": model}, log, START, END, "1h", references=("best",))
    with pytest.raises(ParameterError, match="parameter 'method'"):
        prequential({"m": Spy()}, log, START, END, "1h")
    with pytest.raises(ParameterError, match="one probability for each"):
        prequential({"m": model}, log, START, END, "1h", truth=np.ones(3))


@pytest.mark.parametrize("method", ["vanilla", "oracle"])
def test_catching_up_before_the_first_bucket(
    stream: tuple[EventLog, FunnelTruth], method: str
) -> None:
    log, _ = stream
    model = DelayedFeedbackClassifier(method=method, **NET)
    found = []
    for version, catch_up in ((log, False), (log, True), (_altered(log, START), True)):
        result = prequential(
            {"m": model},
            version,
            START,
            START + 2,
            2.0,
            references=(),
            catch_up=catch_up,
            keep_predictions=True,
        )
        assert result.predictions is not None
        found.append(result.predictions.select("id", "p"))
    plain, caught, altered = found
    assert (plain["p"] - caught["p"]).abs().max() > 1e-3
    both = caught.join(altered, on="id")
    assert len(both)
    moved = (both["p"] - both["p_right"]).abs().max()
    assert (moved > 1e-3) == (method == "oracle")  # nobody else knows what will happen
