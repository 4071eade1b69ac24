"""A risk model behind a gate: a score with its reasons, or the reasons why there is none.

Shashikumar, Wardi, Malhotra and Nemati, npj Digital Medicine 4:134 (2021): values weighed by their
age, a conformal test of the last hidden layer, and a score only for hours that conform. Here the
model is any, and the gate may test inputs, a hidden layer, or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.decisions.abstention.calibration_hours import Represent
from foretell.decisions.abstention.gate import Gate, GateStream
from foretell.decisions.abstention.verdict import Gated, Status
from foretell.errors import ParameterError
from foretell.learners.risk.attributions import last_rows, row_numbers


class RiskModel(Protocol):
    """What is asked of a model; ``represent(stays, layer="last")`` too where a layer is tested."""

    def predict_proba(self, stays: Stays) -> NDArray[np.float64]:
        """(R, 2) probabilities of every hour."""
        ...

    def explain(self, stays: Stays, rows: ArrayLike | None = None, *, top: int) -> pl.DataFrame:
        """``row``, ``words``, ``value``, ``unit``, ``contribution`` of the strongest features."""
        ...

    def stream(self, **described: Any) -> Any:
        """The live form for one stay."""
        ...


class Contributor(NamedTuple):
    """A feature that moved a score.

    Args:
        words: what it is.
        value: in its unit; None where it is not known.
        unit: None where it has none.
        contribution: by how much it moved the score on the model's own scale.
    """

    words: str
    value: float | None
    unit: str | None
    contribution: float


class Prediction(NamedTuple):
    """What is said of one hour.

    Args:
        status: ``"ok"`` or ``"indeterminate"``.
        score: probability; None where the status is indeterminate.
        p_values: conformity with hours without and with an onset ahead.
        reasons: why there is no score, or what else is worth knowing, in words.
        contributors: what moved the score most; none where there is no score.
        why: the status of the gate, which tells the three reasons for abstaining apart.
        rules: names of the rules that spoke.
    """

    status: Literal["ok", "indeterminate"]
    score: float | None
    p_values: tuple[float, float]
    reasons: tuple[str, ...]
    contributors: tuple[Contributor, ...]
    why: Status
    rules: tuple[str, ...]


class Composer:
    """A fitted risk model behind a gate.

    With ``FeedForwardRisk(time_since="weight", n_knots=0)`` and a gate with
    ``hidden=MondrianConformal("knn")`` this is the published method; with the gate's own test
    inputs are tested as well. :class:`~foretell.estimators.AdditiveRisk` makes values fade in such
    a way that an older one never moves the score away from the population.

    Args:
        model: fitted, and trained on other patients than the gate is calibrated on.
        gate: fitted, or to be fitted by :meth:`fit`.

    Example:
        >>> gate = QualityMonitor().then(MondrianConformal("mahalanobis"))  # doctest: +SKIP
        >>> composer = Composer(model, gate).fit(train, calibration)  # doctest: +SKIP
        >>> composer.predict(stays)[0].status  # doctest: +SKIP
    """

    def __init__(self, model: RiskModel, gate: Gate) -> None:
        self.model, self.gate = model, gate
        if gate.hidden is not None and not hasattr(model, "represent"):
            raise ParameterError(
                f"the gate tests a hidden layer, which {type(model).__name__} does not show"
            )

    def fit(self, train: Stays, calibration: Stays) -> Self:
        """Fits the gate; see :meth:`Gate.fit`."""
        self.gate.fit(train, calibration, self._needed(calibration), represent=self._represent)
        return self

    def recalibrate(self, calibration: Stays) -> Self:
        """Calibrates the gate on newer stays; see :meth:`Gate.recalibrate`."""
        self.gate.recalibrate(calibration, self._needed(calibration), represent=self._represent)
        return self

    def judge(self, stays: Stays) -> Gated:
        """What the gate says of every hour of stays."""
        represent = self._represent
        hidden = None if represent is None else represent(stays)
        return self.gate.judge(stays, self._risk(stays), hidden)

    def predict(
        self, stays: Stays, rows: ArrayLike | None = None, *, top: int = 10
    ) -> list[Prediction]:
        """What is said of some hours.

        Args:
            stays: any.
            rows: (R,) mask or ascending numbers of the hours; the last of each stay by default.
            top: features that are named; 0 for none.
        """
        chosen = last_rows(stays) if rows is None else row_numbers(rows)
        said = self.judge(stays)
        scored = chosen[said.issued[chosen]]
        found: dict[int, list[Contributor]] = {}
        if top > 0 and len(scored):
            told = self.model.explain(stays, scored, top=top)
            columns = ("row", "words", "value", "unit", "contribution")
            for row, *contributor in told.select(columns).iter_rows():
                found.setdefault(row, []).append(Contributor(*contributor))
        return [_prediction(said, r, found.get(r, ())) for r in chosen.tolist()]

    def stream(self, **described: Any) -> ComposerStream:
        """The live form for one stay, equal to :meth:`predict` hour by hour, without contributors.

        Args:
            described: age, sex, unit, ... of the stay.
        """
        return ComposerStream(self, self.model.stream(**described), self.gate.stream())

    def _risk(self, stays: Stays) -> NDArray[np.float64]:
        return np.asarray(self.model.predict_proba(stays), np.float64)[:, 1]

    def _needed(self, calibration: Stays) -> NDArray[np.float64] | None:
        return None if self.gate.ambiguity is None else self._risk(calibration)

    @property
    def _represent(self) -> Represent | None:
        if self.gate.hidden is None:
            return None
        model: Any = self.model
        return lambda stays: model.represent(stays, layer="last")


class ComposerStream:
    """Follows one stay; made by :meth:`Composer.stream`.

    Args:
        composer: whose model and gate hold.
        risks: the model's stream.
        gate: the gate's.
    """

    def __init__(self, composer: Composer, risks: Any, gate: GateStream) -> None:
        self._composer, self._risks, self._gate = composer, risks, gate

    def step(self, row: ArrayLike) -> Prediction:
        """What is said of the next hour.

        Args:
            row: (C,) values of the channels, NaN where nothing was measured.
        """
        score = float(self._risks.step(row))
        hidden = None
        if self._composer.gate.hidden is not None:
            model: Any = self._composer.model
            hidden = model.represent(self._risks.features[None], layer="last")[0]
        return _prediction(self._gate.push(row, score, hidden), 0, ())


def _prediction(said: Gated, row: int, contributors: Sequence[Contributor]) -> Prediction:
    why = Status(int(said.status[row]))
    score = float(said.score[row]) if said.issued[row] else None
    well, septic = said.p_values[row].tolist()
    return Prediction(
        "indeterminate" if why.indeterminate else "ok", score, (well, septic),
        tuple(said.reasons(row)), tuple(contributors), why, tuple(said.quality.reasons(row)),
    )  # fmt: skip
