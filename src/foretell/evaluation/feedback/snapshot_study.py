"""Methods for late labels, trained at several instants and scored on final labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import clone

from foretell.data.events import EventLog
from foretell.errors import NotMatureError, ParameterError
from foretell.estimators.feedback import SnapshotClassifier
from foretell.evaluation.feedback.binary_metrics import area_under_roc, negative_log_likelihood
from foretell.evaluation.feedback.paired_scores import compare_probabilities

FloatArray = NDArray[np.float64]


class LogClassifier(Protocol):
    """What can be studied: trained on a log at an instant, asked about entities of a log."""

    def fit(self, X: Any, y: Any, **options: Any) -> Any:
        """Learns from what is visible in the log ``X`` at the instant ``y``."""

    def predict_proba(self, X: Any) -> FloatArray:
        """Probabilities (n, 2) of entities."""


@dataclass(frozen=True)
class Snapshot:
    """One training and one test.

    Args:
        name: of the snapshot, in tables.
        now: the instant of training.
        test: begin (inclusive) and end (exclusive) of the times of the test entities.
        since: train on entities from this time on.
        history: begin and end of the times of the matured entities that delays are learned from;
            all that have matured where None.
    """

    name: str
    now: Any
    test: tuple[Any, Any]
    since: Any = -np.inf
    history: tuple[Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class SnapshotStudy:
    """Scores of methods over snapshots and seeds.

    Args:
        scores: one row a snapshot, method and seed: n, nll, auc, ratio, mean_p, mean_y, and the
            shift and the effective sample size of the model card where there is one.
        intervals: scores averaged over seeds, their differences and the share of the gap closed,
            with intervals; see :func:`~foretell.evaluation.feedback.compare_probabilities`.
        predictions: one row a snapshot and test entity: id, y, and the mean probability over seeds
            of each method.
        cards: model cards by (snapshot, method), of the first seed.
        notes: what was left out, and why.
    """

    scores: pl.DataFrame
    intervals: pl.DataFrame
    predictions: pl.DataFrame
    cards: Mapping[tuple[str, str], Mapping[str, Any]]
    notes: tuple[str, ...] = field(default=())

    def to_polars(self) -> pl.DataFrame:
        """One row a snapshot and method: scores with their intervals, best NLL first."""
        table = self.intervals.filter(pl.col("versus").is_null())
        return table.pivot(
            on="metric", index=["group", "method"], values=["estimate", "lower", "upper"]
        ).sort("group", "estimate_nll", maintain_order=True)

    def estimate(self, method: str, metric: str, group: str = "all") -> float:
        """A score, averaged over seeds."""
        return self.interval(method, metric, group)[0]

    def interval(
        self, method: str, metric: str, group: str = "all", versus: str | None = None
    ) -> tuple[float, float, float]:
        """Estimate, lower and upper bound of a score, or of its difference to another method.

        Raises:
            ParameterError: there is no such row.
        """
        same = pl.col("versus").is_null() if versus is None else pl.col("versus") == versus
        found = self.intervals.filter(
            (pl.col("group") == group) & (pl.col("method") == method)
            & (pl.col("metric") == metric) & same
        )  # fmt: skip
        if found.height != 1:
            raise ParameterError(f"no {metric!r} of {method!r} versus {versus!r} in {group!r}")
        return tuple(found.select("estimate", "lower", "upper").row(0))  # type: ignore[return-value]

    def to_json(self) -> str:
        """Scores, intervals, cards and notes as JSON."""
        return json.dumps(
            {
                "scores": self.scores.to_dicts(),
                "intervals": self.intervals.to_dicts(),
                "cards": [
                    {"snapshot": s, "method": m, **card} for (s, m), card in self.cards.items()
                ],
                "notes": list(self.notes),
            },
            indent=1,
            default=str,
        )


def snapshot_study(
    log: EventLog,
    snapshots: Sequence[Snapshot],
    methods: Mapping[str, LogClassifier],
    *,
    seeds: Sequence[int] = (0,),
    clusters: NDArray | Callable[[EventLog], NDArray] | None = None,
    references: Sequence[str] | None = None,
    gap: tuple[str, str] | None = ("naive", "oracle"),
    resamples: int = 1000,
    confidence: float = 0.95,
    progress: Callable[[str], None] | None = None,
) -> SnapshotStudy:
    """Trains each method at each snapshot and scores it on later entities with final labels.

    Training reads ``log.until(now)`` only; the oracle alone is given the complete log. Test
    entities whose label is not final in ``log`` are an error: a window they all outlive, or an
    earlier test, must be chosen.

    Args:
        log: complete, so that test labels are final.
        snapshots: instants of training with their tests.
        methods: name -> unfitted classifier; cloned for each snapshot and seed, with
            ``random_state`` set to the seed where it has one.
        seeds: of each training.
        clusters: (n,) of all entities of the log, or a function from a log to them: who is
            resampled together, e.g. a customer. Rows alone where None.
        references: methods that others are subtracted from; by default those of ``naive``,
            ``history``, ``fsiw`` and ``oracle`` that are among the methods.
        gap: the worst and best method whose difference in NLL others close; None for none.
        resamples: of the bootstrap.
        confidence: of the intervals.
        progress: is told what is being trained.

    Raises:
        ParameterError: there is nothing to study, or a snapshot has no test entity, or one from
            before its training.
        NotMatureError: a test label is not final in the log.
    """
    if not snapshots or not methods:
        raise ParameterError("a study needs at least one snapshot, one method and one seed")
    if len({s.name for s in snapshots}) != len(snapshots):
        raise ParameterError("names of snapshots must differ")
    owners = clusters(log) if callable(clusters) else clusters
    if owners is not None and len(owners) != len(log):
        raise ParameterError(f"{len(owners)} clusters for {len(log)} entities of the log")
    rows: list[dict[str, Any]] = []
    cards: dict[tuple[str, str], Mapping[str, Any]] = {}
    parts: list[tuple[str, NDArray[np.int64], NDArray, dict[str, FloatArray]]] = []
    for snapshot in snapshots:
        at, test = _test(log, snapshot)
        y = test.label()
        found: dict[str, FloatArray] = {}
        for name, method in methods.items():
            runs = []
            for seed in seeds:
                if progress is not None:
                    progress(f"{snapshot.name}: {name}, seed {seed}")
                model = _train(log, method, snapshot, seed)
                p = np.asarray(model.predict_proba(test))[:, 1]
                card = getattr(model, "model_card_", {})
                cards.setdefault((snapshot.name, name), card)
                rows.append(_score(snapshot.name, name, seed, y, p, card))
                runs.append(p)
            found[name] = np.stack(runs)
        parts.append((snapshot.name, at, y, found))
    if references is None:
        references = [m for m in ("naive", "history", "fsiw", "oracle") if m in methods]
    joined = {m: np.concatenate([part[3][m] for part in parts], axis=1) for m in methods}
    position = np.concatenate([part[1] for part in parts])
    names = np.concatenate([np.full(len(part[1]), part[0], object) for part in parts])
    labels = np.concatenate([part[2] for part in parts])
    intervals = compare_probabilities(
        labels,
        joined,
        clusters=position if owners is None else np.asarray(owners)[position],
        groups=names,
        references=references,
        gap=gap if gap is not None and set(gap) <= set(methods) else None,
        resamples=resamples,
        confidence=confidence,
    )
    predictions = pl.DataFrame(
        {
            "snapshot": pl.Series(names.tolist(), dtype=pl.String),
            "id": pl.Series([str(v) for v in log.ids[position]]),
            "y": labels,
            **{m: p.mean(axis=0) for m, p in joined.items()},
        }
    )
    return SnapshotStudy(pl.DataFrame(rows), intervals, predictions, cards)


def snapshot_methods(
    estimator: Any = None,
    *,
    engagement: str | Sequence[Any] = (),
    auxiliary: Any = None,
    names: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, SnapshotClassifier]:
    """The classifiers that a study compares, by the names that tables show.

    Without an engagement: naive, history, soft, fsiw, oracle. With one also ``soft+engagement``,
    ``funnel`` (exact weights), ``funnel-plain`` (FSIW among the engaged and a logit shift) and
    ``average`` (of FSIW and funnel).

    Args:
        estimator: of all methods; None for gradient-boosted trees.
        engagement: kinds of outcomes before the conversion.
        auxiliary: classifier of the auxiliary probabilities.
        names: those wanted; all where None.
        options: further parameters of :class:`SnapshotClassifier`.

    Raises:
        ParameterError: a name is unknown or needs an engagement.
    """

    def make(method: str, **more: Any) -> SnapshotClassifier:
        return SnapshotClassifier(estimator, method, auxiliary=auxiliary, **{**options, **more})

    found = {name: make(name) for name in ("naive", "history", "soft", "fsiw")}
    if engagement:
        found["soft+engagement"] = make("soft", engagement=engagement)
        found["funnel-plain"] = make("funnel", engagement=engagement, weights="plain")
        found["funnel"] = make("funnel", engagement=engagement)
        found["average"] = make("average", engagement=engagement)
    found["oracle"] = make("oracle")
    if names is None:
        return found
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ParameterError(f"{unknown} are not among the methods {list(found)}")
    return {name: found[name] for name in names}


def _test(log: EventLog, snapshot: Snapshot) -> tuple[NDArray[np.int64], EventLog]:
    begin, end = (log.moment(edge) for edge in snapshot.test)
    at = np.flatnonzero((log.times >= begin) & (log.times < end))
    if len(at) == 0:
        raise ParameterError(f"{snapshot.name!r}: no entity lies in the test {snapshot.test}")
    if log.times[at].min() <= log.moment(snapshot.now):
        raise ParameterError(
            f"{snapshot.name!r}: the test {snapshot.test} begins at or before the instant of "
            f"training, {snapshot.now}: a model must not be tested on what it was trained on"
        )
    test = log.select(at)
    if not test.matured.all():
        raise NotMatureError(
            f"{snapshot.name!r}: {int((~test.matured).sum()):,} of {len(at):,} test labels are not "
            "final in the log",
            float(test.deadlines.max()),
        )
    return at, test


def _train(log: EventLog, method: LogClassifier, snapshot: Snapshot, seed: int) -> Any:
    model = clone(method)
    if "random_state" in model.get_params(deep=False):
        model.set_params(random_state=seed)
    complete = getattr(model, "method", None) == "oracle"
    # The classifier cuts the log itself; what lies after now is cut here all the same.
    seen = log if complete else log.until(snapshot.now)
    return model.fit(seen, snapshot.now, since=snapshot.since, history=snapshot.history)


def _score(
    snapshot: str, method: str, seed: int, y: NDArray, p: FloatArray, card: Mapping[str, Any]
) -> dict[str, Any]:
    sizes = card.get("effective_sample_size", {})
    return {
        "snapshot": snapshot,
        "method": method,
        "seed": seed,
        "n": len(y),
        "nll": negative_log_likelihood(y, p),
        "auc": area_under_roc(y, p),
        "ratio": float(p.mean() / y.mean()) if y.any() else float("nan"),
        "mean_p": float(p.mean()),
        "mean_y": float(y.mean()),
        "shift": float(card.get("shift") or 0.0),
        "effective_sample_size": min((s["effective"] for s in sizes.values()), default=None),
    }
