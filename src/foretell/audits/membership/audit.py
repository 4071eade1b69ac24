"""An audit: attacks on several targets, each of the models once, and whether they mean anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foretell.audits.membership.attack import MembershipAttack
from foretell.audits.membership.checks import BlindBaseline
from foretell.audits.membership.lira import LiRA
from foretell.audits.membership.loss_threshold import LossThreshold
from foretell.audits.membership.result import (
    RATES,
    THREAT_MODELS,
    AttackResult,
    OperatingPoint,
    plot_curves,
)
from foretell.audits.membership.rmia import RMIA
from foretell.audits.membership.shadow_classifier import ShadowClassifier
from foretell.audits.membership.shadows import SIGNALS, Shadows
from foretell.audits.membership.signals import Kind
from foretell.decisions.thresholds import clopper_pearson
from foretell.errors import DataError, ParameterError

if TYPE_CHECKING:
    import plotly.graph_objects as go

POSTERIORS = "log_posteriors"
"""Name under which trainings hand back log-posteriors ``(N, C)`` for :class:`ShadowClassifier`."""


@dataclass(frozen=True)
class Summary:
    """An attack's figures, means over the targets.

    Attributes:
        attack: its name.
        targets: models attacked.
        n_shadows: models behind each attack.
        auc: mean.
        auc_low: lowest of a target.
        auc_high: highest of a target.
        balanced_accuracy: mean of the best.
        guessed_accuracy: mean at the attack's own threshold; None without one.
        points: mean true-positive rates. Their intervals are those of one target's members, since
            the targets share their examples.
        flags: what must be doubted, of any target.
    """

    attack: str
    targets: int
    n_shadows: int
    auc: float
    auc_low: float
    auc_high: float
    balanced_accuracy: float
    guessed_accuracy: float | None
    points: tuple[OperatingPoint, ...]
    flags: tuple[str, ...]

    def tpr_at(self, fpr: float) -> float | None:
        """The mean true-positive rate at one of the rates of ``points``."""
        return next(point.tpr for point in self.points if point.fpr == fpr)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **{k: v for k, v in vars(self).items() if k not in ("points", "flags")},
            "points": [point._asdict() for point in self.points],
            "flags": list(self.flags),
        }


@dataclass(frozen=True, eq=False)
class MembershipAudit:
    """What a training gives away about its examples.

    Attributes:
        results: attack -> its result on each target.
        targets: numbers of the models that were attacked.
        vulnerability: ``(N,)`` how far each example stands out when it was trained on: the share of
            others that the best attack scores below it, mean over targets; NaN for examples that no
            target was trained on.
        statement: the guarantee of the training, as JSON values; None without one.
        blind: what can be told without the model; None if it was not looked at.
        notes: what else must be known.
    """

    results: Mapping[str, tuple[AttackResult, ...]]
    targets: tuple[int, ...]
    vulnerability: NDArray[np.float64]
    statement: Mapping[str, Any] | None = None
    blind: BlindBaseline | None = None
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def threat_model(self) -> str:
        """What the attacker sees."""
        return next(iter(self.results.values()))[0].threat_model

    @property
    def invalid(self) -> str | None:
        """Why the figures prove nothing; None where they do."""
        if self.blind is None or not self.blind.invalid:
            return None
        return (
            f"members and others differ by themselves: a classifier that never asks the model "
            f"reaches AUC {self.blind.auc:.3f} (above {0.55}), so attacks need not have read "
            "anything off the model"
        )

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """Figures of each attack, the best AUC first."""
        found = [_summary(name, results) for name, results in self.results.items()]
        return tuple(sorted(found, key=lambda s: -s.auc))

    def summary(self, attack: str) -> Summary:
        """Figures of one attack.

        Raises:
            ParameterError: it was not made.
        """
        for found in self.summaries:
            if found.attack == attack:
                return found
        raise ParameterError(f"no attack {attack!r}; there are {', '.join(self.results)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        seen = self.vulnerability[~np.isnan(self.vulnerability)]
        quantiles = (0.5, 0.9, 0.99)
        return {
            "threat_model": self.threat_model,
            "attacker": THREAT_MODELS[self.threat_model],
            "valid": self.invalid is None,
            "invalid": self.invalid,
            "statement": None if self.statement is None else dict(self.statement),
            "blind": None if self.blind is None else self.blind._asdict(),
            "targets": list(self.targets),
            "examples": len(self.vulnerability),
            "attacks": [summary.to_dict() for summary in self.summaries],
            "vulnerability": {
                "examples": len(seen),
                **{f"quantile_{q}": float(np.quantile(seen, q)) for q in quantiles if len(seen)},
                "above_0.99": int((seen >= 0.99).sum()),
            },
            "notes": list(self.notes),
            **self.extra,
        }

    def to_json(self, file: str | Path) -> Path:
        """Writes the figures; NaN is written as null."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        return partial.replace(file)

    def plot(self) -> go.Figure:
        """ROC curves of all attacks on the first target."""
        return plot_curves([results[0] for results in self.results.values()])


def standard_attacks(signal: Kind = "logit", labels: Any = None) -> list[MembershipAttack]:
    """Loss, shadow classifier, LiRA and RMIA, online and offline.

    Args:
        signal: what the signals are.
        labels: ``(N,)`` classes for the shadow classifier.
    """
    return [
        LossThreshold(signal),
        ShadowClassifier(labels),
        LiRA(),
        LiRA("offline"),
        LiRA(variance="nig"),
        RMIA(signal=signal),
        RMIA("offline", signal=signal),
    ]


def audit_membership(
    shadows: Shadows,
    attacks: Sequence[MembershipAttack] | None = None,
    *,
    targets: int | Sequence[int] | None = None,
    n_shadows: int | None = None,
    signal: Kind = "logit",
    labels: Any = None,
    statement: Mapping[str, Any] | None = None,
    blind: BlindBaseline | None = None,
    notes: Sequence[str] = (),
) -> MembershipAudit:
    """Attacks the models one after the other, each with the others as its shadow models.

    With a single model only the attack on its losses is possible.

    Args:
        shadows: signals and membership of all models.
        attacks: those of :func:`standard_attacks` when None.
        targets: how many models are attacked, or which; all when None.
        n_shadows: shadow models an attack, those after the target in a circle; all others when
            None.
        signal: what the signals are, for the standard attacks.
        labels: ``(N,)`` classes, for the standard attacks.
        statement: the guarantee of the training.
        blind: of :func:`~foretell.audits.membership.blind_baseline`.
        notes: what else must be known.

    Raises:
        ParameterError: targets or shadow models that are not there.
    """
    count = len(shadows)
    made = list(standard_attacks(signal, labels) if attacks is None else attacks)
    if count == 1:
        made = [attack for attack in made if not attack.needs_shadows]
    if not made:
        raise ParameterError("there is no attack that needs no shadow model: add LossThreshold()")
    if isinstance(targets, int):
        targets = range(min(targets, count))
    chosen = list(range(count)) if targets is None else [int(t) for t in targets]
    if not chosen or not all(0 <= t < count for t in chosen):
        raise ParameterError(f"targets must be among the {count} models, not {chosen}")
    around = count - 1 if n_shadows is None else int(n_shadows)
    if not 0 <= around < count:
        raise ParameterError(f"n_shadows must be less than the {count} models, not {n_shadows}")
    results: dict[str, list[AttackResult]] = {}
    for target in chosen:
        rest = [(target + 1 + step) % count for step in range(around)]
        for attack in made:
            signals = _signals(shadows, attack)
            if rest:
                attack.fit(signals[rest], shadows.membership[rest])
            found = attack.attack(signals[target], shadows.membership[target])
            results.setdefault(found.attack, []).append(found)
    best = max(results.values(), key=lambda r: float(np.mean([one.auc for one in r])))
    return MembershipAudit(
        {name: tuple(found) for name, found in results.items()},
        tuple(chosen),
        _vulnerability(best),
        statement,
        blind,
        tuple(notes),
    )


def _signals(shadows: Shadows, attack: MembershipAttack) -> NDArray[np.float64]:
    if isinstance(attack, ShadowClassifier) and POSTERIORS in shadows.extra:
        return shadows.extra[POSTERIORS]
    if shadows.signals.ndim != 2:
        raise DataError(
            f"the {SIGNALS} have shape {shadows.signals.shape}: reduce the queries of an example "
            "to one number first"
        )
    return shadows.signals


def _vulnerability(results: Sequence[AttackResult]) -> NDArray[np.float64]:
    total = np.zeros(len(results[0].scores))
    count = np.zeros(len(total))
    for result in results:
        total += np.where(result.membership, result.vulnerability, 0.0)
        count += result.membership
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _summary(name: str, results: Sequence[AttackResult]) -> Summary:
    aucs = [result.auc for result in results]
    guessed = [r.guessed_accuracy for r in results if r.guessed_accuracy is not None]
    points = []
    for place, rate in enumerate(RATES):
        own = [result.points[place] for result in results]
        rates = [point.tpr for point in own if point.tpr is not None]
        if len(rates) < len(own):
            points.append(OperatingPoint(rate, None, None, None, True))
            continue
        mean = float(np.mean(rates))
        members = float(np.mean([result.membership.sum() for result in results]))
        low, high = clopper_pearson(mean * members, members)
        low_count = any(point.low_count for point in own)
        points.append(OperatingPoint(rate, mean, float(low), float(high), low_count))
    return Summary(
        name,
        len(results),
        results[0].n_shadows,
        float(np.mean(aucs)),
        min(aucs),
        max(aucs),
        float(np.mean([result.balanced_accuracy for result in results])),
        float(np.mean(guessed)) if guessed else None,
        tuple(points),
        tuple(dict.fromkeys(flag for result in results for flag in result.flags)),
    )
