"""WUPERR's hyper-parameters: which are refused, which travel, and those of one site's training."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from foretell.errors import ParameterError
from foretell.estimators.continual.release import Release
from foretell.estimators.continual.warmup import check_warmup

NewChannels = Literal["statistics", "adapter", "ignore"]

_FIXED = frozenset(
    {
        "features",
        "horizon",
        "hidden",
        "n_knots",
        "freeze_first_layer",
        "freeze",
        "warmup_sites",
        "standardised",
    }
)
"""What the first site settles for all."""

_LOCAL = ("release", "release_seed", "threads", "device")
"""What each site decides for itself: no part of a bundle."""


@dataclass(frozen=True)
class _Part:
    """Some of the hyper-parameters, by their names."""

    @classmethod
    def of(cls, model: Any) -> Self:
        """Those of a model."""
        return cls(**{f.name: getattr(model, f.name) for f in fields(cls)})


@dataclass(frozen=True)
class Course(_Part):
    """How one site is trained; fields are named as in :class:`WUPERR`."""

    ewc_lambda: float
    replay_weight: float
    replay_batch: int
    freeze_first_layer: bool
    standardised: bool
    new_channels: NewChannels
    negatives: int
    positives: int
    epochs: float
    learning_rate: float
    upper_learning_rate: float | None
    weight_decay: float
    schedule: str
    validate_every: int | None
    patience: int | None
    random_state: int
    threads: int | None
    device: str

    def rate(self, first: bool) -> float:
        """Of learning at a site."""
        if first or not self.freeze_first_layer or self.upper_learning_rate is None:
            return self.learning_rate
        return self.upper_learning_rate


@dataclass(frozen=True)
class Keeping(_Part):
    """What is kept of a site; fields are named as in :class:`WUPERR`."""

    gamma: float
    fisher_scale: Literal["mean", "count"]
    fisher_examples: int
    memory_per_site: int
    positives_per_site: int
    hours_per_patient: int | None
    freeze_first_layer: bool
    new_channels: NewChannels
    release: Release | None
    release_seed: int | None
    random_state: int


def travelling(told: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a bundle, JSON values."""
    kept = {k: v for k, v in told.items() if k not in _LOCAL}
    return {**kept, "hidden": list(told["hidden"])}


def own_settings(
    told: Mapping[str, Any], overrides: Mapping[str, Any], usual: Mapping[str, Any]
) -> dict[str, Any]:
    """The hyper-parameters at a site that goes on from a bundle.

    What protects the site's own patients is not for the sender to say: how representations are
    released is no part of a bundle, and ``min_patients`` may be raised by one, not lowered.

    Args:
        told: those of the bundle.
        overrides: those that the site sets itself.
        usual: all by name, with their defaults.

    Raises:
        ParameterError: the bundle names one that is not known or not its own to say, or one of its
            values is out of range.
    """
    for name in sorted(told):
        if name not in usual:
            raise ParameterError(f"a hyper-parameter is not known: {name!r}")
        if name in _LOCAL:
            raise ParameterError(f"{name!r} is for each site to say, not for a bundle")
    try:
        check_settings({**usual, **told})
        # Another number may be endless, or none.
        if not isinstance(told.get("min_patients", 0), int):
            raise TypeError(f"min_patients is {told['min_patients']}")
        least = max(told.get("min_patients", 0), usual["min_patients"])
    except TypeError as error:
        raise ParameterError(f"a hyper-parameter is of the wrong kind: {error}") from error
    return {**told, "min_patients": least, **overrides}


def check_overrides(changed: Collection[str]) -> None:
    """Refuses other values than those of a bundle where the first site has settled them.

    Raises:
        ParameterError: naming one of them.
    """
    fixed = sorted(_FIXED.intersection(changed))
    if fixed:
        raise ParameterError(f"{fixed[0]} is fixed by the first site")


def check_settings(told: Mapping[str, Any]) -> None:
    """Refuses values of WUPERR's own hyper-parameters.

    Raises:
        ParameterError: one is out of its range.
    """
    for name in ("ewc_lambda", "replay_weight"):
        value = told[name]
        if not (value >= 0 and math.isfinite(value)):
            raise ParameterError(f"{name} must be a number from 0, not {value}")
    rate = told["upper_learning_rate"]
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ParameterError(f"upper_learning_rate must be positive, not {rate}")
    if not 0 <= told["gamma"] <= 1:
        raise ParameterError(f"gamma must lie in [0, 1], not {told['gamma']}")
    if told["fisher_scale"] not in ("mean", "count"):
        raise ParameterError(f"fisher_scale is 'mean' or 'count', not {told['fisher_scale']!r}")
    check_warmup(told["freeze"], told["warmup_sites"], told["freeze_first_layer"])
    if told["new_channels"] not in ("statistics", "adapter", "ignore"):
        raise ParameterError(f"new_channels cannot be {told['new_channels']!r}")
    if told["release"] is not None and not isinstance(told["release"], Release):
        raise ParameterError("release needs a method release(h, label, patients, rng)")
    for name in ("fisher_examples", "memory_per_site", "min_patients", "replay_batch"):
        if told[name] < 1:
            raise ParameterError(f"{name} must be at least 1, not {told[name]}")
    hours = told["hours_per_patient"]
    if hours is not None and hours < 1:
        raise ParameterError(f"hours_per_patient must be at least 1, or None, not {hours}")
    if len(told["hidden"]) < 2:
        raise ParameterError("WUPERR needs two layers or more: the first is frozen")
