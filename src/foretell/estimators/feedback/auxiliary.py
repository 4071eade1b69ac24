"""Auxiliary nets of delayed feedback: what they learn from matured entities, and their training.

None of them is ever given an entity whose window is not over: they are handed views of the log
that hold matured entities only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.events import Emission, EventLog
from foretell.errors import NotMatureError
from foretell.estimators.feedback.method import (
    Auxiliary,
    AuxiliaryExamples,
    Columns,
    MakeTrunk,
    Setting,
)
from foretell.learners.tabular import EventNet
from foretell.training import TensorExamples, fit
from foretell.training.online import CarriedOptimizer
from foretell.training.weighting.delay import hazard_targets, interval_edges, survival

CHUNK = 65_536
"""Rows predicted at once."""
ENOUGH = 20
"""Examples of the rarer outcome below which an event falls back to its pooled rate."""


def first_times(log: EventLog, waiting_time: float) -> NDArray[np.float64]:
    """Time (n,) of each entity's first emission: t + e, or the end of a shorter window."""
    return np.minimum(log.times + waiting_time, log.deadlines)


class DelayNet(Auxiliary):
    """Delay survival: from matured converters, and engaged ones for a funnel.

    Its first events are the survivals ``S_j`` of :func:`foretell.training.weighting.exact.finality`
    (did an entity whose final label lies beyond j show j first?); the others are the hazards of
    the conversion delay over intervals, the first of which ends at the waiting time.
    """

    name = "delay"
    delays = True

    def __init__(self, setting: Setting, changing: int = 1, intervals: int = 8) -> None:
        self.setting, self.changing = setting, changing
        self.intervals = intervals
        self.edges: NDArray[np.float64] = np.zeros(0)
        self.events = (*(f"late{j}" for j in range(changing)), *(f"h{i}" for i in range(intervals)))
        self.pooled = tuple(range(changing))

    def examples(self, matured: EventLog, rng: np.random.Generator) -> AuxiliaryExamples:
        """Entities whose final label is beyond 0."""
        delay = matured.delay()
        converted = np.isfinite(delay)
        start = first_times(matured, self.setting.waiting_time) - matured.times
        if not len(self.edges):
            seen = delay[converted]
            self.edges = interval_edges(
                seen, self.setting.waiting_time, self.setting.window, self.intervals
            )
        target, known = hazard_targets(delay, self.edges)
        known *= converted[:, None]
        late = [(delay > start) & converted]
        beyond = [converted]
        if self.changing == 2:
            engaged = matured.engagement_times(self.setting.engagement) - matured.times
            first = np.minimum(engaged, delay)
            beyond = [np.isfinite(first), converted & (self.setting.strict | (engaged <= delay))]
            shows = (delay > start) & (engaged < delay)
            late = [first > start, shows]
        rows = np.flatnonzero(beyond[0])
        target = np.concatenate([np.stack(late, 1), target], 1)[rows]
        known = np.concatenate([np.stack(beyond, 1), known], 1)[rows]
        return AuxiliaryExamples(rows, target.astype(np.float32), known.astype(np.float32))

    def columns(self, probabilities: Tensor) -> Columns:
        """``survival`` ``(m, J)``."""
        return {"survival": probabilities[:, : self.changing]}

    def delay_cdf(self, probabilities: Tensor, delay: float) -> Tensor:
        """``P(D <= delay | Y = 1, x)`` ``(m,)``."""
        return 1 - survival(probabilities[:, self.changing :], self.edges, delay)


class WindowNet(Auxiliary):
    """The two heads of ES-DFM, and a third where a method needs ``p`` itself.

    ``delayed_positive`` knows all rows, ``real_negative`` those not converted by e (Yang et al.
    2021, eq. 13-14), ``positive`` all rows.
    """

    name = "window"

    def __init__(self, setting: Setting, events: tuple[str, ...]) -> None:
        self.setting, self.events = setting, events
        self.pooled = tuple(range(len(events)))

    def examples(self, matured: EventLog, rng: np.random.Generator) -> AuxiliaryExamples:
        """All matured entities."""
        delay = matured.delay()
        converted = np.isfinite(delay)
        late = delay > first_times(matured, self.setting.waiting_time) - matured.times
        targets = {
            "delayed_positive": (converted & late, np.ones(len(delay), bool)),
            "real_negative": (~converted, late),
            "positive": (converted, np.ones(len(delay), bool)),
        }
        target = np.stack([targets[event][0] for event in self.events], 1)
        known = np.stack([targets[event][1] for event in self.events], 1)
        rows = np.arange(len(delay))
        return AuxiliaryExamples(rows, target.astype(np.float32), known.astype(np.float32))

    def columns(self, probabilities: Tensor) -> Columns:
        """One key for each event."""
        return {event: probabilities[:, i] for i, event in enumerate(self.events)}


class FinalityNet(Auxiliary):
    """Was the label of an emitted row final? One event for each label that can change."""

    name = "finality"
    events = ("final0", "final1")
    pooled = (0, 1)

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def examples(self, matured: EventLog, rng: np.random.Generator) -> AuxiliaryExamples:
        """All matured entities; a label is known to those that emit a row with it."""
        delay = matured.delay()
        engaged = matured.engagement_times(self.setting.engagement) - matured.times
        start = first_times(matured, self.setting.waiting_time) - matured.times
        first = np.minimum(engaged, delay)
        shows_none = first > start
        shows_engaged = np.isfinite(engaged) & (engaged < delay) & (delay > start)
        final = np.stack([~np.isfinite(first), ~np.isfinite(delay)], 1)
        known = np.stack([shows_none, shows_engaged], 1)
        rows = np.arange(len(delay))
        return AuxiliaryExamples(rows, final.astype(np.float32), known.astype(np.float32))

    def columns(self, probabilities: Tensor) -> Columns:
        """``finality`` ``(m, 2)``."""
        return {"finality": probabilities}


class FittedAuxiliary:
    """An auxiliary net with its training.

    Args:
        what: what it learns.
        trunk: makes its body.
        seed: of its weights and batches.
        training: arguments of :func:`foretell.training.fit` (``learning_rate``, ...), and
            ``epochs`` and ``batch_size``.

    Attributes:
        net: the trained learner.
        constant: (H,) pooled rates of events too rare to learn, NaN elsewhere.
    """

    def __init__(
        self, what: Auxiliary, trunk: MakeTrunk, seed: int, training: Mapping[str, Any]
    ) -> None:
        self.what, self.seed, self.training = what, seed, dict(training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = EventNet(trunk(what.extra), what.events).eval()
        self.constant = np.full(len(what.events), np.nan)
        self.optimizer = CarriedOptimizer("adam", float(training["learning_rate"]))
        self.updates = 0

    def learn(self, matured: EventLog, inputs: Columns) -> None:
        """Trains on matured entities, whose features are ``inputs`` (n, ...).

        Raises:
            NotMatureError: there is no example.
        """
        examples = self.what.examples(matured, np.random.default_rng(self.seed))
        if not len(examples.entity):
            raise NotMatureError(f"no matured entity for the auxiliary net {self.what.name!r}")
        self._pool(examples)
        self._fit(examples, inputs, int(self.training["epochs"]))

    @property
    def scarce(self) -> bool:
        """Whether an event had too few examples, so that its pooled rate stands in."""
        return bool((~np.isnan(self.constant)).any())

    def refresh(self, matured: EventLog, inputs: Columns) -> None:
        """One step on entities that have just matured."""
        if not len(matured):
            return
        rng = np.random.default_rng([self.seed, self.updates + 1])
        examples = self.what.examples(matured, rng)
        if len(examples.entity) and examples.known.any():
            self._fit(examples, inputs, 0)

    def columns(self, inputs: Columns, rows: Emission | None) -> Columns:
        """Batch keys of emitted rows (m) with features ``inputs`` (m, ...)."""
        if self.what.extra:
            if rows is None:
                return {}
            extra = self.what.inputs(rows)
            assert extra is not None
            inputs = {**inputs, "extra": torch.from_numpy(np.asarray(extra, np.float32))}
        return self.what.columns(self.probabilities(inputs))

    def probabilities(self, inputs: Columns) -> Tensor:
        """``(m, H)``."""
        count = len(inputs["numbers"])
        with torch.inference_mode():
            parts = [
                self.net({k: v[i : i + CHUNK] for k, v in inputs.items()}).logits.sigmoid()
                for i in range(0, max(count, 1), CHUNK)
            ]
            values = parts[0] if len(parts) == 1 else torch.cat(parts)
        fixed = torch.from_numpy(self.constant).to(values.dtype)
        return torch.where(fixed.isnan(), values, fixed).clone()

    def _pool(self, examples: AuxiliaryExamples) -> None:
        warned = self.scarce
        self.constant[:] = np.nan
        for event in self.what.pooled:
            known = examples.known[:, event] > 0
            yes, total = int(examples.target[known, event].sum()), int(known.sum())
            if min(yes, total - yes) >= ENOUGH:
                continue
            self.constant[event] = (yes + 0.5) / (total + 1.0)
            if not warned and (0 < total - yes or not total):
                warnings.warn(
                    f"only {min(yes, total - yes)} matured examples of one outcome of "
                    f"{self.what.events[event]!r} in the auxiliary net {self.what.name!r} "
                    f"({yes} of {total}): its pooled rate {self.constant[event]:.3g} is used for "
                    f"all entities until there are {ENOUGH}",
                    UserWarning,
                    stacklevel=4,
                )

    def _fit(self, examples: AuxiliaryExamples, inputs: Columns, epochs: int) -> None:
        rows = torch.from_numpy(examples.entity)
        batch = {key: value[rows] for key, value in inputs.items()}
        batch["target"] = torch.from_numpy(examples.target)
        batch["known"] = torch.from_numpy(examples.known)
        if examples.extra is not None:
            batch["extra"] = torch.from_numpy(examples.extra)
        count, size = len(rows), int(self.training["batch_size"])
        steps = max(epochs * -(-count // size), int(self.training["least_steps"])) if epochs else 1
        settings = {
            k: v
            for k, v in self.training.items()
            if k not in ("epochs", "batch_size", "least_steps")
        }
        fit(
            self.net, TensorExamples(batch), max_steps=steps, batch_size=min(size, count),
            optimizer=self.optimizer, schedule="constant", seed=self.seed + self.updates,
            validate_every=max(steps, 1), **settings,
        )  # fmt: skip
        self.updates += 1
