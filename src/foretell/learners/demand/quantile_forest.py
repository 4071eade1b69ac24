"""QRFForecaster: one quantile forest over the features of all series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.errors import DataError, ParameterError
from foretell.learners.demand.features import (
    Feature,
    FeatureMatrix,
    FeaturePack,
    FeatureRows,
    sample_rows,
    to_sparse,
)
from foretell.learners.demand.forecast import DEFAULT_LEVELS, Forecast
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.trees import SparseQuantileForestRegressor
from foretell.learners.trees.storage import Forest

BLOCK = 100_000
Response = Literal["residual", "level"]
_FOREST_ARRAYS = tuple(field.name for field in fields(Forest))


class QRFForecaster(Forecaster):
    """Pools all series into one sparse quantile regression forest on hand-made features.

    A training row is a (series, origin, horizon) whose target was observed. The forest learns the
    distribution of the scaled target, or (the default, and better wherever there is a season) of
    what the scaled target adds to its k-aligned seasonal reference: trees are poor at copying a
    number through, and good at saying how far it is off. Rows are weighed by their scale, so that
    the forest minimises the unscaled loss. Features that do not apply are absent, not zero.

    Quantile forests: Meinshausen 2006. Any quantile can be asked for at prediction.

    Args:
        h: number of periods to forecast, K.
        quantiles: ascending levels in (0, 1).
        n_rows: training rows drawn from all (series, origin, horizon).
        tilt: series are drawn in proportion to their size to this power and weighed back: more
            rows where the weighted loss is decided, fewer to learn the small series from. Which
            is better differs from data set to data set.
        n_estimators: number of trees.
        response: ``"residual"`` against the seasonal reference (the level where there is none) or
            ``"level"``.
        criterion: ``"quantile"`` or ``"mse"``, see
            :class:`~foretell.learners.trees.SparseQuantileForestRegressor`.
        min_samples_leaf: fewest distinct rows in a leaf.
        max_samples_leaf: most entries that a leaf keeps.
        max_features: share of the features that a split looks at.
        max_samples: rows drawn for each tree; all when ``None``.
        season_length: m, or several with the main one first; by the frequency when ``None``.
        features: the pack's :class:`~foretell.learners.demand.features.Feature` objects; the
            standard ones when ``None``.
        non_negative: whether forecasts are held at zero; when ``None``, if no training value was
            negative but for one in a hundred (returns).
        seed: of the rows and the forest.
        n_jobs: threads; None is one.
        alias: name in tables.
    """

    def __init__(
        self,
        h: int = 13,
        quantiles: Sequence[float] = DEFAULT_LEVELS,
        *,
        n_rows: int = 100_000,
        tilt: float = 0.0,
        n_estimators: int = 100,
        response: Response = "residual",
        criterion: str = "quantile",
        min_samples_leaf: int = 8,
        max_samples_leaf: int | None = 64,
        max_features: float | int | str | None = 0.3,
        max_samples: float | int | None = None,
        season_length: int | Sequence[int] | None = None,
        features: Sequence[Feature] | None = None,
        non_negative: bool | None = None,
        seed: int = 0,
        n_jobs: int | None = None,
        alias: str | None = None,
    ) -> None:
        super().__init__(h=h, quantiles=quantiles)
        self.n_rows = n_rows
        self.tilt = tilt
        self.n_estimators = n_estimators
        self.response = response
        self.criterion = criterion
        self.min_samples_leaf = min_samples_leaf
        self.max_samples_leaf = max_samples_leaf
        self.max_features = max_features
        self.max_samples = max_samples
        self.season_length = season_length
        self.features = features
        self.non_negative = non_negative
        self.seed = seed
        self.n_jobs = n_jobs
        self.alias = alias

    def _fit(self, panel: Panel) -> None:
        if self.response not in ("residual", "level"):
            raise ParameterError(f"{self.name}: response must be 'residual' or 'level'")
        if isinstance(self.n_rows, bool) or self.n_rows < 1:
            raise ParameterError(f"{self.name}: n_rows must be at least 1, not {self.n_rows!r}")
        if not 0 <= self.tilt <= 1:
            raise ParameterError(f"{self.name}: tilt must lie in [0, 1], not {self.tilt!r}")
        panel.require_known(0)
        self.pack_ = FeaturePack(
            self.h, features=self.features, season_length=self.season_length
        ).fit(panel)
        rng = np.random.default_rng(self.seed)
        rows, y, weights = sample_rows(
            panel, self.h, self.n_rows, season=self.pack_.seasons_[0], rng=rng, tilt=self.tilt
        )
        matrix = self.pack_.compute(panel, rows)
        self.positive_ = holds_at_zero(panel) if self.non_negative is None else self.non_negative
        z = (y - self._base(matrix)) / matrix.scale
        usable = ~np.isnan(matrix.values).all(axis=0)
        self.columns_ = np.flatnonzero(usable)
        # The forest ignores what it never saw; leaving it out also spares its draws of features.
        self.forest_ = self._make_forest()
        self.forest_.fit(
            to_sparse(matrix.values[:, self.columns_]), z, sample_weight=weights * matrix.scale
        )

    def _make_forest(self) -> SparseQuantileForestRegressor:
        return SparseQuantileForestRegressor(
            self.n_estimators,
            criterion=self.criterion,
            min_samples_leaf=self.min_samples_leaf,
            max_samples_leaf=self.max_samples_leaf,
            max_features=self.max_features,
            max_samples=self.max_samples,
            n_jobs=self.n_jobs,
            random_state=self.seed,
        )

    def _base(self, matrix: FeatureMatrix) -> NDArray[np.float64] | float:
        return matrix.anchor if self.response == "residual" else 0.0

    @property
    def feature_importances_(self) -> dict[str, float]:
        """Share of the forest's splits' gain by feature, greatest first."""
        shares = self.forest_.feature_importances_
        names = [self.pack_.names_[j] for j in self.columns_]
        order = np.argsort(-shares, kind="stable")
        return {names[j]: float(shares[j]) for j in order}

    def _predict(self, panel: Panel) -> Forecast:
        values = np.empty((len(panel), self.h, len(self.quantiles)), np.float32)
        tables = self.pack_.tables(panel)
        block = max(1, BLOCK // self.h)
        for begin in range(0, len(panel), block):
            series = np.arange(begin, min(begin + block, len(panel)))
            rows = FeatureRows.ahead(panel, series, self.h)
            matrix = self.pack_.compute(panel, rows, tables)
            z = self.forest_.predict(
                to_sparse(matrix.values[:, self.columns_]), quantiles=list(self.quantiles)
            )
            base = np.broadcast_to(self._base(matrix), len(rows))
            q = base[:, None] + matrix.scale[:, None] * z
            if self.positive_:
                q = np.maximum(q, 0.0)
            values[series] = q.reshape(len(series), self.h, -1)
        return self._forecast(panel, np.maximum.accumulate(values, axis=-1))

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        arrays = {name: getattr(self.forest_.forest_, name) for name in _FOREST_ARRAYS}
        arrays |= self.pack_.arrays()
        arrays["columns"] = self.columns_
        arrays["importances"] = self.forest_.feature_importances_
        state = {"pack": self.pack_.state(), "positive": bool(self.positive_)}
        return {**state, "own_features": self.features is not None}, arrays

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        self.pack_ = FeaturePack.from_state(state["pack"], arrays)
        # For a new fit of the loaded model.
        self.features = list(self.pack_.features) if state.get("own_features") else None
        self.positive_ = state["positive"]
        self.columns_ = arrays["columns"]
        self.forest_ = self._make_forest().restore(
            Forest(**{name: arrays[name] for name in _FOREST_ARRAYS}),
            len(self.columns_),
            arrays["importances"],
        )

    def _parameters(self) -> dict[str, Any]:
        return {**super()._parameters(), "features": None}


def holds_at_zero(panel: Panel, share: float = 0.01) -> bool:
    """Whether a panel's values are demand: at most one observed value in a hundred is negative."""
    negative = seen = 0
    length = max(1, int(panel.lengths.max(initial=1)))
    block = max(1, 2_000_000 // length)
    for begin in range(0, len(panel), block):
        rows = np.arange(begin, min(begin + block, len(panel)))
        y = panel.windows(rows, panel.lengths[rows], length)
        negative += int((y < 0).sum())
        seen += int(np.isfinite(y).sum())
    if seen == 0:
        raise DataError("there is no observation to learn from")
    return negative <= share * seen
