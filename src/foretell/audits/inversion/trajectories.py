"""Finding a patient of many hours among stored representations: whose they are, whether any is.

Noise on one vector is drawn by itself. Whoever has many hours of a patient adds up what each says
of them, and whoever knows which stored vectors are of one patient takes their mean: k of them have
noise of sigma / sqrt(k) only.

In units of the noise, a stored vector s is the noisy h with density N(s; h, I). Of somebody else,
it comes from m + u + w: u of the patient (covariance B), w of the hour (W), which the attacker
learns from rows of his own. With r = N(s; h, I) / N(s; m, B + W + I), hours h_t (t to T) of the
patient who is sought, and stored vectors s_i (i to M):

- *vector*: the i with the largest mean over t of r_ti. It needs nothing but what is stored.
- *group*: if it were known which vectors are of one patient, the group S that fits best, by the
  best of three: the product over its s_i of the mean over t of N(s_i; h_t, I), over the density
  of S as k hours of one patient (u and w integrated); the mean of S as the mean of the patient's
  k hours, over its density as that of anybody's; its best vector.
- *membership*: the sum over t of log mean_i r_ti, which is the likelihood ratio of "each hour is
  one of these vectors, nobody knows which" to "none is", less the same of vectors that the
  attacker makes of his own rows (calibrated, Watson et al. 2022); by the mean of all vectors
  (Homer et al. 2008); with groups, that of the group that fits best.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.audits.inversion.linkage import least_that_holds
from foretell.audits.membership import auc

FloatArray = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_SILENT = 1e-8
_SHRUNK = 0.05
"""Of covariances towards their diagonal: the attacker's rows are few."""


class Trajectories(NamedTuple):
    """What is found of patients by all their hours that are stored.

    Attributes:
        asked: patients that were looked for.
        hours: stored of a patient, on average.
        vector: share of patients one of whose stored vectors is found.
        vector_by_chance: of an attacker who draws a vector.
        group: share whose stored vectors are found where it is known which are of one patient.
        group_by_chance: of an attacker who draws a group.
        membership: AUC with which stored patients are told from others, by the better attack that
            needs no groups.
        membership_by_group: the same where groups are known.
    """

    asked: int
    hours: float
    vector: float
    vector_by_chance: float
    group: float
    group_by_chance: float
    membership: float
    membership_by_group: float

    def linked(self, groups: bool) -> float:
        """The largest share that is found; without the attack that knows groups if not wanted."""
        return max(self.vector, self.group) if groups else self.vector


class Background:
    """What representations are like, as the attacker's own rows tell, in units of the noise.

    Args:
        noise: (D,) variance of what was added to each unit; silent ones are left out.
        known: (A, D) true representations of the attacker's own rows.
        patients: (A,) whose they are.
    """

    def __init__(self, noise: _Doubles, known: FloatArray, patients: NDArray[np.int64]) -> None:
        self._heard = noise > _SILENT * max(float(noise.max(initial=0.0)), _SILENT)
        self._unit = np.sqrt(noise[self._heard])
        own = known[:, self._heard] / self._unit
        self._middle = own.mean(axis=0)
        own = own - self._middle
        _, place, count = np.unique(patients, return_inverse=True, return_counts=True)
        means = np.zeros((len(count), own.shape[1]))
        np.add.at(means, place, own)
        means /= count[:, None]
        rest = own - means[place]
        free = max(1, len(own) - len(count))
        within = _shrunk(rest.T @ rest / free)
        self.total = _shrunk(own.T @ own / len(own))
        between = self.total - within
        # In coordinates where hours and noise have the unit for covariance and patients are alone.
        root = np.linalg.cholesky(within + np.eye(len(within)))
        half = np.linalg.solve(root, np.linalg.solve(root, between).T)
        values, axes = np.linalg.eigh((half + half.T) / 2)
        self._between = np.maximum(values, 0.0)
        self._to_axes = np.linalg.solve(root, np.eye(len(root))).T @ axes
        self._log_volume = 2 * float(np.log(np.diag(root)).sum())
        noisy = self.total + np.eye(len(within))
        self._precision = np.linalg.inv(noisy)
        self._total_volume = float(np.linalg.slogdet(noisy)[1])

    @property
    def any(self) -> bool:
        """Whether there is noise at all."""
        return bool(self._heard.any())

    def units(self, h: FloatArray) -> FloatArray:
        """(M, D') representations in units of the noise, about the mean."""
        return np.asarray(h[:, self._heard] / self._unit - self._middle, np.float32)

    def log_density(self, s: FloatArray) -> _Doubles:
        """(M,) of stored vectors each of which is of anybody; constants of both models left out."""
        return -0.5 * (((s @ self._precision) * s).sum(axis=1) + self._total_volume)

    def log_density_of_groups(self, s: FloatArray, begins: NDArray[np.int64]) -> _Doubles:
        """(G,) of groups of vectors, each of one patient who is anybody.

        Args:
            s: (M, D') in the order of groups.
            begins: (G,) first vector of each.
        """
        y = s @ self._to_axes
        size = np.diff(np.append(begins, len(s))).astype(np.float64)
        total, squares = np.add.reduceat(y, begins), np.add.reduceat((y**2).sum(axis=1), begins)
        mean = total / size[:, None]
        spread = size[:, None] * self._between + 1
        quadratic = squares - size * (mean**2 * (1 - 1 / spread)).sum(axis=1)
        volume = size * self._log_volume + np.log(spread).sum(axis=1)
        return -0.5 * (quadratic + volume)

    def log_density_of_means(self, means: FloatArray, sizes: NDArray[np.int64]) -> _Doubles:
        """(G,) of means of so many vectors of one patient each, who is anybody.

        Args:
            means: (G, D') of groups.
            sizes: (G,) of each.
        """
        variance = self._between + 1 / sizes[:, None]
        y = means @ self._to_axes
        return -0.5 * ((y**2 / variance + np.log(variance)).sum(axis=1) + self._log_volume)

    def of_mean(self, s: FloatArray, patients: int) -> _Doubles:
        """(D',) what the mean of all stored vectors says along each unit, by its precision."""
        # Precision of means: patients are fewer than hours, and the noise of all is averaged away.
        covariance = self.total / max(patients, 1) + np.eye(s.shape[1]) / len(s)
        return np.asarray(np.linalg.solve(covariance, s.mean(axis=0)), np.float64)


def trajectories(
    hidden: FloatArray,
    stored: FloatArray,
    patients: NDArray[np.int64],
    noise: _Doubles,
    known: FloatArray,
    known_patients: NDArray[np.int64],
    asked: NDArray[np.int64],
    rng: np.random.Generator,
) -> Trajectories | None:
    """Looks for patients by all their hours that are stored; None where there is no noise.

    The attacker has exactly the hours that are stored of each: others would only lead him astray.
    For membership half of the patients who are looked for are taken out of what is stored.

    Args:
        hidden: (M, D) true representations of all that is stored.
        stored: (M, D) as stored.
        patients: (M,) whose they are.
        noise: (D,) variance of what was added to each unit.
        known: (A, D) true representations of the attacker's own rows.
        known_patients: (A,) whose they are.
        asked: patients who are looked for, none of whom the attacker has among his own.
        rng: of the half that is taken out, and of the attacker's own noise.
    """
    if len(known) < 2 or len(asked) < 2:
        return None
    ground = Background(noise, known, known_patients)
    if not ground.any:
        return None
    order = np.argsort(patients, kind="stable")
    people, begins, sizes = np.unique(patients[order], return_index=True, return_counts=True)
    s, h = ground.units(stored[order]), ground.units(hidden[order])
    own = ground.units(known)
    made = own + rng.standard_normal(own.shape, np.float32)
    alone, theirs = ground.log_density(s), ground.log_density(made)
    groups = ground.log_density_of_groups(s, begins)
    length = 0.5 * (s**2).sum(axis=1)
    base = (length + alone).astype(np.float32)
    their_base = (0.5 * (made**2).sum(axis=1) + theirs).astype(np.float32)
    at = np.searchsorted(people, np.asarray(asked))
    out = np.zeros(len(people), bool)
    out[rng.choice(at, len(at) // 2, replace=False)] = True
    kept = np.repeat(~out, sizes)
    whole = ground.of_mean(s[kept], int((~out).sum()))
    ends = begins + sizes
    centres, mine = (
        np.asarray(np.add.reduceat(v, begins) / sizes[:, None], np.float32) for v in (s, h)
    )
    by_size = 0.5 * s.shape[1] * np.log(sizes) - ground.log_density_of_means(centres, sizes)
    found = np.zeros((len(at), 4), bool)
    scores = np.zeros((len(at), 5))
    for row, p in enumerate(at):
        true = h[begins[p] : ends[p]]
        # Log-likelihood of each stored vector (M, T), and of the attacker's own ones.
        near = s @ true.T - 0.5 * (true**2).sum(axis=1)
        far = made @ true.T - 0.5 * (true**2).sum(axis=1)
        fit = _log_sum(near, axis=1) - np.log(sizes[p]) - length
        by_group = (
            np.maximum.reduceat(fit - alone, begins),
            np.add.reduceat(fit, begins) - groups,
            by_size - 0.5 * sizes * ((centres - mine[p]) ** 2).sum(axis=1),
        )
        found[row, 0] = begins[p] <= int(np.argmax(fit - alone)) < ends[p]
        found[row, 1:] = [int(np.argmax(score)) == p for score in by_group]
        here = _log_sum(near[kept] - base[kept, None], axis=0) - np.log(kept.sum())
        there = _log_sum(far - their_base[:, None], axis=0) - np.log(len(made))
        scores[row, 0] = (here - there).sum()
        scores[row, 1] = float(mine[p] @ whole)
        scores[row, 2:] = [score[~out].max() for score in by_group]
    inside = ~out[at]
    told = [float(auc(scores[:, c], inside)) for c in range(5)]
    return Trajectories(
        asked=len(at),
        hours=len(s) / len(people),
        vector=float(found[:, 0].mean()),
        vector_by_chance=float((sizes[at] / len(s)).mean()),
        group=float(found[:, 1:].mean(axis=0).max()),
        group_by_chance=1 / len(people),
        membership=max(told[:2]),
        membership_by_group=max(told[2:]),
    )


def sigma_for_patients(
    hidden: FloatArray,
    patients: NDArray[np.int64],
    allowed: float,
    rng: np.random.Generator,
    *,
    groups: bool = True,
    asked: int = 200,
    among: int = 1000,
) -> float | None:
    """Gaussian noise, in standard deviations of each unit, that links no more patients than may be.

    Found by trying it on the true representations, rounded up to a tenth. None where noise of 128
    would not do, or a guess alone finds as many.

    Args:
        hidden: (M, D) true representations of all that is stored.
        patients: (M,) whose they are.
        allowed: share of :meth:`Trajectories.linked`.
        rng: of the noise that is tried.
        groups: whether the attacker knows which vectors are of one patient.
        asked: of how many patients.
        among: patients at most, drawn by chance: among fewer, more are found.
    """
    spread = hidden.std(axis=0, dtype=np.float64)
    people = np.unique(patients)
    if 1 / len(people) >= allowed:
        return None
    people = rng.choice(people, min(among, len(people)), replace=False)
    rows = np.isin(patients, people)
    h, whose = hidden[rows], patients[rows]
    drawn = rng.standard_normal(h.shape, np.float32)
    sought = people[:asked]

    def holds(sigma: float) -> bool:
        stored = np.asarray(h + drawn * (sigma * spread), np.float32)
        added = (sigma * spread) ** 2
        found = trajectories(h, stored, whose, added, h, whose, sought, np.random.default_rng(0))
        return found is None or found.linked(groups) <= allowed

    least = least_that_holds(holds, 0.25, 128.0)
    return None if least is None else float(np.ceil(10 * least) / 10)


def _shrunk(covariance: _Doubles) -> _Doubles:
    diagonal = np.diag(np.diag(covariance))
    return np.asarray((1 - _SHRUNK) * covariance + _SHRUNK * diagonal, np.float64)


def _log_sum(values: FloatArray, axis: int) -> _Doubles:
    """Logarithm of the sum of exponentials along an axis."""
    most = values.max(axis=axis, keepdims=True)
    total = np.exp(values - most).sum(axis=axis, dtype=np.float64)
    return np.asarray(np.log(total) + most.squeeze(axis), np.float64)
