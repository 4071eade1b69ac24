"""Piecewise-linear encoding of numbers: soft bins whose borders are training quantiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import NotFittedError, ParameterError


@dataclass(frozen=True, eq=False)
class _Bins:
    """All bins of all features side by side: one hour of a live stay is encoded in one sweep.

    Args:
        knots: they are made of.
        feature: (E,) that each belongs to.
        left: (E,) border.
        width: (E,).
    """

    knots: list[NDArray[np.float32]]
    feature: NDArray[np.intp]
    left: NDArray[np.float32]
    width: NDArray[np.float32]

    @classmethod
    def of(cls, knots: list[NDArray[np.float32]]) -> _Bins:
        sizes = [max(len(k) - 1, 0) for k in knots]
        none = [np.zeros(0, np.float32)]
        return cls(
            knots,
            np.repeat(np.arange(len(knots)), sizes),
            np.concatenate(none + [k[:-1] for k in knots]),
            np.concatenate(none + [np.diff(k) for k in knots]),
        )


class PiecewiseLinearEncoder:
    """Encodes each feature by how far it has come through each of its bins.

    With knots k_0 < ... < k_m, component j of x is ``clip((x - k_j) / (k_{j+1} - k_j), 0, 1)``:
    a monotone encoding without jumps, which lets a network bend at the knots (Gorishniy, Rubachev
    and Babenko, On Embeddings for Numerical Features in Tabular Deep Learning, NeurIPS 2022,
    section 3.2). Equal quantiles give fewer bins; a feature with one value gives none. The first
    and the last bin are not clipped on their outer side there; here they are, so that an outlier
    of a hospital's feed cannot dominate.

    Args:
        n_knots: quantiles a feature, ends included.
        keep: whether the features themselves come first in the result.

    Attributes:
        knots: per feature, its distinct knots.
        centre: (E,) subtracted from the encoding after :meth:`standardise`; None before.
        spread: (E,) what it is then divided by.
    """

    def __init__(self, n_knots: int = 7, *, keep: bool = True) -> None:
        if n_knots < 2:
            raise ParameterError(f"n_knots must be at least 2, not {n_knots}")
        self.n_knots, self.keep = n_knots, keep
        self.knots: list[NDArray[np.float32]] | None = None
        self.centre: NDArray[np.float32] | None = None
        self.spread: NDArray[np.float32] | None = None
        self._bins: _Bins | None = None

    def fit(self, X: ArrayLike) -> PiecewiseLinearEncoder:
        """Learns the knots from (R, F) rows of the training site; NaN are left out."""
        X = np.asarray(X)
        if X.ndim != 2 or len(X) == 0:
            raise ParameterError(f"X must be rows of features, not of shape {X.shape}")
        levels = np.linspace(0, 1, self.n_knots)
        knots = []
        for f in range(X.shape[1]):
            x = X[:, f]
            x = x[np.isfinite(x)]
            edges = np.quantile(x, levels) if len(x) else np.zeros(0)
            knots.append(np.unique(edges.astype(np.float32)))
        self.knots, self.centre, self.spread = knots, None, None
        return self

    def standardise(self, X: ArrayLike, *, least: float = 0.05) -> PiecewiseLinearEncoder:
        """Centres and scales every column of the encoding by (R, F) rows of the training site.

        Bins have a fifth of the spread of a standardised feature, flags of what is hardly ever
        missing less: a network sees little of them unless all columns weigh alike.

        Args:
            X: rows.
            least: smallest spread, so that what hardly varies here is not blown up elsewhere.
        """
        self.centre = self.spread = None
        X = np.asarray(X, np.float32)
        total, squares = np.zeros(self.n_outputs), np.zeros(self.n_outputs)
        for at in range(0, len(X), 8192):
            part = self.transform(X[at : at + 8192]).astype(np.float64)
            total += part.sum(axis=0)
            squares += (part**2).sum(axis=0)
        mean = total / max(len(X), 1)
        deviation = np.sqrt(np.maximum(squares / max(len(X), 1) - mean**2, 0))
        self.centre = mean.astype(np.float32)
        self.spread = np.maximum(deviation, least).astype(np.float32)
        return self

    @property
    def n_outputs(self) -> int:
        """Columns of the encoding."""
        knots = self._fitted()
        return sum(max(len(k) - 1, 0) for k in knots) + (len(knots) if self.keep else 0)

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """(R, E) encoding of (R, F) rows; components of NaN are 0, and so is a kept NaN.

        Raises:
            NotFittedError: there are no knots.
            ParameterError: X has another number of features.
        """
        knots = self._fitted()
        X = np.asarray(X, np.float32)
        if X.ndim != 2 or X.shape[1] != len(knots):
            raise ParameterError(f"X must have {len(knots)} features, not shape {X.shape}")
        if self._bins is None or self._bins.knots is not knots:
            self._bins = _Bins.of(knots)
        bins, kept = self._bins, len(knots) if self.keep else 0
        out = np.empty((len(X), kept + len(bins.feature)), np.float32)
        out[:, :kept] = np.nan_to_num(X[:, :kept], nan=0.0)
        part = out[:, kept:]
        np.subtract(X[:, bins.feature], bins.left, out=part)
        part /= bins.width
        np.clip(part, 0, 1, out=part)
        np.copyto(part, 0, where=np.isnan(part))
        if self.centre is not None and self.spread is not None:
            out -= self.centre
            out /= self.spread
        return out

    def fit_transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """:meth:`fit` and :meth:`transform` of the same rows."""
        return self.fit(X).transform(X)

    def to_dict(self) -> dict[str, Any]:
        """The knots, as JSON can hold them."""
        knots = None if self.knots is None else [k.astype(np.float64).tolist() for k in self.knots]
        told: dict[str, Any] = {"n_knots": self.n_knots, "keep": self.keep, "knots": knots}
        if self.centre is not None and self.spread is not None:
            told["centre"] = self.centre.astype(np.float64).tolist()
            told["spread"] = self.spread.astype(np.float64).tolist()
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> PiecewiseLinearEncoder:
        """The encoder of :meth:`to_dict`.

        Raises:
            ParameterError: something is missing, or knots do not ascend.
        """
        try:
            encoder = cls(int(told["n_knots"]), keep=bool(told["keep"]))
            if told["knots"] is not None:
                encoder.knots = [np.array(k, np.float32).reshape(-1) for k in told["knots"]]
                if not all(np.isfinite(k).all() and (np.diff(k) > 0).all() for k in encoder.knots):
                    raise ValueError("knots do not ascend")
            if told.get("centre") is not None:
                centre, spread = (np.array(told[k], np.float32) for k in ("centre", "spread"))
                if not centre.shape == spread.shape == (encoder.n_outputs,):
                    raise ValueError("centre and spread do not fit the encoding")
                if not (np.isfinite(centre).all() and np.isfinite(spread).all()):
                    raise ValueError("centre and spread must be finite")
                if not (spread > 0).all():
                    raise ValueError("a spread is not positive")
                encoder.centre, encoder.spread = centre, spread
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(f"this is no encoder: {type(error).__name__} {error}") from error
        return encoder

    def _fitted(self) -> list[NDArray[np.float32]]:
        if self.knots is None:
            raise NotFittedError("the encoder was not fitted: call fit(X) first")
        return self.knots
