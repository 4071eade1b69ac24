"""Several forecasters as one: quantiles combined level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from foretell.data.panel import Panel
from foretell.errors import ArtefactError, ParameterError
from foretell.learners.demand.forecast import (
    DEFAULT_LEVELS,
    Forecast,
)
from foretell.learners.demand.forecaster import Forecaster

Combination = Literal["median", "mean"]


def combine(
    forecasts: Sequence[Forecast],
    method: Combination = "median",
    *,
    weights: Sequence[float] | None = None,
    model: str = "QuantileEnsemble",
) -> Forecast:
    """Combines forecasts of the same (series, origin) pairs, quantile by quantile.

    Averaging quantiles (Vincentization; Lichtendahl, Grushka-Cockayne and Winkler 2013) keeps
    the members' sharpness, where averaging probabilities widens. The median of quantiles cannot
    cross either: order statistics keep an order that holds in every member.

    Args:
        forecasts: with equal ids, cutoffs, horizon and levels.
        method: ``"median"`` or ``"mean"`` of the members' quantiles.
        weights: of the members; a weighted median takes the middle of the weight.
        model: name of the result.

    Returns:
        Forecast of the same shape; spans that every member has are combined too.

    Raises:
        ParameterError: members that do not belong together, or unusable weights.
    """
    if method not in ("median", "mean"):
        raise ParameterError(f"method must be 'median' or 'mean', not {method!r}")
    if not forecasts:
        raise ParameterError("there is no forecast to combine")
    first = forecasts[0]
    for other in forecasts[1:]:
        same = (
            np.array_equal(first.ids, other.ids)
            and np.array_equal(first.cutoffs, other.cutoffs)
            and first.frequency == other.frequency
            and first.values.shape == other.values.shape
            and np.allclose(first.levels, other.levels)
        )
        if not same:
            raise ParameterError(
                f"{other.model} does not forecast the series, origins, periods and levels of "
                f"{first.model}"
            )
    shares = _shares(len(forecasts), weights)
    spans = {
        span: _combine([f.spans[span] for f in forecasts], method, shares)
        for span in first.spans
        if all(span in f.spans for f in forecasts)
    }
    values = _combine([f.values for f in forecasts], method, shares)
    return Forecast(
        first.ids, first.cutoffs, first.frequency, first.levels, values, spans, model=model
    )


def _shares(count: int, weights: Sequence[float] | None) -> NDArray[np.float64]:
    given = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    good = given.shape == (count,) and np.all(np.isfinite(given)) and np.all(given >= 0)
    if not good or given.sum() <= 0:
        raise ParameterError(
            f"weights must be {count} numbers that are not negative, not {weights!r}"
        )
    return given / given.sum()


def _combine(
    parts: Sequence[NDArray], method: str, shares: NDArray[np.float64]
) -> NDArray[np.float32]:
    if method == "mean":
        total = np.zeros(parts[0].shape)
        for share, part in zip(shares, parts, strict=True):
            total += share * part
        result = total
    elif np.allclose(shares, shares[0]):
        result = np.median(np.stack(parts), axis=0)
    else:
        stack = np.stack(parts).astype(np.float64)
        order = np.argsort(stack, axis=0, kind="stable")
        ordered = np.take_along_axis(stack, order, axis=0)
        reached = np.cumsum(shares[order], axis=0) >= 0.5 - 1e-12
        result = np.take_along_axis(ordered, reached.argmax(axis=0)[None], axis=0)[0]
    # Ordered up to rounding by construction; this makes it exact.
    return np.maximum.accumulate(result.astype(np.float32), axis=-1)


class QuantileEnsemble(Forecaster):
    """Fits several forecasters and combines their quantiles level by level.

    The members should err differently: a forest, a feed-forward net and a sequence model over the
    same series. With ``seeds`` each member that has a ``seed`` is fitted that many times; its own
    fits are averaged before the members are combined, so that no member gets more say.

    Args:
        members: forecasters with equal ``h``; they are copied, not changed.
        method: ``"median"`` (robust against one member that fails) or ``"mean"``.
        weights: of the members.
        seeds: number of fits of each member with ``seed``, ``seed + 1``, ...
        alias: name in tables.

    Example:
        >>> QuantileEnsemble([QRFForecaster(h=13), MQDNN(h=13)]).fit(panel)  # doctest: +SKIP
    """

    def __init__(
        self,
        members: Sequence[Forecaster] = (),
        method: Combination = "median",
        *,
        weights: Sequence[float] | None = None,
        seeds: int = 1,
        quantiles: Sequence[float] | None = None,
        alias: str | None = None,
    ) -> None:
        self.members = members
        self.method = method
        self.weights = weights
        self.seeds = seeds
        self.quantiles = self._levels(members) if quantiles is None else quantiles
        self.alias = alias
        self.h = members[0].h if members else 1

    @staticmethod
    def _levels(members: Sequence[Forecaster]) -> Sequence[float]:
        return members[0].quantiles if members else DEFAULT_LEVELS

    @classmethod
    def of_fitted(
        cls,
        members: Sequence[Forecaster],
        method: Combination = "median",
        *,
        weights: Sequence[float] | None = None,
        alias: str | None = None,
    ) -> QuantileEnsemble:
        """An ensemble of models that are fitted already, used as they are.

        Raises:
            ParameterError: a member is not fitted, or the horizons differ.
        """
        ensemble = cls(list(members), method, weights=weights, alias=alias)
        for member in members:
            if not getattr(member, "is_fitted_", False):
                raise ParameterError(f"{ensemble.name}: the member {member.name} is not fitted")
            if member.h != ensemble.h:
                raise ParameterError(
                    f"{ensemble.name}: {member.name} forecasts {member.h} periods, "
                    f"{members[0].name} {ensemble.h}"
                )
        _shares(len(members), weights)
        ensemble.members_ = [[member] for member in members]
        ensemble.is_fitted_ = True
        return ensemble

    def _fit(self, panel: Panel) -> None:
        if not self.members:
            raise ParameterError(f"{self.name}: at least one member is needed")
        horizons = {member.name: member.h for member in self.members}
        if len(set(horizons.values())) > 1:
            raise ParameterError(f"{self.name}: the members' horizons differ: {horizons}")
        if self.method not in ("median", "mean"):
            raise ParameterError(f"{self.name}: method must be 'median' or 'mean'")
        if isinstance(self.seeds, bool) or self.seeds < 1:
            raise ParameterError(f"{self.name}: seeds must be at least 1, not {self.seeds!r}")
        _shares(len(self.members), self.weights)
        self.members_: list[list[Forecaster]] = []
        for member in self.members:
            fits = []
            count = self.seeds if "seed" in member.get_params(deep=False) else 1
            for number in range(count):
                copy = clone(member)
                if number:
                    copy.set_params(seed=copy.get_params(deep=False)["seed"] + number)
                fits.append(copy.fit(panel))
            self.members_.append(fits)

    def _predict(self, panel: Panel) -> Forecast:
        return self._predict_origins(panel, [0])

    def _predict_origins(self, panel: Panel, back: list[int]) -> Forecast:
        levels = list(self.quantiles)
        return combine(
            [forecast.at_levels(levels) for forecast in self.member_forecasts(panel, back)],
            self.method,
            weights=self.weights,
            model=self.name,
        )

    def member_forecasts(self, panel: Panel, back: Sequence[int] = (0,)) -> list[Forecast]:
        """Each member's own forecast, its seeds averaged."""
        result = []
        for fits in self.members_:
            parts = [fit.predict_origins(panel, list(back)) for fit in fits]
            result.append(combine(parts, "mean", model=fits[0].name))
        return result

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        arrays: dict[str, NDArray] = {}
        kinds, states = [], []
        for i, fits in enumerate(self.members_):
            saved = []
            for j, fitted in enumerate(fits):
                state, own = fitted._state()
                saved.append({"parameters": fitted._parameters(), "state": state})
                arrays |= {f"member{i}.{j}.{name}": values for name, values in own.items()}
            kinds.append(type(fits[0]).__name__)
            states.append(saved)
        return {"kinds": kinds, "members": states}, arrays

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        self.members_ = []
        for i, (kind, saved) in enumerate(zip(state["kinds"], state["members"], strict=True)):
            concrete = Forecaster.kinds.get(kind)
            if concrete is None:
                raise ArtefactError(f"member {i} is a {kind}, which is not known here")
            fits = []
            for j, one in enumerate(saved):
                prefix = f"member{i}.{j}."
                own = {n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)}
                model = concrete(**concrete._from_parameters(one["parameters"]))
                model._restore(one["state"], own)
                model.is_fitted_ = True
                fits.append(model)
            self.members_.append(fits)
        self.members = [fits[0] for fits in self.members_]
        self.h = self.members[0].h

    def _parameters(self) -> dict[str, Any]:
        return {**super()._parameters(), "members": []}
