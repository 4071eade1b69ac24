"""What gives a stay its risk hour by hour, and what steps in where it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.feature_spec import FeatureSpec
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.schema import Schema
from foretell.errors import ParameterError
from foretell.serving.errors import ScorerFailedError

if TYPE_CHECKING:
    from foretell.learners.risk.stream import HourlyModel

Memory = Mapping[str, NDArray]
"""What a scorer carries from hour to hour, as plain arrays by name."""

OK, DEGRADED, INDETERMINATE, NO_SCORE = "ok", "degraded", "indeterminate", "no_score"
AMBIGUOUS = "ambiguous"
TOLD = 10
"""Drivers that are told of a score at most."""


@dataclass(frozen=True, slots=True)
class Risk:
    """What a scorer says of an hour.

    Args:
        value: between 0 and 1; None where there is none.
        status: ``"ok"``, ``"degraded"`` (a fallback spoke), ``"indeterminate"`` (a rule abstains),
            ``"no_score"``, or what a gate says: ``"invalid_input"``, ``"out_of_distribution"``,
            ``"ambiguous"`` (with a score).
        model: that spoke.
        reason: of an abstention or a failure.
        drivers: (name, points or share) of what drove it, the strongest first.
        may_alarm: whether it may raise an alarm.
    """

    value: float | None
    status: str = OK
    model: str = ""
    reason: str | None = None
    drivers: tuple[tuple[str, float], ...] = ()
    may_alarm: bool = True

    @property
    def alarming(self) -> float | None:
        """The value, for a policy of alarms; None where it may raise none."""
        return self.value if self.may_alarm else None


class Scorer(Protocol):
    """Any model that goes through a stay hour by hour.

    The same state and features must always give the same bytes: no randomness, no clock, one
    thread.

    Attributes:
        version: names model and version; part of the identity of its alarms.
        builder: of its features.
        scaled: whether features are scaled or as they are.
    """

    version: str
    builder: CausalFeatureBuilder
    scaled: bool

    def state0(self) -> Memory:
        """What is carried before the first hour, as arrays by name; empty where nothing is."""

    def step(self, state: Memory, features: NDArray[np.float32]) -> tuple[Memory, Risk]:
        """The memory after an hour and its risk, from features (F,)."""


class AdvisingScorer(Scorer, Protocol):
    """A scorer that also says what to measure.

    With ``panels_at(site)``, numbers of channels by panel, both are told the ``site``.
    """

    def advise(
        self, state: Memory, features: NDArray[np.float32], after: Memory, *, risk: float,
        hour: int, ordered: Collection[str], asked: Mapping[str, int],
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Offers as JSON, each with its ``panel``, as an hour closes.

        Args:
            state: before the hour.
            features: (F,) of the hour.
            after: the state after it.
            risk: of the hour.
            hour: of the stay.
            ordered: LOINC codes of pending orders.
            asked: panel -> hour of the stay in which it was offered last.
        """

    def still(
        self, offers: Sequence[Mapping[str, Any]], after: Memory, *, ordered: Collection[str]
    ) -> list[dict[str, Any]]:
        """What of offers is neither measured nor ordered meanwhile."""


class ModelScorer:
    """A trained model as scorer.

    Args:
        model: one hour's step and its memory.
        builder: of its features.
        version: names the model; every change of its parameters needs another.
        scaled: whether it takes scaled features.
        explain: (name, share) of what drove a risk, from features (F,) and the risk.
    """

    def __init__(
        self,
        model: HourlyModel,
        builder: CausalFeatureBuilder,
        version: str,
        *,
        scaled: bool = True,
        explain: Callable[[NDArray[np.float32], float], Sequence[tuple[str, float]]] | None = None,
    ) -> None:
        self.version, self.builder, self.scaled = version, builder, scaled
        self._model, self._explain = model, explain

    def state0(self) -> Memory:
        """The model's memory before the first hour."""
        return self._model.memory()

    def step(self, state: Memory, features: NDArray[np.float32]) -> tuple[Memory, Risk]:
        """The memory after an hour and its risk."""
        value, memory = self._model.advance(state, features)
        told = () if self._explain is None else tuple(self._explain(features, value))
        return memory, Risk(float(value), OK, self.version, None, told[:TOLD])


_MOST = {"news2": 20, "sirs": 4, "qsofa": 3}
PARTS: dict[str, tuple[str, ...]] = {
    "news2": ("Resp", "O2Sat", "FiO2", "SBP", "HR", "GCS", "Temp"),
    "sirs": ("Temp", "HR", "Resp", "PaCO2", "WBC"),
    "qsofa": ("Resp", "SBP", "GCS"),
}


class RuleScorer:
    """A bedside score as risk: its points as a share of the most there are, not a probability.

    Args:
        score: ``"news2"``, ``"sirs"`` or ``"qsofa"``.
        schema: the channels of the service.
        least: components that must be known; with fewer the risk is indeterminate.
    """

    scaled = False

    def __init__(
        self, score: str = "news2", *, schema: Schema | None = None, least: int = 1
    ) -> None:
        # Here, as the models beside it are heavy and a door needs none of them.
        from foretell.learners.risk.scores import SCORES

        if score not in SCORES:
            raise ParameterError(f"no score is called {score!r}; known are {list(SCORES)}")
        self.version = f"{score}-1"
        self._score, self.most, self._least = SCORES[score], float(_MOST[score]), least
        spec = FeatureSpec(blocks=("last",), static=())
        self.builder = CausalFeatureBuilder(spec, schema=schema)
        names = self.builder.schema.names
        self._columns = [(n, names.index(n)) for n in PARTS[score] if n in names]
        self._held: dict[bytes, Risk] = {}

    def state0(self) -> Memory:
        """Nothing is carried."""
        return {}

    def step(self, state: Memory, features: NDArray[np.float32]) -> tuple[Memory, Risk]:
        """The points of the last known values."""
        used = features[[i for _, i in self._columns]]
        key = used.tobytes()
        risk = self._held.get(key)
        if risk is None:
            risk = self._evaluate(used)
            if len(self._held) >= 65536:
                self._held.clear()
            self._held[key] = risk
        return state, risk

    def _evaluate(self, used: NDArray[np.float32]) -> Risk:
        # Row 0 holds all; each further row one part alone: what it adds to a patient of whom
        # nothing else is known.
        size = len(self._columns)
        table = np.full((size + 1, size), np.nan, np.float32)
        table[0] = used
        np.fill_diagonal(table[1:], used)
        found = self._score({name: table[:, k] for k, (name, _) in enumerate(self._columns)})
        known, points = int(found.known[0]), float(found.points[0])
        if known < self._least:
            return Risk(None, INDETERMINATE, self.version, "too little is known")
        alone = found.points[1:].tolist()
        drivers = [(n, p) for (n, _), p in zip(self._columns, alone, strict=True) if p > 0]
        drivers.sort(key=lambda d: (-d[1], d[0]))
        return Risk(points / self.most, OK, self.version, None, tuple(drivers[:TOLD]))


@dataclass
class Ladder:
    """Scorers in the order of preference: the first that gives an answer counts.

    An answer of a later one is marked ``degraded``; where none answers there is ``no_score``, said
    aloud.

    Attributes:
        failures: version -> how often it failed.
    """

    scorers: Sequence[Scorer]
    failures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scorers:
            raise ParameterError("a ladder needs a scorer")
        first = self.scorers[0].builder.schema.names
        for scorer in self.scorers[1:]:
            if scorer.builder.schema.names != first:
                raise ParameterError("the scorers of a ladder have different channels")
        if len({s.version for s in self.scorers}) < len(self.scorers):
            raise ParameterError("two scorers of a ladder have the same version")

    @property
    def version(self) -> str:
        """Of the first scorer, under which alarms are known where no lineup says otherwise."""
        return self.scorers[0].version

    @property
    def versions(self) -> list[str]:
        """Of all scorers."""
        return [scorer.version for scorer in self.scorers]

    @property
    def horizons(self) -> dict[str, float]:
        """Version -> hours ahead of which it speaks, of those that say so."""
        told = {s.version: getattr(s, "horizon", None) for s in self.scorers}
        return {version: hours for version, hours in told.items() if hours is not None}

    @property
    def schema(self) -> Schema:
        """The channels of the service."""
        return self.scorers[0].builder.schema

    def one(
        self, number: int, state: Memory, features: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray], Risk]:
        """What a single scorer says.

        Raises:
            ScorerFailedError: it does not answer, or its answer is no number.
        """
        scorer = self.scorers[number]
        try:
            after, risk = scorer.step(state, features)
            if risk.value is not None and not math.isfinite(risk.value):
                raise ValueError("the risk is not finite")
        except Exception as error:
            self.failures[scorer.version] = self.failures.get(scorer.version, 0) + 1
            raise ScorerFailedError(scorer.version, type(error).__name__) from None
        return dict(after), risk

    def step(
        self, states: Sequence[Memory], features: Sequence[NDArray[np.float32] | None],
        *, order: Sequence[int] | None = None, beside: int | None = None,
        off: Mapping[str, str] | None = None, strict: bool = False,
    ) -> tuple[list[dict[str, NDArray]], Risk, Risk | None]:  # fmt: skip
        """The states after an hour, the first answer, and what is said beside it.

        Args:
            states: of the scorers before the hour.
            features: of the hour, one array a scorer; None of those that are off.
            order: numbers of those that may speak, the preferred first; all by default.
            beside: number of one that is asked for comparison.
            off: version -> why it is not asked.
            strict: whether a failure is raised instead of passed over.

        Raises:
            ScorerFailedError: one does not answer, and ``strict`` is set.
        """
        order = range(len(self.scorers)) if order is None else order
        failed = dict(off or {})
        out: list[dict[str, NDArray]] = [dict(s) for s in states]
        said: dict[int, Risk] = {}

        def ask(i: int) -> Risk | None:
            scorer, given = self.scorers[i], features[i]
            if i in said or scorer.version in failed or given is None:
                return said.get(i)
            try:
                out[i], said[i] = self.one(i, states[i], given)
            except ScorerFailedError as error:
                if strict:
                    raise
                # A model that fails must not silence the service: the next one speaks.
                failed[scorer.version] = error.reason
                return None
            return said[i]

        # Rules without a state need not be asked while a better one answers.
        speaker = next((i for i in order if ask(i) is not None), None)
        for i in range(len(self.scorers)):
            if states[i] or i == beside:
                ask(i)
        beyond = None if beside is None else said.get(beside)
        reason = next(
            (f"{v} failed: {failed[v]}" for v in (self.scorers[i].version for i in order)
             if v in failed), None,
        )  # fmt: skip
        if speaker is None:
            return out, Risk(None, NO_SCORE, "", reason), beyond
        answer = said[speaker]
        if speaker != order[0] and answer.status == OK:
            answer = replace(answer, status=DEGRADED, reason=reason)
        return out, answer, beyond
