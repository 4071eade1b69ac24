"""The gate between a risk model and its users: a score, or why there is none.

Three reasons not to answer, each with its own guarantee and its own message: the input is broken
(rules), it is unlike any the model was validated on (a conformal test), or it says too little to
decide (a conformal prediction set with both labels). COMPOSER (Shashikumar et al., npj Digital
Medicine 4:134, 2021) has one abstention for all three.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.feature_spec import FeatureSpec
from foretell.data.clinical.feature_stream import FeatureStream
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.labels import target
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.decisions.abstention.calibrated import Calibration, version_of
from foretell.decisions.abstention.calibration import patients_of_hours, thinned
from foretell.decisions.abstention.conformal import (
    MIN_POSITIVES,
    MondrianConformal,
    PredictionSets,
)
from foretell.decisions.abstention.quality import (
    RULES,
    Quality,
    QualityMonitor,
    QualityStream,
)
from foretell.errors import (
    DataError,
    NotFittedError,
    ParameterError,
)
from foretell.learners.artefact import load_artefact, readable, save_artefact

_INPUTS = FeatureSpec(blocks=("last",), static=())
# What is usual is learned from possible values; what is judged is taken as it came.
_AS_SENT = replace(_INPUTS, bounded=False)
_AT_ONCE = 50_000

Represent = Callable[[Stays], NDArray]
"""(R, D) of a hidden layer of the model, for every hour of stays."""


class Status(IntEnum):
    """What the gate says of an hour."""

    OK = 0
    INVALID_INPUT = 1
    OUT_OF_DISTRIBUTION = 2
    AMBIGUOUS = 3

    @property
    def indeterminate(self) -> bool:
        """Whether no score is given."""
        return self in (Status.INVALID_INPUT, Status.OUT_OF_DISTRIBUTION)


class Gated(NamedTuple):
    """What the gate says of R hours.

    Args:
        status: (R,) int8, see :class:`Status`; the first reason that holds.
        score: (R,) the score; NaN where the status is indeterminate. An ambiguous hour keeps its
            score: it is a reason to measure more, not to be silent.
        p_values: (R, 2) conformity with either class.
        quality: what the rules say.
        may_alarm: (R,) whether the hour may raise an alarm; one that may not keeps its score.
    """

    status: NDArray[np.int8]
    score: NDArray[np.float64]
    p_values: NDArray[np.float64]
    quality: Quality
    may_alarm: NDArray[np.bool_]

    @property
    def issued(self) -> NDArray[np.bool_]:
        """(R,) whether a score is given."""
        return ~np.isnan(self.score)

    def reasons(self, row: int) -> list[str]:
        """Why, in words that can be shown beside the patient."""
        told = [RULES[name] for name in self.quality.reasons(row)]
        if self.status[row] == Status.OUT_OF_DISTRIBUTION:
            told.append("the measurements are unlike those the model was validated on")
        if self.status[row] == Status.AMBIGUOUS:
            told.append("the measurements do not decide; another one may")
        if self.issued[row] and not self.may_alarm[row]:
            told.append("the measurements are unlike those before an onset: no alarm is raised")
        return told

    def to_polars(self) -> pl.DataFrame:
        """``status``, ``hours``, ``share``: how often the gate said what."""
        counts = np.bincount(self.status, minlength=len(Status))
        return pl.DataFrame(
            {
                "status": [s.name.lower() for s in Status],
                "hours": counts,
                "share": counts / max(len(self.status), 1),
            }
        )


class Gate:
    """Decides hour by hour whether a score may be given.

    The conformal test sees the last value of each channel, standardised by the training part, and
    0, the mean, where nothing was measured: wrong units and broken sensors show there, while on a
    hidden layer it is the sick who look strange. Values that no patient can have count there, too,
    until the next measurement: repair or drop them first
    (:class:`~foretell.data.clinical.UnitRepair`) where that can be done.

    Args:
        quality: rules; the default ones of the schema if None.
        conformal: the test; its ``alpha`` bounds the share of rejected hours in each class.
        hidden: a second test, on a hidden layer of the model, as COMPOSER has it; None for none.
            The two are joined class by class (Bonferroni: twice the smaller p-value), so that
            ``alpha`` of ``conformal`` holds for both together. Its guarantee must be the same, and
            the prediction sets have it, too.
        ambiguity: share of misses per class of the prediction sets; None for no such status.
        alarm_level: an hour raises an alarm only if its conformity with the hours before an onset
            is at least this; None lets all hours with a score. Of true alarms at most this share
            is lost, under exchangeability. Policies take :attr:`Gated.may_alarm`.
        horizon: hours within which the onset counts, for the classes of the calibration.
        max_rows: rows of the calibration part that are used at most, all positive ones among them;
            about so many where patients count.
        random_state: of their choice.

    Attributes:
        features_: builder of the inputs of the conformal test.
    """

    def __init__(
        self,
        quality: QualityMonitor | None = None,
        conformal: MondrianConformal | None = None,
        *,
        hidden: MondrianConformal | None = None,
        ambiguity: float | None = None,
        alarm_level: float | None = None,
        horizon: float = 4,
        max_rows: int = 100_000,
        random_state: int = 0,
    ) -> None:
        if max_rows < 1:
            raise ParameterError(f"max_rows must be positive, not {max_rows}")
        if alarm_level is not None and not 0 < alarm_level < 1:
            raise ParameterError(f"alarm_level must lie inside (0, 1), or None, not {alarm_level}")
        self.quality = quality
        self.conformal = MondrianConformal() if conformal is None else conformal
        if hidden is not None and hidden.guarantee != self.conformal.guarantee:
            raise ParameterError(
                f"one test promises {self.conformal.guarantee!r}, that of the hidden layer "
                f"{hidden.guarantee!r}: what of both?"
            )
        self.hidden = hidden
        self.ambiguity = ambiguity
        self.alarm_level = alarm_level
        self.horizon = horizon
        self.max_rows = max_rows
        self.random_state = random_state
        self.features_: CausalFeatureBuilder | None = None
        self.sets_: PredictionSets | None = None
        self._calibration: Calibration | None = None

    def fit(
        self,
        train: Stays,
        calibration: Stays,
        probabilities: ArrayLike | None = None,
        *,
        represent: Represent | None = None,
        now: float | None = None,
    ) -> Self:
        """Learns what is usual from one part and calibrates on another.

        Hours that break a rule are left out of both: they are not what validation stood on.

        Args:
            train: stays that the model was trained on.
            calibration: stays of other patients, with their onset.
            probabilities: (R,) of the model for the calibration hours; needed for ``ambiguity``.
            represent: gives a hidden layer of the model; needed for ``hidden``.
            now: when that is, for :attr:`calibration`; by the clock by default.

        Raises:
            DataError: no calibration hour of a class, or probabilities or a layer are missing.
        """
        if self.hidden is not None and represent is None:
            raise DataError("a test on a hidden layer needs the model's layer: give represent")
        rng = np.random.default_rng(self.random_state)
        if self.quality is None:
            self.quality = QualityMonitor(train.schema)
        usual = CausalFeatureBuilder(_INPUTS, schema=train.schema)
        good = ~self.quality.check(train).invalid
        usual.fit(train, good)
        builder = CausalFeatureBuilder(_AS_SENT, schema=train.schema)
        builder.statistics = usual.statistics
        self.features_ = builder
        wanted = target(calibration, self.horizon)
        usable = wanted.at_risk & ~self.quality.check(calibration).invalid
        patients = patients_of_hours(calibration)
        rows = self._some(usable, wanted.label, rng, patients)
        known = self._some(good, None, rng)
        whose = patients[rows]
        self.conformal.fit(
            usual.transform(train, known), builder.transform(calibration, rows), wanted.label[rows],
            whose,
        )  # fmt: skip
        if self.hidden is not None and represent is not None:
            self.hidden.fit(
                _of_rows(represent, train, known), _of_rows(represent, calibration, rows),
                wanted.label[rows], whose,
            )  # fmt: skip
        self._fit_sets(calibration, probabilities, usable, wanted.label)
        self._calibrated(whose, now)
        return self

    def recalibrate(
        self,
        calibration: Stays,
        probabilities: ArrayLike | None = None,
        *,
        represent: Represent | None = None,
        now: float | None = None,
    ) -> Self:
        """Takes newer calibration stays, such as last week's; what is usual stays as it was.

        What was calibrated, when and on how many patients is told by :attr:`calibration`.

        Args:
            calibration: see :meth:`fit`, as the others.
            probabilities: needed for ``ambiguity``.
            represent: needed for ``hidden``.
            now: see :meth:`fit`.

        Raises:
            DataError: as :meth:`fit`; then the gate stays as it was.
            NotFittedError: before :meth:`fit`.
        """
        builder, quality = self._require()
        if self.hidden is not None and represent is None:
            raise DataError("a test on a hidden layer needs the model's layer: give represent")
        wanted = target(calibration, self.horizon)
        usable = wanted.at_risk & ~quality.check(calibration).invalid
        label = wanted.label[usable]
        if len(np.unique(label)) != 2:
            raise DataError(
                "the calibration stays have no hour of one class",
                hint="Go on with the older calibration until there are more patients",
            )
        rng, patients = np.random.default_rng(self.random_state), patients_of_hours(calibration)
        rows = self._some(usable, wanted.label, rng, patients)
        chosen, whose, inner = wanted.label[rows], patients[rows], None
        # All that may fail comes before anything is changed.
        inputs = builder.transform(calibration, rows)
        if self.hidden is not None and represent is not None:
            inner = _of_rows(represent, calibration, rows)
        self._fit_sets(calibration, probabilities, usable, wanted.label)
        self.conformal.recalibrate(inputs, chosen, whose)
        if self.hidden is not None and inner is not None:
            self.hidden.recalibrate(inner, chosen, whose)
        self._calibrated(whose, now)
        return self

    @property
    def calibration(self) -> Calibration:
        """Which calibration holds: its version, when it was made, and of how many patients.

        Raises:
            NotFittedError: before :meth:`fit`.
        """
        if self._calibration is None:
            self._calibration = Calibration(self._calibration_version())
        return self._calibration

    def _calibrated(self, patients: NDArray, now: float | None) -> None:
        moment = time.time() if now is None else float(now)
        self._calibration = Calibration(
            self._calibration_version(), moment, len(np.unique(patients)), len(patients)
        )

    def _calibration_version(self) -> str:
        self._require()
        parts = {"inputs": self.conformal.calibration_arrays()}
        if self.hidden is not None:
            parts["hidden"] = self.hidden.calibration_arrays()
        if self.sets_ is not None:
            parts["sets"] = self.sets_.arrays()
        return version_of({f"{p}.{n}": v for p, held in parts.items() for n, v in held.items()})

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever uses the gate must know of its calibration."""
        told = []
        if self.conformal.pooled:
            told.append(
                f"fewer than {MIN_POSITIVES} calibration hours of one class: both classes share "
                "one calibration, and septic hours may be turned away more often than promised"
            )
        if self.conformal.least_p >= self.conformal.alpha:
            told.append(
                "too few calibration patients for this guarantee at this level: nothing is turned "
                "away"
            )
        return tuple(told)

    def _fit_sets(
        self,
        calibration: Stays,
        probabilities: ArrayLike | None,
        usable: NDArray[np.bool_],
        label: NDArray[np.int8],
    ) -> None:
        if self.ambiguity is None:
            return
        if probabilities is None:
            raise DataError("ambiguity needs the model's probabilities of the calibration part")
        p = np.asarray(probabilities, np.float64)
        if p.shape != (calibration.n_rows,):
            raise DataError(f"there are {p.shape} probabilities for {calibration.n_rows} hours")
        sets = PredictionSets(alpha=self.ambiguity, guarantee=self.conformal.guarantee)
        self.sets_ = sets.fit(p[usable], label[usable], patients_of_hours(calibration)[usable])

    def _some(
        self,
        usable: NDArray[np.bool_],
        label: NDArray | None,
        rng: np.random.Generator,
        patients: NDArray | None = None,
    ) -> NDArray[np.int64]:
        """Ascending numbers of about ``max_rows`` usable rows, the positive ones first."""
        rows = np.flatnonzero(usable)
        if len(rows) <= self.max_rows:
            return rows
        kept = np.zeros(0, np.int64) if label is None else rows[label[rows] == 1][: self.max_rows]
        others = np.setdiff1d(rows, kept, assume_unique=True)
        guarantee = self.conformal.guarantee
        if patients is not None and guarantee != "rows":
            room = max(self.max_rows - len(kept), 1)
            more = thinned(others, patients[others], room, guarantee, rng)
            return np.sort(np.concatenate([kept, more]))
        more = rng.choice(others, self.max_rows - len(kept), replace=False)
        return np.sort(np.concatenate([kept, more]))

    def judge(self, stays: Stays, scores: ArrayLike, hidden: ArrayLike | None = None) -> Gated:
        """Judges all hours of stays.

        Args:
            stays: any with the same channels.
            scores: (R,) of the model: probabilities if ambiguity is asked for.
            hidden: (R, D) layer of the model, where the gate tests it.

        Raises:
            DataError: sizes do not fit.
            NotFittedError: before :meth:`fit`.
        """
        builder, quality = self._require()
        values = np.asarray(scores, np.float64)
        if values.shape != (stays.n_rows,):
            raise DataError(f"there are {values.shape} scores for {stays.n_rows:,} hours")
        found = quality.check(stays)
        return self._put_together(found, builder.transform(stays), values, hidden)

    def _p_values(
        self, inputs: NDArray[np.float32], hidden: ArrayLike | None
    ) -> NDArray[np.float64]:
        """(R, 2) conformity with either class."""
        if self.hidden is not None and hidden is None:
            raise DataError("this gate tests a hidden layer of the model: give it, too")
        if len(inputs) == 0:
            return np.ones((0, 2))
        found = self.conformal.test(inputs).p_values
        if self.hidden is None or hidden is None:
            return found
        inner = self.hidden.test(hidden).p_values
        return np.minimum(2 * np.minimum(found, inner), 1.0)

    def _put_together(
        self,
        quality: Quality,
        inputs: NDArray[np.float32],
        scores: NDArray[np.float64],
        hidden: ArrayLike | None,
    ) -> Gated:
        p_values = self._p_values(inputs, hidden)
        rejected = p_values.max(1) < self.conformal.alpha
        status = np.full(len(scores), Status.OK, np.int8)
        broken = quality.invalid | ~np.isfinite(scores)
        if self.sets_ is not None:
            usable = np.flatnonzero(~broken)
            status[usable[self.sets_.ambiguous(scores[usable])]] = Status.AMBIGUOUS
        status[rejected] = Status.OUT_OF_DISTRIBUTION
        status[broken] = Status.INVALID_INPUT
        silent = (status == Status.INVALID_INPUT) | (status == Status.OUT_OF_DISTRIBUTION)
        may_alarm = ~silent
        if self.alarm_level is not None:
            may_alarm &= p_values[:, 1] >= self.alarm_level
        return Gated(status, np.where(silent, np.nan, scores), p_values, quality, may_alarm)

    def stream(self) -> GateStream:
        """The gate for one stay, hour by hour, equal to :meth:`judge`."""
        builder, quality = self._require()
        return GateStream(self, builder.stream(), quality.stream())

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors, the conformal test in a folder of its own."""
        builder, quality = self._require()
        config = {
            "features": builder.to_dict(),
            "quality": quality.limits(),
            "hidden": self.hidden is not None,
            "ambiguity": self.ambiguity,
            "alarm_level": self.alarm_level,
            "horizon": self.horizon,
            "max_rows": self.max_rows,
            "random_state": self.random_state,
        }
        arrays = {} if self.sets_ is None else self.sets_.arrays()
        save_artefact(folder, type(self).__name__, config, arrays)
        self.conformal.save(Path(folder) / "conformal")
        if self.hidden is not None:
            self.hidden.save(Path(folder) / "hidden")
        self.calibration.save(Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: it is damaged or something else.
        """
        config, arrays = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            builder = CausalFeatureBuilder.from_dict(config["features"])
            gate = cls(
                QualityMonitor(builder.schema, **config["quality"]),
                MondrianConformal.load(Path(folder) / "conformal"),
                hidden=MondrianConformal.load(Path(folder) / "hidden")
                if config.get("hidden", False)
                else None,
                ambiguity=config["ambiguity"],
                alarm_level=config.get("alarm_level"),
                horizon=config["horizon"],
                max_rows=config["max_rows"],
                random_state=config["random_state"],
            )
            gate.features_ = builder
            if "zero" in arrays:
                guarantee = gate.conformal.guarantee
                gate.sets_ = PredictionSets(alpha=config["ambiguity"], guarantee=guarantee)
                gate.sets_.restore(arrays)
            gate._calibration = Calibration.load(Path(folder), gate._calibration_version())
        return gate

    @property
    def schema(self) -> Schema:
        """Channels of the stays."""
        return self._require()[0].schema

    def _require(self) -> tuple[CausalFeatureBuilder, QualityMonitor]:
        if self.features_ is None or self.quality is None:
            raise NotFittedError("the gate is not fitted: call fit first")
        return self.features_, self.quality


class GateStream:
    """Follows one stay; made by :meth:`Gate.stream`.

    Args:
        gate: whose rules and tests hold.
        features: inputs of the conformal test.
        quality: the rules.
    """

    def __init__(self, gate: Gate, features: FeatureStream, quality: QualityStream) -> None:
        self._gate, self._features, self._quality = gate, features, quality

    def push(self, row: ArrayLike, score: float, hidden: ArrayLike | None = None) -> Gated:
        """Judges the next hour.

        Args:
            row: (C,) values of the channels, NaN where nothing was measured.
            score: of the model.
            hidden: (D,) layer of the model, where the gate tests it.
        """
        quality = self._quality.push(row)
        inputs = self._features.step(np.asarray(row, np.float32))[None]
        scores = np.array([score], np.float64)
        inner = None if hidden is None else np.asarray(hidden)[None]
        return self._gate._put_together(quality, inputs, scores, inner)

    def snapshot(self) -> dict[str, Any]:
        """The state of closed hours."""
        features = {k: v.copy() for k, v in self._features.snapshot().items()}
        return {"features": features, "quality": self._quality.state()}

    def restore(self, snapshot: Mapping[str, Any]) -> Self:
        """Goes on from a snapshot of a stream of the same gate."""
        self._features.restore(snapshot["features"])
        self._quality = QualityStream(self._quality.monitor, snapshot["quality"])
        return self


def _of_rows(represent: Represent, stays: Stays, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, D) hidden layer of the hours with ascending numbers ``rows``, chunk by chunk."""
    parts, at = [], 0
    for chunk in stays.chunks(_AT_ONCE):
        low, high = np.searchsorted(rows, (at, at + chunk.n_rows))
        if high > low:
            parts.append(np.asarray(represent(chunk), np.float32)[rows[low:high] - at])
        at += chunk.n_rows
    if not parts:
        raise DataError("there is no hour to learn a hidden layer from")
    return np.concatenate(parts)
