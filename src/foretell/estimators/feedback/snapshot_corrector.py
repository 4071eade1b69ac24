"""Turns what is visible at one instant into weighted rows that any estimator can learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.data.events import EventLog
from foretell.errors import NotFittedError, NotMatureError, ParameterError
from foretell.estimators.feedback.snapshot_auxiliary import (
    AuxiliaryModels,
    Probability,
    check_classifier,
)
from foretell.estimators.feedback.snapshot_view import SnapshotView, funnel_stages
from foretell.estimators.feedback.snapshot_weights import soft_weights, step_weights
from foretell.training.weighting.exact import effective_sample_size

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Correction = Literal["fsiw", "soft", "funnel"]
Parts = tuple[IntArray, NDArray[np.int8], FloatArray]

CORRECTIONS = ("fsiw", "soft", "funnel")
_MOST_CATEGORIES = 254  # of a column that scikit-learn's boosted trees take as categories


class Corrected(NamedTuple):
    """Rows to train on.

    Args:
        X: features (m, d).
        y: labels (m,).
        sample_weight: weights (m,).
        rows: positions (m,) in ``log.until(now)`` of the entities the rows are of.
    """

    X: FloatArray
    y: NDArray[np.int8]
    sample_weight: FloatArray
    rows: IntArray

    @property
    def effective_sample_size(self) -> float:
        """How many rows of equal weight these are worth."""
        return effective_sample_size(self.sample_weight)


class SnapshotCorrector(BaseEstimator):
    """Corrects the labels that are visible at one instant for those still to come.

    Auxiliary probabilities are learned on the entities of ``log.until(now)`` whose window is over,
    looked at again at the ages of those whose window is not. Rows of matured entities always have
    weight 1 and their final label.

    Methods:
        ``"fsiw"``: visible positives are weighed by the inverse probability of being visible,
            the others by the probability of being real negatives (Yasui et al., WWW 2020).
        ``"soft"``: each unlabelled row becomes two, one of each label (ULC, Wang et al., 2023).
            Labels that can be taken back are allowed here, and only here.
        ``"funnel"``: labels are stages, 0 none, 1 engaged, 2 converted (one more for each
            further stage), with exact weights: train a classifier of the stages and take the
            probability of the last. :meth:`steps` gives the steps between stages one by one,
            which :class:`SnapshotClassifier` multiplies.

    With ``engagement``, ``"fsiw"`` and ``"soft"`` take the time since engagement into account in
    the weights; the model that is trained does not see it.

    It is no scikit-learn transformer, since a log and an instant are not ``X``; parameters, cloning
    and ``set_params`` are scikit-learn's.

    Args:
        method: ``"fsiw"``, ``"soft"`` or ``"funnel"``.
        engagement: kinds of outcomes before the conversion, any of which counts as engagement; a
            sequence of sequences is a funnel of several stages.
        weights: ``"exact"`` weights of the steps after the first of a funnel, or ``"plain"``
            ones: FSIW among those who have engaged, as if they were no selection.
        auxiliary: classifier for the auxiliary probabilities; None for gradient-boosted trees.
        clip: least probability that divides a weight.
        replicates: ages at which each matured entity is looked at.
        random_state: seed of the ages and of the auxiliary classifiers.
    """

    def __init__(
        self,
        method: Correction = "fsiw",
        engagement: str | Sequence[Any] = (),
        *,
        weights: Literal["exact", "plain"] = "exact",
        auxiliary: Any = None,
        clip: float = 0.05,
        replicates: int = 4,
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.engagement = engagement
        self.weights = weights
        self.auxiliary = auxiliary
        self.clip = clip
        self.replicates = replicates
        self.random_state = random_state

    def fit(
        self,
        log: EventLog,
        now: Any,
        *,
        since: Any = -np.inf,
        history: tuple[Any, Any] | None = None,
    ) -> SnapshotCorrector:
        """Learns the auxiliary probabilities from what has matured at ``now``.

        Args:
            log: entities and outcomes; what lies after ``now`` is not read.
            now: the instant.
            since: entities from this time on are to be corrected; their ages matter here.
            history: begin (inclusive) and end (exclusive) of the times of the matured entities to
                learn from; all of them where None.

        Raises:
            NotMatureError: no entity has matured, or none that converted.
            ParameterError: a parameter is out of range, or the method needs labels that only rise.
        """
        self._check(log)
        view, targets, past = split_log(log, now, since, history)
        stages = self._stages()
        try:
            self._fit_views(
                SnapshotView.of(view.select(past), stages),
                SnapshotView.of(view.select(targets), stages),
                categorical_mask(view),
            )
        except NotMatureError as error:
            raise not_mature(view, error.problem) from None
        self.now_ = view.now
        return self

    def transform(self, log: EventLog, now: Any, *, since: Any = -np.inf) -> Corrected:
        """Rows to train on, from what is visible at ``now``.

        Raises:
            NotFittedError: :meth:`fit` was not called.
        """
        return self._cut(log, now, since, [self._correct])[0]

    def fit_transform(self, log: EventLog, now: Any, *, since: Any = -np.inf) -> Corrected:
        """:meth:`fit` and :meth:`transform` at the same instant."""
        return self.fit(log, now, since=since).transform(log, now, since=since)

    def steps(self, log: EventLog, now: Any, *, since: Any = -np.inf) -> list[Corrected]:
        """Rows of each step of the funnel: who is at a stage, labelled by reaching the next.

        Raises:
            ParameterError: the method is not ``"funnel"``.
        """
        if self.method != "funnel":
            raise ParameterError(f"steps belong to method 'funnel', not {self.method!r}")
        count = len(self._stages()) + 1
        return self._cut(
            log, now, since, [lambda view, k=k: self._step(view, k) for k in range(count)]
        )

    # ------------------------------------------------------------------ inside

    def _cut(self, log: EventLog, now: Any, since: Any, parts: list[Any]) -> list[Corrected]:
        if not hasattr(self, "models_"):
            raise NotFittedError("this SnapshotCorrector is not fitted: call fit(log, now) first")
        self._check(log)
        view = log.until(log.moment(now))
        rows = np.flatnonzero(view.times >= log.moment(since))
        seen = SnapshotView.of(view.select(rows), self._stages())
        results = []
        for part in parts:
            at, y, weight = part(seen)
            results.append(Corrected(seen.X[at], y, weight, rows[at]))
        return results

    def _check(self, log: EventLog | None = None) -> None:
        if self.method not in CORRECTIONS:
            raise ParameterError(f"method must be one of {CORRECTIONS}, not {self.method!r}")
        if self.weights not in ("exact", "plain"):
            raise ParameterError(f"weights must be 'exact' or 'plain', not {self.weights!r}")
        if not 0 < self.clip < 1:
            raise ParameterError(f"clip must lie inside (0, 1), not {self.clip!r}")
        if self.replicates < 1:
            raise ParameterError(f"replicates must be at least 1, not {self.replicates!r}")
        if self.method == "funnel" and not self._stages():
            raise ParameterError("method 'funnel' needs engagement=, a kind before the conversion")
        if self.auxiliary is not None:
            check_classifier(self.auxiliary, "auxiliary")
        if log is not None and self.method != "soft":
            log.require_monotone(f"method {self.method!r}")

    def _stages(self) -> tuple[tuple[str, ...], ...]:
        return funnel_stages(self.engagement)

    def _fit_views(
        self, history: SnapshotView, targets: SnapshotView, categorical: NDArray[np.bool_] | None
    ) -> SnapshotCorrector:
        aux = AuxiliaryModels(
            self.auxiliary,
            history,
            targets,
            replicates=self.replicates,
            random_state=self.random_state,
            categorical=categorical,
        )
        self.models_: dict[tuple[str, int], Probability] = {}
        conversion = len(self._stages())
        if self.method == "soft":
            self._learn_flips(aux)
        elif self.method == "fsiw":
            self._learn_step(aux, -1, conversion, exact=True, engagement=conversion > 0)
        else:
            for stage in range(conversion + 1):
                self._learn_step(aux, stage - 1, stage, self.weights == "exact", False)
        self.n_history_ = len(history)
        self.fallbacks_ = tuple(aux.fallbacks)
        return self

    def _learn_step(
        self, aux: AuxiliaryModels, start: int, end: int, exact: bool, engagement: bool
    ) -> None:
        """The probabilities that weigh the step from stage ``start`` to ``end``."""
        past, name = aux.past, f"stage {end + 1}"
        reaches, seen = past.ever(end), past.reached(end)
        here = past.reached(start)
        among = reaches if exact else reaches & here
        self.models_["observed", end] = aux.learn(f"seeing {name} by now", among, seen)
        self.models_["final", end] = aux.learn(
            f"never reaching {name}", here & ~seen, ~reaches, engagement=engagement
        )
        if exact and start >= 0:
            self.models_["selected", end] = aux.learn(
                f"seeing stage {start + 1} by now", past.ever(start) & ~reaches, here
            )

    def _learn_flips(self, aux: AuxiliaryModels) -> None:
        past, known = aux.past, bool(self._stages())
        for seen in (0, 1) if past.revoked is not None else (0,):
            self.models_["flips", seen] = aux.learn(
                "a change of the label", past.visible == bool(seen), past.final != bool(seen),
                engagement=known,
            )  # fmt: skip

    def _correct(self, view: SnapshotView) -> Parts:
        everyone = np.arange(len(view))
        if self.method == "fsiw":
            return self._step(view, len(self._stages()), start=-1)
        if self.method == "soft":
            flip = np.zeros(len(view))
            for seen in (0, 1):
                if ("flips", seen) in self.models_:
                    rows = np.flatnonzero((view.visible == bool(seen)) & ~view.matured)
                    flip[rows] = self.models_["flips", seen](view.select(rows))
            return soft_weights(view.visible, flip)
        label = np.zeros(len(view), np.int8)
        for stage in range(len(self._stages()) + 1):
            label[view.reached(stage)] = stage + 1
        weight = np.ones(len(view))
        last = len(self._stages())
        for stage in range(last + 1):
            # Who is at this stage: seen to have come here, not seen to have gone on.
            rows = np.flatnonzero((label == stage) & ~view.matured)
            weight[rows] = self._weigh(view.select(rows), stage)
        rows = np.flatnonzero((label == last + 1) & ~view.matured)
        weight[rows] = self._weigh(view.select(rows), last)
        return everyone, label, weight

    def _step(self, view: SnapshotView, end: int, start: int | None = None) -> Parts:
        """Who is seen at the stage before ``end``, labelled by being seen at ``end``."""
        start = end - 1 if start is None else start
        rows = np.flatnonzero(view.reached(start))
        part = view.select(rows)
        weight = np.ones(len(rows))
        waiting = np.flatnonzero(~part.matured)
        weight[waiting] = self._weigh(part.select(waiting), end)
        return rows, part.reached(end).astype(np.int8), weight

    def _weigh(self, view: SnapshotView, end: int) -> FloatArray:
        """Weights (n,) of entities at the stage before ``end``, or at ``end``."""
        selected = self.models_.get(("selected", end))
        return step_weights(
            view.reached(end),
            self.models_["observed", end](view),
            self.models_["final", end](view),
            1.0 if selected is None else selected(view),
            clip=self.clip,
        )


def split_log(
    log: EventLog, now: Any, since: Any, history: tuple[Any, Any] | None
) -> tuple[EventLog, IntArray, IntArray]:
    """The log at ``now``, the rows to correct, and the matured rows to learn from.

    Raises:
        ParameterError: no entity lies between ``since`` and ``now``.
    """
    view = log.until(log.moment(now))
    targets = np.flatnonzero(view.times >= log.moment(since))
    if len(targets) == 0:
        raise ParameterError(f"no entity lies between since={since} and now={now}")
    past = view.matured
    if history is not None:
        begin, end = (log.moment(edge) for edge in history)
        past = past & (view.times >= begin) & (view.times < end)
    return view, targets, np.flatnonzero(past)


def not_mature(view: EventLog, problem: str) -> NotMatureError:
    """The error with the earliest instant at which a converted entity will have matured."""
    if len(view) == 0:
        return NotMatureError(problem)
    converted = np.isfinite(view.delay())
    ends = view.deadlines[converted] if converted.any() else view.deadlines
    return NotMatureError(problem, float(ends.min()))


def categorical_mask(log: EventLog) -> NDArray[np.bool_]:
    """Features (d,) that are categories, few enough for boosted trees to take them as such."""
    sizes = log.vocabularies
    return np.array(
        [name in sizes and len(sizes[name]) <= _MOST_CATEGORIES for name in log.feature_names], bool
    )
