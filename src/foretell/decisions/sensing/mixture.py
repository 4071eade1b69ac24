"""What a panel may show: a mixture of Gaussians of all features, given those that are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.sensing.modelled import ModelledDonors, finite, normals
from foretell.errors import DataError, ParameterError

_LOG_2PI = float(np.log(2 * np.pi))
_ROWS_AT_ONCE = 8_000
_CLUSTERED = 20_000
_FEW = 4
"""Patients up to whom the last posterior is kept: a service asks of one at a time."""


class Component(NamedTuple):
    """A Gaussian ``N(mean, loads loads' + diag(noise))`` of the standardised features.

    Args:
        weight: share of the patients.
        mean: (F,).
        loads: (F, R) of the factors.
        noise: (F,) variances that no factor tells.
    """

    weight: float
    mean: NDArray[np.float64]
    loads: NDArray[np.float64]
    noise: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(F, F)."""
        return np.asarray(self.loads @ self.loads.T + np.diag(self.noise))


class MixtureDonors(ModelledDonors):
    """Draws a panel's values from a mixture of factor analysers given the features that are known.

    Each component is a Gaussian whose covariance is of ``factors`` factors and a diagonal
    (Ghahramani and Hinton 1996). All is estimated by EM from what was seen of each patient, nothing
    imputed (Ghahramani and Jordan 1994): a feature's row of loads is a regression on the factors
    over those who have it. Given what is known, the weights of the components and mean and
    covariance of each are exact, by algebra of the size of the factors, so that hundreds of
    patterns of missing values cost no more than one.

    ``prior`` patients in each component, of the whole population's mean and spread and without
    factors, keep a component from narrowing to a few patients.

    The draws are shared out among the components by their weights given what is known.

    Args:
        values: (N, F) training patients.
        seen: (N, F) bool, which values are there.
        size: draws for a patient.
        components: Gaussians.
        factors: of each; 0 for diagonal covariances.
        prior: patients.
        iterations: of EM at most.
        tolerance: relative change of the objective at which EM ends.
        random_state: of the first components.

    Attributes:
        components: the Gaussians, :class:`Component`.
        objective: log posterior density a patient, after each iteration: it never falls.

    Raises:
        DataError: shapes do not fit, a value that was seen is not finite, or there are fewer than
            two patients a component.
        ParameterError: a number is out of range.
    """

    _last: tuple[bytes, _Posterior] | None = None

    def __init__(
        self,
        values: ArrayLike,
        seen: ArrayLike,
        *,
        size: int = 24,
        components: int = 8,
        factors: int = 4,
        prior: float = 10.0,
        iterations: int = 200,
        tolerance: float = 1e-5,
        random_state: int = 0,
    ) -> None:
        if components < 1 or factors < 0 or iterations < 1:
            raise ParameterError(
                f"1 component, 0 factors and 1 iteration are the least, not {components}, "
                f"{factors} and {iterations}"
            )
        if not (np.isfinite(prior) and prior > 0 and tolerance > 0):
            raise ParameterError(
                f"prior and tolerance must be positive, not {prior} and {tolerance}"
            )
        z, S = self._measure(values, seen, size)
        if len(z) < 2 * components:
            raise DataError(
                f"{len(z)} patients are too few for {components} components: give at least "
                f"{2 * components}, or fewer components"
            )
        self.components, self.objective = _estimate(
            z, S.astype(np.float64), components, min(factors, z.shape[1]), prior, iterations,
            tolerance, random_state,
        )  # fmt: skip

    @cached_property
    def _stack(self) -> _Stack:
        return _stacked(self.components)

    def _looked_at(self, z: NDArray, seen: NDArray) -> _Posterior:
        """The posterior; the last one again where all panels are asked of the same patient."""
        if len(z) > _FEW:
            return _posterior(self._stack, z, seen)
        asked = z.tobytes() + seen.tobytes()
        held = self._last
        if held is None or held[0] != asked:
            held = self._last = (asked, _posterior(self._stack, z, seen))
        return held[1]

    def log_density(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(n,) log density of what was seen of patients, in units of the standardised features.

        On patients held out it tells how many components and factors are good.
        """
        z, S = self._given(values, seen)
        found = _posterior(self._stack, z, S.astype(np.float64))
        return np.asarray(np.logaddexp.reduce(found.log_weight, axis=0))

    def conditional(
        self, values: ArrayLike, seen: ArrayLike, columns: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The exact distribution of some features given those that were seen.

        Args:
            values: (n, F).
            seen: (n, F) bool; none of ``columns``.
            columns: (P,) numbers of features.

        Returns:
            Weights (n, K), means (n, K, P) and covariances (n, K, P, P), in the features' units.
        """
        z, S = self._given(values, seen)
        wanted = np.asarray(columns, np.int64)
        weights, means, covariances = self._conditional(z, S.astype(np.float64), wanted)
        spread = self._spread[wanted]
        return (weights, self._centre[wanted] + means * spread,
                covariances * np.outer(spread, spread))  # fmt: skip

    def _conditional(
        self, z: NDArray, seen: NDArray, columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        held = self._stack
        found, mine = self._looked_at(z, seen), held.loads[:, columns]
        means = held.mean[:, None, columns] + found.mean @ mine.swapaxes(1, 2)
        covariances = mine[:, None] @ found.covariance @ mine[:, None].swapaxes(2, 3)
        at = np.arange(len(columns))
        covariances[:, :, at, at] += held.noise[:, None, columns]
        weights = np.exp(found.log_weight - np.logaddexp.reduce(found.log_weight, axis=0))
        return weights.T, means.swapaxes(0, 1), covariances.swapaxes(0, 1)

    def _draws(
        self, z: NDArray[np.float64], given: NDArray[np.bool_], columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        noise = normals(self.size, len(columns))
        middle = (np.arange(self.size) + 0.5) / self.size
        out = np.empty((len(z), self.size, len(columns)))
        for at in range(0, len(z), _ROWS_AT_ONCE):
            mine = slice(at, at + _ROWS_AT_ONCE)
            weights, means, covariances = self._conditional(
                z[mine], given[mine].astype(np.float64), columns
            )
            ends = np.cumsum(weights, axis=1)
            which = np.minimum(
                (middle[None, :, None] > ends[:, None, :]).sum(-1), weights.shape[1] - 1
            )
            lower = np.linalg.cholesky(covariances)
            rows = np.arange(len(which))[:, None]
            out[mine] = means[rows, which] + np.einsum("nipq,iq->nip", lower[rows, which], noise)
        return out

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        stacked = {
            name: np.stack([np.asarray(getattr(c, name), np.float64) for c in self.components])
            for name in Component._fields
        }
        return {"objective": self.objective}, stacked

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        size, count = self.n_features, len(arrays["weight"])
        factors = arrays["loads"].shape[-1]
        weight = finite(arrays["weight"], (count,))
        mean, noise = (finite(arrays[k], (count, size)) for k in ("mean", "noise"))
        loads = finite(arrays["loads"], (count, size, factors))
        if not count or not (noise > 0).all() or not (weight > 0).all():
            raise ValueError("weights and variances must be positive")
        self.components = tuple(
            Component(float(weight[k]), mean[k], loads[k], noise[k]) for k in range(count)
        )
        self.objective = [float(v) for v in config["objective"]]


class _Stack(NamedTuple):
    """Components as arrays: weight (K,), mean (K, F), loads (K, F, R), noise (K, F)."""

    weight: NDArray[np.float64]
    mean: NDArray[np.float64]
    loads: NDArray[np.float64]
    noise: NDArray[np.float64]


def _stacked(components: tuple[Component, ...]) -> _Stack:
    return _Stack(*(np.array([c[k] for c in components], np.float64) for k in range(4)))


class _Posterior(NamedTuple):
    """Of the factors of K components given what is known of n patients.

    Log joint weight (K, n), mean (K, n, R), covariance (K, n, R, R).
    """

    log_weight: NDArray[np.float64]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def _posterior(held: _Stack, z: NDArray, seen: NDArray) -> _Posterior:
    """By Woodbury's identity: only matrices of the size of the factors are inverted."""
    count, size, factors = held.loads.shape
    scaled = held.loads / held.noise[:, :, None]
    outer = (scaled[..., None] * held.loads[:, :, None]).reshape(count, size, factors**2)
    precision = np.eye(factors) + (seen @ outer).reshape(count, len(z), factors, factors)
    gap = seen * (z - held.mean[:, None])
    pull = gap @ scaled
    covariance = np.asarray(np.linalg.inv(precision), np.float64)
    mean = (covariance @ pull[..., None])[..., 0]
    far = (gap**2 @ (1 / held.noise)[..., None])[..., 0] - (mean * pull).sum(-1)
    scale = (np.log(held.noise) + _LOG_2PI) @ seen.T + np.linalg.slogdet(precision)[1]
    return _Posterior(np.log(held.weight)[:, None] - 0.5 * (far + scale), mean, covariance)


def _estimate(
    z: NDArray[np.float64], seen: NDArray[np.float64], count: int, factors: int, prior: float,
    iterations: int, tolerance: float, seed: int,
) -> tuple[tuple[Component, ...], list[float]]:  # fmt: skip
    """Components of largest posterior density, and the objective of each iteration."""
    components = _started(z, seen, count, factors, seed)
    objective: list[float] = []
    for _ in range(iterations):
        held = _stacked(components)
        log = np.empty((count, len(z)))
        for at in _chunks(len(z)):
            log[:, at] = _posterior(held, z[at], seen[at]).log_weight
        total = np.logaddexp.reduce(log, axis=0)
        objective.append((float(total.sum()) + _log_prior(components, prior)) / len(z))
        if len(objective) > 1:
            gained = objective[-1] - objective[-2]
            if gained < tolerance * max(1.0, abs(objective[-1])):
                break
        share = np.exp(log - total)
        components = tuple(
            _regressed(one, z, seen, share[k], prior, len(z), count)
            for k, one in enumerate(components)
        )
    return components, objective


def _log_prior(components: tuple[Component, ...], prior: float) -> float:
    """Conjugate for each feature's regression on the factors; one patient more a component."""
    told = 0.0
    for one in components:
        squares = (one.loads**2).sum(1) + one.mean**2 + 1.0
        told += np.log(one.weight) - 0.5 * prior * float(
            (np.log(one.noise) + squares / one.noise).sum()
        )
    return float(told)


def _regressed(
    one: Component, z: NDArray, seen: NDArray, share: NDArray, prior: float, n: int, count: int
) -> Component:
    """A component after an iteration: each feature regressed on the factors and on 1."""
    size, factors = one.loads.shape
    wide = factors + 1
    products, pull = np.zeros((size, wide**2)), np.zeros((size, wide))
    weight, squares = np.zeros(size), np.zeros(size)
    for at in _chunks(n):
        found = _posterior(_stacked((one,)), z[at], seen[at])
        known, mean = seen[at] * share[at, None], found.mean[0]
        ahead = np.concatenate([mean, np.ones((len(mean), 1))], axis=1)
        second = ahead[:, :, None] * ahead[:, None, :]
        second[:, :factors, :factors] += found.covariance[0]
        products += known.T @ second.reshape(-1, wide**2)
        pull += (known * z[at]).T @ ahead
        weight += known.sum(0)
        squares += (known * z[at] ** 2).sum(0)
    told = products.reshape(size, wide, wide) + prior * np.eye(wide)
    slopes = np.asarray(np.linalg.solve(told, pull[:, :, None])[..., 0], np.float64)
    left = squares - (slopes * pull).sum(1) + prior
    share_of_all = (float(share.sum()) + 1) / (n + count)
    return Component(share_of_all, slopes[:, factors], slopes[:, :factors], left / (weight + prior))


def _started(
    z: NDArray, seen: NDArray, count: int, factors: int, seed: int
) -> tuple[Component, ...]:
    """Means of clusters of the patients, what was not seen at its mean; small random loads."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(z))[:_CLUSTERED])
    found = KMeans(count, n_init=4, random_state=seed).fit(z[rows])
    mine = np.bincount(found.labels_, minlength=count)
    return tuple(
        Component(
            float(mine[k] + 1) / (len(rows) + count), found.cluster_centers_[k].astype(np.float64),
            0.1 * rng.normal(size=(z.shape[1], factors)), np.ones(z.shape[1]),
        )
        for k in range(count)
    )  # fmt: skip


def _chunks(n: int) -> Iterator[slice]:
    for at in range(0, n, _ROWS_AT_ONCE):
        yield slice(at, at + _ROWS_AT_ONCE)
