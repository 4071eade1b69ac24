"""What is done to representations before they leave a hospital.

Representations are not de-identified by themselves: a ridge regression reads vital signs off
them. A release changes them once, when they are stored, so that nothing is averaged away when they
are exported again. Two trainings on the same rows are two releases, and noise that differs is
averaged away by whoever has both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError
from foretell.training.private.accounting import NoisySteps, epsilon, noise_for

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Released:
    """Representations as they may leave.

    Attributes:
        h: (M, D) what is stored.
        label: (M,) 0 or 1.
        told: JSON values: what was done, and what it guarantees.
        exemplar: (M,) the exemplar each row stands for; -1 where it stands for none.
    """

    h: FloatArray
    label: NDArray[np.int8]
    told: dict[str, Any]
    exemplar: NDArray[np.int64]


@runtime_checkable
class Release(Protocol):
    """Changes representations once, before they are stored."""

    def release(
        self,
        h: FloatArray,
        label: NDArray[np.int8],
        patients: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Released:
        """What is stored instead of ``h`` (M, D), of patients (M,), None if not known.

        Noise comes from ``rng``, which must not follow from anything that is published.
        """
        ...


@dataclass(frozen=True)
class NoRelease:
    """Stores representations as they are: only among hospitals that may share rows anyway."""

    def release(
        self,
        h: FloatArray,
        label: NDArray[np.int8],
        patients: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Released:
        """The same."""
        return Released(h, label, {"kind": "none"}, np.arange(len(h)))


@dataclass(frozen=True)
class GaussianRelease:
    """Adds Gaussian noise, in units of each unit's standard deviation over the exemplars.

    Without a proof: how much it hides is what the audit of the bundle measures.

    Args:
        sigma: noise, in standard deviations of each unit.
        clip: largest length of a representation before the noise; None for no limit.
    """

    sigma: float = 2.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if not self.sigma >= 0 or (self.clip is not None and not self.clip > 0):
            raise ParameterError("sigma must not be negative and clip must be positive")

    def release(
        self,
        h: FloatArray,
        label: NDArray[np.int8],
        patients: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Released:
        """Noisy representations."""
        kept = h if self.clip is None else clipped(h, self.clip)
        noise = rng.standard_normal(h.shape, np.float32) * np.float32(self.sigma)
        told = {"kind": "gaussian", **asdict(self)}
        return Released(kept + noise * kept.std(axis=0), label, told, np.arange(len(h)))


@dataclass(frozen=True)
class PrivateRelease:
    """The Gaussian mechanism: differential privacy for each patient whose rows are stored.

    Every patient gives at most ``rows_per_patient`` rows, each is scaled to length ``clip`` at
    most, and noise is added so that replacing a patient by another with the same labels cannot be
    told apart beyond (epsilon, delta). What is not hidden: labels, the number of rows, and that
    the layers themselves were trained on the patient unless they were trained privately too.

    Args:
        epsilon: of the guarantee.
        delta: of the guarantee, well below 1 / patients.
        clip: largest length of a representation.
        rows_per_patient: at most.
    """

    epsilon: float = 8.0
    delta: float = 1e-5
    clip: float = 5.0
    rows_per_patient: int = 1

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1 and self.clip > 0):
            raise ParameterError("epsilon and clip must be positive, delta inside (0, 1)")
        if self.rows_per_patient < 1:
            raise ParameterError("rows_per_patient must be at least 1")

    def release(
        self,
        h: FloatArray,
        label: NDArray[np.int8],
        patients: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Released:
        """Private representations of some of the exemplars.

        Raises:
            DataError: it is not known which patient a row belongs to.
        """
        if patients is None:
            raise DataError("privacy for patients needs to know them", hint="Give patients=")
        order = rng.permutation(len(h))
        seen: dict[int, int] = {}
        kept = []
        for row in order:
            who = int(patients[row])
            if seen.get(who, 0) < self.rows_per_patient:
                seen[who] = seen.get(who, 0) + 1
                kept.append(row)
        chosen = np.sort(np.array(kept, np.int64))
        plan = NoisySteps(1.0, 1.0, 1)
        multiplier = noise_for(self.epsilon, self.delta, [plan])
        # Two rows within a ball of radius C are 2 C apart at most, k pairs of them sqrt(k) 2 C.
        sensitivity = 2 * self.clip * float(np.sqrt(self.rows_per_patient))
        scale = np.float32(multiplier * sensitivity)
        noise = rng.standard_normal((len(chosen), h.shape[1]), np.float32) * scale
        told = {
            "kind": "private",
            **asdict(self),
            "epsilon_spent": epsilon([NoisySteps(1.0, multiplier, 1)], self.delta),
            "noise_multiplier": multiplier,
            "noise": float(scale),
            "unit": "patient",
            "adjacency": "replace a patient by another with the same labels",
            "not_hidden": [
                "labels",
                "number of rows",
                "what weights, their precision, knots and scaling statistics say of the patients",
            ],
        }
        return Released(clipped(h[chosen], self.clip) + noise, label[chosen], told, chosen)


@dataclass(frozen=True)
class PrototypeRelease:
    """Draws from a mixture of Gaussians for each class; no stored row stands for a patient.

    Components are found by k-means; those with too few patients join their nearest neighbour.
    All share one covariance, shrunk towards its diagonal. Draws are cut at 0, as representations
    behind a rectifier are.

    Args:
        components: of each class at most.
        min_patients: behind each component.
        shrinkage: of the covariance.
        rows: drawn; as many as there are exemplars by default.
    """

    components: int = 20
    min_patients: int = 20
    shrinkage: float = 0.1
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.components < 1 or self.min_patients < 1 or not 0 <= self.shrinkage <= 1:
            raise ParameterError("components and min_patients start at 1, shrinkage is in [0, 1]")

    def release(
        self,
        h: FloatArray,
        label: NDArray[np.int8],
        patients: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Released:
        """Draws in the exemplars' proportion of classes.

        Raises:
            DataError: patients are not known, or a class has fewer than ``min_patients``.
        """
        if patients is None:
            raise DataError("prototypes are of patients", hint="Give patients=")
        centres, classes, weights, people = [], [], [], []
        residual = np.empty_like(h)
        for value in np.unique(label):
            mine = np.flatnonzero(label == value)
            count = len(np.unique(patients[mine]))
            if count < self.min_patients:
                raise DataError(
                    f"class {value} has {count} patients, a prototype needs {self.min_patients}"
                )
            group = _grouped(h[mine], patients[mine], self.components, self.min_patients, rng)
            for g in np.unique(group):
                rows = mine[group == g]
                centre = h[rows].mean(axis=0)
                residual[rows] = h[rows] - centre
                centres.append(centre)
                classes.append(value)
                weights.append(len(rows) / len(h))
                people.append(len(np.unique(patients[rows])))
        covariance = residual.T @ residual / len(h)
        diagonal = np.diag(np.diag(covariance))
        covariance = (1 - self.shrinkage) * covariance + self.shrinkage * diagonal
        covariance += 1e-6 * np.eye(len(covariance), dtype=np.float32)
        root = np.linalg.cholesky(covariance.astype(np.float64)).astype(np.float32)
        size = len(h) if self.rows is None else self.rows
        which = rng.choice(len(centres), size, p=np.array(weights) / np.sum(weights))
        noise = rng.standard_normal((size, h.shape[1]), np.float32)
        drawn = np.maximum(np.array(centres, np.float32)[which] + noise @ root.T, 0)
        told = {"kind": "prototypes", **asdict(self), "patients_of_components": people}
        labels = np.array(classes, np.int8)[which]
        return Released(drawn, labels, told, np.full(size, -1))


@dataclass(frozen=True)
class RandomProjection:
    """Keeps a random subspace only, and stores the representation's image in it.

    Args:
        dimensions: of the subspace, fewer than units.
        seed: of the subspace: the same at all hospitals.
    """

    dimensions: int = 64
    seed: int = 0

    def release(
        self,
        h: FloatArray,
        label: NDArray[np.int8],
        patients: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Released:
        """Projected representations.

        Raises:
            ParameterError: the subspace has as many dimensions as the representation, or none.
        """
        width = h.shape[1]
        if not 1 <= self.dimensions < width:
            raise ParameterError(f"dimensions must lie in 1 to {width - 1}, not {self.dimensions}")
        drawn = np.random.default_rng(self.seed).standard_normal((width, self.dimensions))
        basis = np.linalg.qr(drawn)[0].astype(np.float32)
        centre = h.mean(axis=0)
        told = {"kind": "projection", **asdict(self)}
        return Released(centre + (h - centre) @ basis @ basis.T, label, told, np.arange(len(h)))


def clipped(h: FloatArray, bound: float) -> FloatArray:
    """Rows (M, D) whose length is at most the bound."""
    length = np.linalg.norm(h, axis=1, keepdims=True)
    return np.asarray(h * np.minimum(1.0, bound / np.maximum(length, 1e-12)), np.float32)


def _grouped(
    h: FloatArray,
    patients: NDArray[np.int64],
    components: int,
    least: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """(M,) number of the component of each row, each with enough patients."""
    count = len(np.unique(patients))
    k = max(1, min(components, count // least))
    centres = h[rng.choice(len(h), k, replace=False)]
    group = np.zeros(len(h), np.int64)
    for _ in range(25):
        group = _nearest(h, centres)
        used = np.unique(group)
        centres = np.stack([h[group == g].mean(axis=0) for g in used])
    group = _nearest(h, centres)
    while True:
        sizes = {g: len(np.unique(patients[group == g])) for g in np.unique(group)}
        small = [g for g, size in sizes.items() if size < least]
        if not small or len(sizes) == 1:
            return group
        worst = min(small, key=lambda g: sizes[g])
        others = np.array([g for g in sizes if g != worst])
        means = np.stack([h[group == g].mean(axis=0) for g in others])
        mine = group == worst
        group[mine] = others[_nearest(h[mine], means)]


def _nearest(h: FloatArray, centres: FloatArray) -> NDArray[np.int64]:
    far = (centres**2).sum(axis=1) - 2 * h @ centres.T
    return np.asarray(far.argmin(axis=1), np.int64)
