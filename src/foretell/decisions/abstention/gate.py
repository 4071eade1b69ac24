"""The gate between a risk model and its users: a score, or why there is none.

Three reasons not to answer, each with its own guarantee and its own message: the input is broken
(rules), it is unlike any the model was validated on (a conformal test), or it says too little to
decide (a conformal prediction set with both labels). COMPOSER (Shashikumar et al., npj Digital
Medicine 4:134, 2021) has one abstention for all three.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.feature_spec import FeatureSpec
from foretell.data.clinical.feature_stream import FeatureStream
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.decisions.abstention.calibrated import Calibration, version_of
from foretell.decisions.abstention.calibration_hours import (
    CalibrationHours,
    Represent,
    hidden_layer,
    some_of,
)
from foretell.decisions.abstention.conformal import (
    MIN_POSITIVES,
    MondrianConformal,
    PredictionSets,
)
from foretell.decisions.abstention.quality import Quality, QualityMonitor, QualityStream
from foretell.decisions.abstention.verdict import Gated, verdict
from foretell.decisions.abstention.verdict import Status as Status
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.learners.artefact import load_artefact, readable, save_artefact

_INPUTS = FeatureSpec(blocks=("last",), static=())
# What is usual is learned from possible values; what is judged is taken as it came.
_AS_SENT = replace(_INPUTS, bounded=False)


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
        if not horizon > 0:
            raise ParameterError(f"horizon must be positive, not {horizon}")
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
        self._shared = 0

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
        hours = self._hours(calibration, self.quality, rng)
        known = some_of(good, self.max_rows, rng)
        labels, patients = hours.labels[hours.rows], hours.patients[hours.rows]
        self.conformal.fit(
            usual.transform(train, known), builder.transform(calibration, hours.rows), labels,
            patients,
        )  # fmt: skip
        if self.hidden is not None and represent is not None:
            self.hidden.fit(
                hidden_layer(represent, train, known),
                hidden_layer(represent, calibration, hours.rows), labels, patients,
            )  # fmt: skip
        self._fit_sets(hours, probabilities)
        self._calibrated(patients, now)
        both = set(train.patients.astype(str).tolist()) & set(calibration.patients.astype(str))
        self._shared = len(both)
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
        hours = self._hours(calibration, quality, np.random.default_rng(self.random_state))
        if not hours.both_classes:
            raise DataError(
                "the calibration stays have no hour of one class",
                hint="Go on with the older calibration until there are more patients",
            )
        labels, patients, inner = hours.labels[hours.rows], hours.patients[hours.rows], None
        # All that may fail comes before anything is changed.
        inputs = builder.transform(calibration, hours.rows)
        if self.hidden is not None and represent is not None:
            inner = hidden_layer(represent, calibration, hours.rows)
        self._fit_sets(hours, probabilities)
        self._shared = 0
        self.conformal.recalibrate(inputs, labels, patients)
        if self.hidden is not None and inner is not None:
            self.hidden.recalibrate(inner, labels, patients)
        self._calibrated(patients, now)
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
        if self._shared:
            told.append(
                f"{self._shared:,} patients are in the training and in the calibration part: more "
                "new ones may be turned away than promised"
            )
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

    def _hours(
        self, calibration: Stays, quality: QualityMonitor, rng: np.random.Generator
    ) -> CalibrationHours:
        return CalibrationHours.of(
            calibration, quality.check(calibration).invalid, horizon=self.horizon,
            most=self.max_rows, guarantee=self.conformal.guarantee, rng=rng,
        )  # fmt: skip

    def _fit_sets(self, hours: CalibrationHours, probabilities: ArrayLike | None) -> None:
        if self.ambiguity is None:
            return
        if probabilities is None:
            raise DataError("ambiguity needs the model's probabilities of the calibration part")
        p, usable = np.asarray(probabilities, np.float64), hours.usable
        if p.shape != usable.shape:
            raise DataError(f"there are {p.shape} probabilities for {len(usable)} hours")
        sets = PredictionSets(alpha=self.ambiguity, guarantee=self.conformal.guarantee)
        self.sets_ = sets.fit(p[usable], hours.labels[usable], hours.patients[usable])

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
        return self._verdict(found, builder.transform(stays), values, hidden)

    def _verdict(
        self, quality: Quality, inputs: NDArray[np.float32], scores: NDArray[np.float64],
        hidden: ArrayLike | None,
    ) -> Gated:  # fmt: skip
        if self.hidden is not None and hidden is None:
            raise DataError("this gate tests a hidden layer of the model: give it, too")
        p_values = self.conformal.test(inputs).p_values if len(inputs) else np.ones((0, 2))
        if len(inputs) and self.hidden is not None and hidden is not None:
            inner = self.hidden.test(hidden).p_values
            p_values = np.minimum(2 * np.minimum(p_values, inner), 1.0)
        return verdict(
            quality, scores, p_values, alpha=self.conformal.alpha, sets=self.sets_,
            alarm_level=self.alarm_level,
        )  # fmt: skip

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
        if self._shared:
            # Left out where there are none, so that other gates are the same version as before.
            config["shared_patients"] = self._shared
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
            gate.features_, gate._shared = builder, int(config.get("shared_patients", 0))
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
        return self._gate._verdict(quality, inputs, scores, inner)

    def snapshot(self) -> dict[str, Any]:
        """The state of closed hours."""
        features = {k: v.copy() for k, v in self._features.snapshot().items()}
        return {"features": features, "quality": self._quality.state()}

    def restore(self, snapshot: Mapping[str, Any]) -> Self:
        """Goes on from a snapshot of a stream of the same gate."""
        self._features.restore(snapshot["features"])
        self._quality = QualityStream(self._quality.monitor, snapshot["quality"])
        return self
