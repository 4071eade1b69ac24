"""Which measurement would tell most: expected information gain, and cheaper kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.sensing.donors import Donors
from foretell.decisions.sensing.panels import Panel, check_panels, measured
from foretell.decisions.sensing.samplers import check_sampler, make_sampler
from foretell.errors import DataError, ParameterError

Predict = Callable[[NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]]
"""``(values (n, F), seen (n, F)) -> (n,)`` or ``(members, n)``: risk given any subset."""

_ROWS_AT_ONCE = 200_000
_ROUNDING = 1e-12


class EIGSensing:
    """Expected information gain of each panel, from a model that takes any subset of features.

    ``EIG_j = H[E_v p(y | x, v)] - E_v H[p(y | x, v)]`` with values ``v`` of panel j drawn from
    donors: the mutual information of the panel and the outcome given what is known, as in EDDI (Ma
    et al. 2019). With losses it is the expected fall of the loss of the best decision instead
    (value of information).

    Args:
        predict: the model; its features must be as stale in training as they are live.
        panels: what can be ordered.
        losses: ``(missed, false alarm)`` for the value of information; None for entropy.
        sampler: where the values of a panel come from: ``"knn"``, the nearest training patients
            (:class:`NearestDonors`); a ``"gaussian"`` of all features (:class:`GaussianDonors`), a
            ``"mixture"`` of them (:class:`MixtureDonors`), a partial ``"vae"``
            (:class:`VAEDonors`); or an object with their ``size`` and ``draw``, which needs no
            :meth:`fit`.
    """

    method = "expected information gain"

    def __init__(
        self,
        predict: Predict,
        panels: Sequence[Panel],
        *,
        losses: tuple[float, float] | None = None,
        sampler: str | Donors = "knn",
    ) -> None:
        self.predict, self.panels = predict, check_panels(panels)
        if losses is not None and not (losses[0] > 0 and losses[1] > 0):
            raise ParameterError(f"losses must be positive, not {losses}")
        self.losses = losses
        if losses is not None:
            self.method = "value of information"
        if isinstance(sampler, str):
            check_sampler(sampler)
        elif not (callable(getattr(sampler, "draw", None)) and hasattr(sampler, "size")):
            raise ParameterError(f"a sampler has size and draw; {type(sampler).__name__} has not")
        self.sampler = sampler
        self.donors_: Donors | None = None if isinstance(sampler, str) else sampler

    def fit(
        self, values: ArrayLike, seen: ArrayLike, *, donors: int = 24, **options: Any
    ) -> EIGSensing:
        """Learns from training patients what a panel may show; a sampler of one's own stays.

        Args:
            values: (N, F).
            seen: (N, F) bool.
            donors: of a patient, or draws.
            options: of the sampler's class.
        """
        if isinstance(self.sampler, str):
            self.donors_ = make_sampler(self.sampler, values, seen, size=donors, **options)
        return self

    def risk(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(n,) risk, the mean over members."""
        p = np.asarray(self.predict(np.asarray(values, np.float64), np.asarray(seen, bool)))
        return np.asarray(p.mean(0) if p.ndim == 2 else p, np.float64)

    def disagreement(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64] | None:
        """(n,) standard deviation of the risk over members; None for a single model."""
        p = np.asarray(self.predict(np.asarray(values, np.float64), np.asarray(seen, bool)))
        return np.asarray(p.std(0), np.float64) if p.ndim == 2 and len(p) > 1 else None

    def gains(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(n, P) what each panel is expected to tell, in nats or in units of loss; never negative.

        0 for panels that were measured.

        Raises:
            DataError: before ``fit``, or shapes do not fit.
        """
        if self.donors_ is None:
            raise DataError("there are no donors yet: call fit with training patients first")
        X, S = np.asarray(values, np.float64), np.asarray(seen, bool)
        if X.ndim != 2 or X.shape != S.shape:
            raise DataError(f"values {X.shape} and seen {S.shape} must be of the same patients")
        gains = np.zeros((len(X), len(self.panels)))
        done = measured(self.panels, S)
        step = max(1, _ROWS_AT_ONCE // max(1, self.donors_.size))
        # One question to the model for many panels: what is asked live is one patient's.
        waiting: list[tuple[int, NDArray[np.int64], NDArray, NDArray[np.bool_]]] = []
        size = 0
        for j, panel in enumerate(self.panels):
            rows = np.flatnonzero(~done[:, j])
            for at in range(0, len(rows), step):
                mine = rows[at : at + step]
                after, known = self._after(X[mine], S[mine], panel)
                waiting.append((j, mine, after, known))
                size += len(after)
                if size >= _ROWS_AT_ONCE:
                    self._told(gains, waiting)
                    waiting, size = [], 0
        self._told(gains, waiting)
        return gains

    def _after(
        self, X: NDArray, S: NDArray[np.bool_], panel: Panel
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Values and masks (n * draws, F) as they might be with the panel."""
        assert self.donors_ is not None
        shown, there = self.donors_.draw(X, S, panel)
        columns = list(panel.features)
        if shown.ndim != 3 or (len(shown), shown.shape[2]) != (len(X), len(columns)):
            raise DataError(
                f"values {shown.shape} drawn of panel {panel.name!r} must be "
                f"({len(X)}, draws, {len(columns)})"
            )
        n, k, _ = shown.shape
        after, known = np.repeat(X, k, axis=0), np.repeat(S, k, axis=0)
        after[:, columns] = shown.reshape(n * k, -1)
        known[:, columns] = there.reshape(n * k, -1)
        return after, known

    def _told(
        self,
        gains: NDArray[np.float64],
        waiting: Sequence[tuple[int, NDArray[np.int64], NDArray, NDArray[np.bool_]]],
    ) -> None:
        """Fills in the gains of panels and patients from what they might show."""
        if not waiting:
            return
        risks = self.risk(
            *(np.concatenate(parts) for parts in list(zip(*waiting, strict=True))[2:])
        )
        at = 0
        for j, mine, after, _ in waiting:
            p = risks[at : at + len(after)].reshape(len(mine), -1)
            at += len(after)
            gain = self._uncertainty(p.mean(1)) - self._uncertainty(p).mean(1)
            # Where the risk is certain, what is left is rounding: no reason to ask for anything.
            gains[mine, j] = np.where(gain > _ROUNDING, gain, 0.0)

    def _uncertainty(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.losses is not None:
            return np.minimum(p * self.losses[0], (1 - p) * self.losses[1])
        q = np.clip(p, 1e-12, 1 - 1e-12)
        return np.asarray(-(q * np.log(q) + (1 - q) * np.log1p(-q)))


class UncertaintyPropagationSensing:
    """How much of the score's variance each panel's missing values cause, to first order.

    ``sum_{i in panel} (d f / d x_i)^2 sigma_i^2`` with the imputer's standard deviations
    (SepsisLab, Yin et al., KDD 2024): one backward pass for all panels.

    Args:
        gradient: ``(values, seen) -> (n, F)`` derivatives of the risk at imputed values.
        panels: what can be ordered.
        spread: (F,) standard deviation of each feature given the others, of the imputer.
    """

    method = "uncertainty propagation"

    def __init__(
        self,
        gradient: Callable[[NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]],
        panels: Sequence[Panel],
        spread: ArrayLike,
    ) -> None:
        self.gradient, self.panels = gradient, check_panels(panels)
        self.spread = np.asarray(spread, np.float64)
        if not (np.isfinite(self.spread) & (self.spread >= 0)).all():
            raise ParameterError("standard deviations must be finite and not negative")

    def gains(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(n, P) variance of the risk that each panel would remove; 0 for measured panels."""
        X, S = np.asarray(values, np.float64), np.asarray(seen, bool)
        parts = np.where(S, 0.0, np.asarray(self.gradient(X, S)) ** 2 * self.spread**2)
        gains = np.stack([parts[:, list(p.features)].sum(1) for p in self.panels], axis=1)
        return np.where(measured(self.panels, S), 0.0, gains)
