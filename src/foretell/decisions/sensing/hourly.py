"""Sensing beside a deployed risk model: from the features of an hour, without patients' rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.sensing.gain import EIGSensing
from foretell.decisions.sensing.panels import Panel
from foretell.decisions.sensing.samplers import load_sampler, make_sampler
from foretell.errors import DataError, ParameterError
from foretell.estimators.risk.subset import SubsetRisk
from foretell.learners.artefact import load_artefact, readable, save_artefact

_MODEL, _SAMPLER = "risk", "sampler"


@dataclass(frozen=True, eq=False)
class HourlySensing:
    """What a deployment carries so that panels are ranked by their expected information gain.

    A risk model of any subset of panels, and a sampler of what a panel may show, both of the
    features that the deployed model is given live: each channel's last value, which is new for
    ``fresh`` hours and old afterwards, and what else is known of a stay. An old value counts until
    a new one takes its place: a panel that is hidden in training leaves what was known before.

    The samplers that keep patients are refused: the folder of a deployment leaves the hospital.

    Args:
        channels: (C,) names whose last value is a feature.
        context: (Q,) names of features that are always known.
        fresh: hours for which a value is new.
        model: of ``2 C + Q`` inputs: new values, old values, context.
        sampler: of the same.
        shift: added to the model's log-odds, for hours that were left out of its training.

    Raises:
        ParameterError: the sampler keeps patients, or sizes do not fit.
    """

    channels: tuple[str, ...]
    context: tuple[str, ...]
    fresh: float
    model: SubsetRisk
    sampler: Any
    shift: float = 0.0

    def __post_init__(self) -> None:
        if getattr(self.sampler, "keeps_patients", True):
            raise ParameterError(
                f"a {type(self.sampler).__name__} keeps patients, which must not leave with a "
                "deployment: take a gaussian, a mixture or a vae"
            )
        size = 2 * len(self.channels) + len(self.context)
        if not self.channels or self.model.n_features_in_ != size:
            raise ParameterError(
                f"the risk model has {self.model.n_features_in_} inputs, not the {size} of "
                f"{len(self.channels)} channels and {len(self.context)} facts"
            )
        if not (self.fresh > 0 and np.isfinite(self.shift)):
            raise ParameterError("fresh must be positive and shift finite")

    @classmethod
    def fit(
        cls,
        names: Sequence[str],
        features: ArrayLike,
        since: ArrayLike,
        known: ArrayLike,
        label: ArrayLike,
        panels: Sequence[Sequence[str]],
        *,
        before: ArrayLike | None = None,
        fresh: float = 6.0,
        share: float = 1.0,
        sampler: str = "mixture",
        draws: int = 24,
        sampler_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Learns from hours of training patients.

        Args:
            names: (F,) of the features; ``"Lactate:last"`` is the last value of a channel, and
                those without a colon are facts of the stay.
            features: (R, F) as the deployed model is given them.
            since: (R, C) hours since the last value of each channel with a ``:last``, in their
                order.
            known: (R, C) whether there was one.
            label: (R,) 0 or 1.
            panels: channels that come together; each is hidden at random in training.
            before: (R, C) last values that are no longer new, NaN where there is none; without it
                nothing is known before a new value.
            fresh: hours for which a value is new.
            share: of the hours with label 0 that are here.
            sampler: ``"gaussian"``, ``"mixture"`` or ``"vae"``.
            draws: of a panel for a patient.
            sampler_options: of the sampler's class.
            options: of :class:`~foretell.estimators.risk.SubsetRisk`.

        Raises:
            ParameterError: a share or a sampler that cannot be, or a channel that is no feature.
            DataError: shapes do not fit, or there are too few patients.
        """
        if not 0 < share <= 1:
            raise ParameterError(f"share must be above 0 and at most 1, not {share}")
        if sampler == "knn":
            raise ParameterError("nearest patients cannot be published: take another sampler")
        channels, context = _parts(names)
        place = {name: i for i, name in enumerate(channels)}
        for name in (c for mine in panels for c in mine):
            if name not in place:
                raise ParameterError(f"{name!r} is no channel with a last value")
        values, seen = _inputs(
            names, channels, context, np.asarray(features), np.asarray(since), np.asarray(known),
            fresh,
        )  # fmt: skip
        if before is not None:
            held_before = np.asarray(before, np.float64)
            if held_before.shape != (len(values), len(channels)):
                raise DataError(f"before is {held_before.shape}, not of the hours' channels")
            new, old = np.split(np.arange(2 * len(channels)), 2)
            there = np.isfinite(held_before) & seen[:, new]
            values[:, old] = np.where(there, held_before, values[:, old])
            seen[:, old] |= there
        older = [(i, i + len(channels)) for i in range(len(channels))]
        model = SubsetRisk([[place[c] for c in mine] for mine in panels], older=older, **options)
        model.fit(values, seen, label)
        made = make_sampler(sampler, values, seen, size=draws, **(sampler_options or {}))
        return cls(channels, context, fresh, model, made, float(np.log(share)))

    def inputs(
        self, names: Sequence[str], features: ArrayLike, since: ArrayLike, known: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values and masks (R, 2 C + Q) of hours; arguments as :meth:`fit` takes them.

        Raises:
            DataError: a feature that the model knows is missing.
        """
        missing = {*(f"{c}:last" for c in self.channels), *self.context} - set(names)
        if missing:
            raise DataError(f"the features have no {min(missing)!r}")
        return _inputs(
            names, self.channels, self.context, np.asarray(features), np.asarray(since),
            np.asarray(known), self.fresh,
        )  # fmt: skip

    def predict_members(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(members, R) risks of inputs."""
        p = np.clip(self.model.predict_members(values, seen), 1e-12, 1 - 1e-12)
        return np.asarray(1 / (1 + np.exp(-(np.log(p) - np.log1p(-p) + self.shift))))

    def gain(self, panels: Sequence[Panel]) -> EIGSensing:
        """What panels are expected to tell; their features are numbers of :attr:`channels`."""
        return EIGSensing(self.predict_members, panels, sampler=self.sampler)

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors: parameters, and no patient's values."""
        folder = Path(folder)
        self.model.save(folder / _MODEL)
        self.sampler.save(folder / _SAMPLER)
        config = {
            "channels": list(self.channels), "context": list(self.context), "fresh": self.fresh,
            "shift": self.shift,
        }  # fmt: skip
        save_artefact(folder, type(self).__name__, config, {})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            ArtefactError: the folder is damaged, newer, or holds something else.
        """
        folder = Path(folder)
        config, _ = load_artefact(folder, cls.__name__)
        with readable(folder, cls.__name__):
            sampler = load_sampler(folder / _SAMPLER)
            found = cls(
                tuple(map(str, config["channels"])), tuple(map(str, config["context"])),
                float(config["fresh"]), SubsetRisk.load(folder / _MODEL), sampler,
                float(config["shift"]),
            )  # fmt: skip
            if sampler.n_features != found.model.n_features_in_:
                raise ValueError("risk model and sampler have other features")
        return found


def _parts(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Channels with a last value, and facts of the stay."""
    pairs = [str(name).partition(":") for name in names]
    return (
        tuple(name for name, _, block in pairs if block == "last"),
        tuple(name for name, colon, _ in pairs if not colon),
    )


def _inputs(
    names: Sequence[str], channels: Sequence[str], context: Sequence[str], features: NDArray,
    since: NDArray, known: NDArray, fresh: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:  # fmt: skip
    place = {str(name): i for i, name in enumerate(names)}
    size = (len(features), len(channels))
    if features.ndim != 2 or since.shape != size or known.shape != size:
        raise DataError(
            f"features {features.shape}, since {since.shape} and known {known.shape} must be of "
            f"the same hours and {len(channels)} channels"
        )
    last = features[:, [place[f"{c}:last"] for c in channels]].astype(np.float64)
    facts = features[:, [place[name] for name in context]].astype(np.float64)
    new = np.asarray(known, bool) & (since < fresh)
    old = np.asarray(known, bool) & ~new
    seen = np.concatenate([new, old, np.ones(facts.shape, bool)], axis=1)
    return np.where(seen, np.concatenate([last, last, facts], axis=1), 0.0), seen
