"""Prequential evaluation under late labels: predict a bucket of time, then learn what it showed.

For each bucket of the stream, the entities that arrive in it are scored first; then the classifier
is handed the rows that became visible in it, cut from ``log.until(end of bucket)``, which holds
neither later entities nor later outcomes. Final labels are used to judge only. The one exception is
the oracle, which is told final labels when entities arrive: it cannot be deployed, and stands in
the table as the best that a method for late labels could do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from foretell.data.events import EventLog
from foretell.errors import ParameterError
from foretell.evaluation.feedback.binary_metrics import (
    area_under_roc,
    average_precision,
    bernoulli_divergence,
    calibration_bins,
    negative_log_likelihood,
)
from foretell.evaluation.feedback.prequential_result import PrequentialResult

REFERENCES = ("pretrain", "vanilla", "wait", "oracle")
"""Rows that every table has: never updated after its history, plain fine-tuning on labels as they
stand, waiting until labels are final, and final labels at once."""

CALIBRATION_BINS = 20


@runtime_checkable
class StreamingClassifier(Protocol):
    """What the harness asks of a classifier; ``DelayedFeedbackClassifier`` is one."""

    def fit_history(self, log: EventLog, until: float | None = None) -> Any:
        """Learns from the entities whose labels are final at ``until``."""
        ...

    def emission(self) -> Mapping[str, Any]:
        """Arguments of ``log.emit`` that give the rows it learns from: protocol, waiting time."""
        ...

    def partial_fit(self, rows: Any) -> Any:
        """Learns from rows that became visible."""
        ...

    def predict_proba(self, X: Any) -> NDArray:
        """Probabilities ``(n, 2)`` from features ``(n, d)``."""
        ...


def prequential(
    classifiers: Mapping[str, StreamingClassifier] | StreamingClassifier,
    log: EventLog,
    start: float | str,
    end: float | str,
    bucket: float | str = "1h",
    *,
    truth: ArrayLike | Callable[[EventLog], ArrayLike] | None = None,
    references: Sequence[str] = REFERENCES,
    seeds: Iterable[int] = (0,),
    stream: str = "stream",
    keep_predictions: bool = False,
    catch_up: bool = False,
) -> PrequentialResult:
    """Plays a log back and scores classifiers on what they could have known.

    Args:
        classifiers: classifiers by name, or one; they are cloned, not changed.
        log: the complete log. Outcomes of all entities before ``end`` must be final in it.
        start: end of the history; the first bucket begins here. In the log's time, as is ``end``.
        end: the last bucket ends at or before it.
        bucket: width of a bucket, as a number in the log's unit or like ``"1h"``.
        truth: ``(n,)`` true probabilities of the log's entities, or a function that gives them;
            then ``KL(truth || prediction)`` is reported.
        references: which of :data:`REFERENCES` to add, made from the first classifier that has a
            parameter ``method``. A classifier given under such a name takes its place.
        seeds: each classifier is run once with each as its ``random_state``.
        stream: what to call this log in the table.
        keep_predictions: whether to keep every prediction.
        catch_up: whether classifiers go on, before the first bucket, with the rows that entities
            whose windows are still open have emitted by then, as a system in use would
            (``fit_history(..., catch_up=True)``). The published comparisons do without.

    Returns:
        The table, its summary and intervals. See Gama, Sebastião & Rodrigues 2013 for prequential
        evaluation and Yang et al. 2021, section 5, for the same with late labels.

    Raises:
        ParameterError: an empty range, a range whose labels are not final in the log, or references
            that cannot be made.
    """
    named = dict(classifiers) if isinstance(classifiers, Mapping) else {"model": classifiers}
    named = {**_references(named, references), **named}
    origin, last = log.moment(start, "start"), log.moment(end, "end")
    play = _Play.prepare(log, origin, last, log.duration(bucket, "bucket"), truth, catch_up)
    table: list[dict[str, Any]] = []
    bins: list[pl.DataFrame] = []
    seconds: list[dict[str, Any]] = []
    kept: list[pl.DataFrame] = []
    for name, prototype in named.items():
        for seed in seeds:
            key = {"method": name, "stream": stream, "seed": seed}
            model = clone(prototype)
            if "random_state" in model.get_params(deep=False):
                model.set_params(random_state=seed)
            run = play.run(model, updates=name != "pretrain")
            table += [{**key, **row} for row in run.rows]
            bins.append(_bin_frame(key, run.bins))
            seconds.append({**key, **run.seconds})
            if keep_predictions:
                kept.append(play.predictions(key, run.probabilities))
    schema = {"kl": pl.Float64, "auc": pl.Float64, "pr_auc": pl.Float64}
    frame = pl.DataFrame(table, schema_overrides=schema, infer_schema_length=None)
    return PrequentialResult(
        frame.with_columns(pl.col(pl.Float64).fill_nan(None)),
        pl.concat(bins),
        pl.DataFrame(seconds),
        pl.concat(kept) if kept else None,
    )


@dataclass
class _Run:
    """What one classifier did."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((CALIBRATION_BINS, 3)))
    seconds: dict[str, float] = field(default_factory=dict)
    probabilities: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass
class _Play:
    """A log, cut into buckets, with its final labels."""

    log: EventLog
    edges: NDArray[np.float64]
    begins: NDArray[np.int64]
    label: NDArray[np.int8]
    truth: NDArray[np.float64] | None
    catch_up: bool

    @classmethod
    def prepare(
        cls,
        log: EventLog,
        start: float,
        end: float,
        width: float,
        truth: ArrayLike | Callable[[EventLog], ArrayLike] | None,
        catch_up: bool,
    ) -> _Play:
        """Checks the range and finds the entities of each bucket (from, to]."""
        if not width > 0:
            raise ParameterError(f"bucket must be positive, not {width}")
        count = int(np.floor((end - start) / width + 1e-9))
        if count < 1:
            raise ParameterError(
                f"from start {start:g} to end {end:g} there is no bucket of width {width:g}"
            )
        edges = np.asarray(start + width * np.arange(count + 1), np.float64)
        begins = np.searchsorted(log.times, edges, side="right")
        if begins[0] == begins[-1]:
            raise ParameterError(f"the log has no entity in ({edges[0]:g}, {edges[-1]:g}]")
        open_ = np.flatnonzero(~log.matured[begins[0] : begins[-1]])
        if len(open_):
            raise ParameterError(
                f"{len(open_)} entities before end {edges[-1]:g} cannot be judged: the log ends at "
                f"{log.now:g}, before their labels are final; choose end <= "
                f"{log.times[begins[0] + open_[0]]:g}"
            )
        known = None
        if truth is not None:
            known = np.asarray(truth(log) if callable(truth) else truth, np.float64)
            if known.shape != (len(log),):
                raise ParameterError(
                    f"truth must hold one probability for each of the {len(log)} entities, not "
                    f"shape {known.shape}"
                )
        return cls(log, edges, begins, log.label(), known, catch_up)

    def run(self, model: Any, *, updates: bool) -> _Run:
        """Plays all buckets to one classifier."""
        run = _Run()
        clock = time.process_time()
        origin = self.edges[0]
        view = self.log.until(origin)
        if not self.catch_up:
            model.fit_history(view, until=origin)
        else:
            oracle = model.emission()["protocol"] == "oracle"
            model.fit_history(self.log if oracle else view, until=origin, catch_up=True)
        spent = {"history": time.process_time() - clock, "update": 0.0, "predict": 0.0}
        for since, until, begin, stop in zip(
            self.edges[:-1], self.edges[1:], self.begins[:-1], self.begins[1:], strict=True
        ):
            clock = time.process_time()
            p = self._predict(model, int(begin), int(stop))
            run.probabilities.append(p)
            middle = time.process_time()
            learned = self._update(model, float(since), float(until)) if updates else 0
            spent["predict"] += middle - clock
            spent["update"] += time.process_time() - middle
            y = self.label[begin:stop]
            run.bins += calibration_bins(y, p, CALIBRATION_BINS)
            run.rows.append(
                {
                    "start": float(since),
                    "end": float(until),
                    "n": len(p),
                    "rows": learned,
                    **self._metrics(y, p, slice(begin, stop)),
                }
            )
        run.seconds = spent
        return run

    def _predict(self, model: Any, begin: int, stop: int) -> NDArray[np.float64]:
        """Probabilities from features alone: the classifier is not shown the log."""
        if begin == stop:
            return np.zeros(0)
        p = np.asarray(model.predict_proba(self.log.matrix(np.arange(begin, stop))))[:, 1]
        if not np.isfinite(p).all():
            raise ParameterError(
                f"{type(model).__name__} predicts {p[~np.isfinite(p)][0]} for entity "
                f"{self.log.ids[begin + int(np.argmin(np.isfinite(p)))]!r}"
            )
        return p.astype(np.float64)

    def _update(self, model: Any, since: float, until: float) -> int:
        """Hands over what became visible in (since, until]; returns the number of rows."""
        rule = dict(model.emission())
        # Only the oracle is shown a log that knows more than the present.
        view = self.log if rule["protocol"] == "oracle" else self.log.until(until)
        rows = view.emit(**rule, since=since, until=until)
        if len(rows):
            model.partial_fit(rows)
        return len(rows)

    def _metrics(self, y: NDArray, p: NDArray, where: slice) -> dict[str, float]:
        if len(p) == 0:
            nan = float("nan")
            return dict.fromkeys(("nll", "auc", "pr_auc", "kl", "mean_p", "mean_y"), nan)
        return {
            "nll": negative_log_likelihood(y, p),
            "auc": area_under_roc(y, p),
            "pr_auc": average_precision(y, p),
            "kl": np.nan if self.truth is None else bernoulli_divergence(self.truth[where], p),
            "mean_p": float(p.mean()),
            "mean_y": float(y.mean()),
        }

    def predictions(self, key: dict[str, Any], parts: list[NDArray[np.float64]]) -> pl.DataFrame:
        """Every prediction with its label."""
        where = slice(self.begins[0], self.begins[-1])
        columns = {
            "id": self.log.ids[where],
            "time": self.log.times[where],
            "p": np.concatenate(parts),
            "y": self.label[where],
        }
        keys = [pl.lit(value).alias(name) for name, value in key.items()]
        return pl.DataFrame(columns).select(*keys, pl.all())


def _references(
    named: Mapping[str, StreamingClassifier], wanted: Sequence[str]
) -> dict[str, StreamingClassifier]:
    """Clones of the first classifier with another method."""
    unknown = [name for name in wanted if name not in REFERENCES]
    if unknown:
        raise ParameterError(f"references must be among {REFERENCES}, not {unknown}")
    missing = [name for name in wanted if name not in named]
    if not missing:
        return {}
    model = next(
        (m for m in named.values() if "method" in getattr(m, "get_params", dict)(deep=False)), None
    )
    if model is None:
        raise ParameterError(
            f"the references {missing} are made from a classifier with a parameter 'method', which "
            "none has: pass them by name, or references=()"
        )
    made = {}
    for name in missing:
        method = "vanilla" if name == "pretrain" else name
        made[name] = clone(model).set_params(method=method, engagement=())
    return made


def _bin_frame(key: dict[str, Any], sums: NDArray[np.float64]) -> pl.DataFrame:
    columns = {
        "bin": np.arange(len(sums)),
        "n": sums[:, 0].astype(np.int64),
        "sum_p": sums[:, 1],
        "sum_y": sums[:, 2],
    }
    keys = [pl.lit(value).alias(name) for name, value in key.items()]
    return pl.DataFrame(columns).select(*keys, pl.all())
