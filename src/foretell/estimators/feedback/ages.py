"""Methods that look at every entity at fixed ages: DFM, FSIW and GDFM.

Their papers train on a snapshot: all entities, each with its age and what had been seen of it. A
stream has the same observations when entities are looked at as they reach certain ages, each
observation once.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.events import Emission, EventLog
from foretell.estimators.feedback.method import (
    Auxiliary,
    AuxiliaryExamples,
    Columns,
    FeedbackMethod,
    MakeTrunk,
    Mode,
    NamedOutput,
    Setting,
    register,
)
from foretell.learners.contract import Learner
from foretell.learners.tabular.delayed_response import DelayedResponseNet, delay_cdf
from foretell.learners.tabular.signal_response import SignalResponseNet
from foretell.training import Strategy
from foretell.training.weighting.fsiw import FeedbackShiftWeighting, shift_targets
from foretell.training.weighting.gdfm import conditional_entropy, signal_weights

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Ages at which entities are looked at again, as shares of the window."""


class _Aged(FeedbackMethod):
    """Rows at the waiting time and at :data:`SHARES` of the window."""

    protocol = "ages"

    @property
    def ages(self) -> tuple[float, ...]:
        """In the log's unit, those beyond the waiting time."""
        ages = (share * self.setting.window for share in SHARES)
        return tuple(age for age in ages if age > self.setting.waiting_time)

    @property
    def all_ages(self) -> tuple[float, ...]:
        """With the waiting time."""
        return (self.setting.waiting_time, *self.ages)


@register
class DFM(_Aged):
    """Delayed feedback model (Chapelle 2014): conversion and exponential delay, one likelihood.

    ``published`` delays have no end, and what is served is the share within the window; ``exact``
    delays end with the window, as labels do.
    """

    name = "dfm"

    def learner(self, trunk: MakeTrunk) -> Learner:
        """A conversion head and a hazard head."""
        return DelayedResponseNet(trunk(), truncated=self.setting.weights == "exact")

    def history(self, matured: EventLog) -> Columns:
        """Delays of converted entities, full age of the others."""
        return {
            "label": torch.from_numpy(matured.label().astype(np.int64)),
            "elapsed": _elapsed(matured.delay(), self.setting.window),
        }

    def array_labels(self, y: NDArray[np.int64]) -> Columns:
        """Final labels whose delays are not known."""
        return {**super().array_labels(y), "elapsed": torch.full((len(y),), -1.0)}

    def columns(self, rows: Emission) -> Columns:
        """The delay where a conversion has been seen, else the age."""
        entities, times, delay = _known(rows)
        elapsed = np.where(rows.label > 0, delay, rows.time - times)
        # An entity of a shorter window is final when that ends.
        final = (rows.label == 0) & (rows.time >= entities.deadlines[_inverse(rows)])
        elapsed = np.where(final, np.inf, elapsed)
        return {**super().columns(rows), "elapsed": _elapsed(elapsed, self.setting.window)}

    def delay_cdf(self, output: NamedOutput, delay: float) -> Tensor:
        """``P(D <= delay | Y = 1, x)`` ``(n,)``."""
        return delay_cdf(output.hazard, delay / self.setting.window)  # type: ignore[attr-defined]


class ShiftNet(Auxiliary):
    """The auxiliary nets of FSIW, as two heads with the age as a further input.

    In mode ``self`` the first alone: it knows delays, the second would know base rates.
    """

    name = "shift"
    extra = 2

    def __init__(self, setting: Setting, ages: tuple[float, ...]) -> None:
        self.setting, self.ages = setting, ages
        self.delays = setting.mode == "self"
        self.events = ("seen",) if self.delays else ("seen", "negative")

    def examples(self, matured: EventLog, rng: np.random.Generator) -> AuxiliaryExamples:
        """Matured entities as they looked at ages at which they might have been asked about."""
        window, published = self.setting.window, self.setting.weights == "published"
        times, delay = matured.times, matured.delay()
        wide = published and len(times) and np.ptp(times) > window
        shift = shift_targets(
            times,
            delay,
            window,
            matured.now,
            deadline=window if wide else None,
            ages=self.ages,
            seed=int(rng.integers(2**31)),
        )
        target = np.stack([shift.seen, ~shift.positive], 1)
        known = np.stack([shift.positive, ~shift.seen], 1)
        heads = len(self.events)
        useful = known[:, :heads].any(1)
        return AuxiliaryExamples(
            shift.rows[useful],
            target[useful, :heads].astype(np.float32),
            known[useful, :heads].astype(np.float32),
            _age_inputs(shift.elapsed[useful]),
        )

    def inputs(self, rows: Emission) -> NDArray[np.float32]:
        """The age of each row."""
        _, times, _ = _known(rows)
        return _age_inputs((rows.time - times) / self.setting.window)

    def columns(self, probabilities: Tensor) -> Columns:
        """``seen_by_age`` and, unless in mode ``self``, ``stays_negative``."""
        names = ("seen_by_age", "stays_negative")[: len(self.events)]
        return {name: probabilities[:, i] for i, name in enumerate(names)}


@register
class FSIW(_Aged):
    """Feedback shift importance weighting (Yasui et al. 2020).

    ``published`` looks at all history from one counterfactual deadline, a window ago.
    """

    name = "fsiw"

    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """The nets of the two weights."""
        return (ShiftNet(self.setting, self.all_ages),)

    def columns(self, rows: Emission) -> Columns:
        """With ``final``, which rows have reached the end of their window."""
        entities = rows.log.select(np.unique(rows.entity))
        final = rows.time >= entities.deadlines[_inverse(rows)]
        return {**super().columns(rows), "final": torch.from_numpy(final)}

    def strategies(self) -> tuple[Strategy, ...]:
        """Its weights."""
        return (FeedbackShiftWeighting(),)


class SignalNet(Auxiliary):
    """Law of each signal given features and label, and the pre-trained probability of the label.

    One head for the label, then, for y = 0 and y = 1, one for each age and kind.
    """

    name = "signals"

    def __init__(self, setting: Setting, ages: tuple[float, ...]) -> None:
        self.setting, self.ages = setting, ages
        self.kinds = 1 + len(setting.engagement)
        marks = [(y, j, s) for y in (0, 1) for j in range(len(ages)) for s in range(self.kinds)]
        self.events = ("positive", *(f"y{y} age{j} kind{s}" for y, j, s in marks))

    def examples(self, matured: EventLog, rng: np.random.Generator) -> AuxiliaryExamples:
        """All matured entities; each knows the signals given the label it has."""
        label = matured.label() > 0
        ages = np.asarray(self.ages)
        signals = seen_by(matured, np.arange(len(matured)), ages, self.setting.engagement)
        flat = signals.reshape(len(label), -1).astype(np.float32)
        target = np.concatenate([label[:, None].astype(np.float32), flat, flat], 1)
        known = np.ones_like(target)
        known[:, 1 : 1 + flat.shape[1]] = ~label[:, None]
        known[:, 1 + flat.shape[1] :] = label[:, None]
        return AuxiliaryExamples(np.arange(len(label)), target, known)

    def columns(self, probabilities: Tensor) -> Columns:
        """``reference`` and ``signal_probability``."""
        shape = (len(probabilities), 2, len(self.ages), self.kinds)
        signal = probabilities[:, 1:].reshape(shape).clone()
        if self.setting.weights == "exact":
            # What is certain need not be learned: conversions are positives, and all are seen when
            # the window ends.
            signal[:, 0, :, 0] = 0.0
            signal[:, 1, -1, 0] = 1.0
        return {"reference": probabilities[:, 0], "signal_probability": signal}


@register
class GDFM(_Aged):
    """Generalized delayed feedback model (Yang & Zhan 2022): signals at fixed ages.

    Conversion and, with ``engagement``, each kind of it are signals. ``published`` learns the law
    of conversions like that of any other signal, and lets a row bring the signals of all ages it
    has passed, each counting for less the more often it will come. ``exact`` takes what is certain
    of conversions as certain, and brings each signal once, when its age is reached: in sum over
    an entity's rows the weights are the same, and they are not put off.
    """

    name = "gdfm"
    modes: ClassVar[tuple[Mode, ...]] = ("frozen", "refresh")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        shape = (len(self.all_ages), 1 + len(setting.engagement))
        self.weights = signal_weights(self._positive_ages(), np.zeros(shape))

    def learner(self, trunk: MakeTrunk) -> Learner:
        """A binary response with the signals' likelihood."""
        return SignalResponseNet(trunk())

    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """The law of the signals."""
        return (SignalNet(self.setting, self.all_ages),)

    def history(self, matured: EventLog) -> Columns:
        """Final labels; how informative each signal was weighs it from now on."""
        everyone = np.arange(len(matured))
        ages = np.asarray(self.all_ages)
        signals = seen_by(matured, everyone, ages, self.setting.engagement)
        label = matured.label()
        entropies = np.apply_along_axis(conditional_entropy, 0, signals, label)
        self.weights = signal_weights(self._positive_ages(), entropies)
        return super().history(matured)

    def columns(self, rows: Emission) -> Columns:
        """The signals that each row's age brings, and how much they count."""
        ages = np.asarray(self.all_ages)
        signals = seen_by(rows.log, rows.entity, ages, self.setting.engagement)
        number, stage = np.arange(len(ages)), rows.stage[:, None]
        if self.setting.weights == "published":
            brought, weights = number <= stage, self.weights
        else:
            brought, weights = number == stage, self.weights * number[::-1, None] + self.weights
        signals &= brought[:, :, None]
        weight = brought[:, :, None] * weights
        return {
            **super().columns(rows),
            "signals": torch.from_numpy(signals.astype(np.float32)),
            "signal_weight": torch.from_numpy(weight.astype(np.float32)),
        }

    def state(self) -> dict[str, float]:
        """Weights of the signals."""
        return {f"{j}.{s}": float(w) for (j, s), w in np.ndenumerate(self.weights)}

    def restore(self, state: dict[str, float]) -> None:
        """Takes them back."""
        for key, weight in state.items():
            j, s = key.split(".")
            self.weights[int(j), int(s)] = weight

    def _positive_ages(self) -> NDArray[np.float64]:
        return np.asarray(self.all_ages, np.float64)


def seen_by(
    log: EventLog, entity: NDArray[np.int64], ages: NDArray[np.float64], kinds: tuple[str, ...]
) -> NDArray[np.bool_]:
    """Whether conversion and each kind had been seen by each age: ``(m, J, 1 + kinds)``."""
    unique, inverse = np.unique(entity, return_inverse=True)
    part = log.select(unique)
    delays = [part.delay(), *(part.delay(kind) for kind in kinds)]
    seen = np.stack([delay[:, None] <= ages for delay in delays], 2)
    return seen[inverse]


def _known(rows: Emission) -> tuple[EventLog, NDArray[np.float64], NDArray[np.float64]]:
    """The rows' entities, and for each row its entity's time and delay."""
    part = rows.log.select(np.unique(rows.entity))
    at = _inverse(rows)
    return part, part.times[at], part.delay()[at]


def _inverse(rows: Emission) -> NDArray[np.int64]:
    return np.unique(rows.entity, return_inverse=True)[1]


def _age_inputs(age: NDArray[np.float64]) -> NDArray[np.float32]:
    """Ages in windows as inputs of a net ``(m, 2)``, of about unit scale.

    Delays are skewed: what happens in the first hundredth of the window needs a scale of its own.
    """
    share = np.clip(age, 0.0, 1.0)
    early = (np.log(share + 0.01) + 1.5) / 1.5
    return np.stack([2 * share - 1, early], 1).astype(np.float32)


def _elapsed(elapsed: NDArray[np.float64], window: float) -> Tensor:
    """In windows, at most 1."""
    return torch.from_numpy(np.minimum(elapsed / window, 1.0).astype(np.float32))
