"""MQ-DNN: hand-made features, a feed-forward network, the multi-horizon quantile loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.errors import DataError, ParameterError
from foretell.estimators.neural import Calibrate, NeuralForecaster
from foretell.learners.contract import Learner
from foretell.learners.demand.features import (
    DenseScaler,
    Feature,
    FeatureMatrix,
    FeaturePack,
    FeatureRows,
    default_features,
    sample_rows,
)
from foretell.learners.demand.forecast import DEFAULT_LEVELS, Span
from foretell.learners.demand.neural.mq_dnn import MQDNNLearner, MQDNNShape
from foretell.learners.demand.quantile_forest import holds_at_zero
from foretell.training import TensorExamples

BLOCK = 100_000
SCALER_ROWS = 30_000
LEAST_GROUPS = 8


class MQDNN(NeuralForecaster):
    """Multi-horizon quantile forecasts from hand-made features and a plain network.

    The step that came between forests and sequence models: the features of the forest, trained on
    the very loss by which forecasts are judged (chapter C of the project's method notes; the idea
    of direct quantile loss optimisation is also the subject of US patent 10,783,442). Ours: the
    output corrects a learned blend of seasonal references, and its quantiles cannot cross.

    Args:
        h: number of periods to forecast, K.
        quantiles: levels that are trained.
        hidden: widths of the hidden layers.
        dropout: share of hidden units dropped.
        embedding: largest width of a category's embedding, 0 for no embeddings.
        loss_weight: exponent of a row's scale in the loss: 1 minimises the weighted quantile loss,
            0 counts all series the same.
        n_rows: rows (series, origin, horizon) drawn to train on.
        tilt: series are drawn in proportion to their size to this power and weighed back: more
            rows where the weighted loss is decided, fewer to learn the small series from. Which
            is better differs from data set to data set.
        season_length: m, or several with the main one first; by the frequency when ``None``.
        features: the pack's features; when ``None`` the standard ones without past covariates and
            without groupings of fewer than eight groups, which a network learns as dates.
        non_negative: whether forecasts are held at zero; when ``None``, if no training value was
            negative but for one in a hundred (returns).
        loss: ``"quantile"``, or ``"squared"``, which trains the middle level only (to compare).
        options: those of :class:`~foretell.estimators.neural.NeuralForecaster`.
    """

    def __init__(
        self,
        h: int = 13,
        quantiles: Sequence[float] = DEFAULT_LEVELS,
        *,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.25,
        embedding: int = 50,
        loss_weight: float = 1.0,
        n_rows: int = 150_000,
        tilt: float = 0.0,
        season_length: int | Sequence[int] | None = None,
        features: Sequence[Feature] | None = None,
        non_negative: bool | None = None,
        loss: Literal["quantile", "squared"] = "quantile",
        max_steps: int = 1000,
        batch_size: int = 512,
        learning_rate: float = 3e-3,
        weight_decay: float = 5e-2,
        schedule: str = "one_cycle",
        seed: int = 0,
        seeds: int = 1,
        validation: int | None = None,
        validate_every: int = 100,
        patience: int | None = None,
        calibrate: Calibrate | None = None,
        calibration_periods: int | None = None,
        time_limit: float | None = None,
        threads: int | None = None,
        device: str = "auto",
        precision: str = "32-true",
        checkpoint: str | None = None,
        resume: bool = False,
        progress: bool = False,
        alias: str | None = None,
    ) -> None:
        super().__init__(
            h, quantiles, max_steps=max_steps, batch_size=batch_size, learning_rate=learning_rate,
            weight_decay=weight_decay, schedule=schedule, seed=seed, seeds=seeds,
            validation=validation, validate_every=validate_every, patience=patience,
            calibrate=calibrate, calibration_periods=calibration_periods, time_limit=time_limit,
            threads=threads, device=device, precision=precision, checkpoint=checkpoint,
            resume=resume, progress=progress, alias=alias,
        )  # fmt: skip
        self.hidden = hidden
        self.dropout = dropout
        self.embedding = embedding
        self.loss_weight = loss_weight
        self.n_rows = n_rows
        self.tilt = tilt
        self.season_length = season_length
        self.features = features
        self.non_negative = non_negative
        self.loss = loss

    def _learn_data(self, panel: Panel) -> None:
        self._check()
        features = self.features
        if features is None:
            features = default_features(waves=True, past=False, least_groups=LEAST_GROUPS)
        pack = FeaturePack(self.h, features=features, season_length=self.season_length)
        self.pack_ = pack.fit(panel)
        rows, _, _ = sample_rows(
            panel, self.h, min(self.n_rows, SCALER_ROWS), season=pack.seasons_[0],
            rng=np.random.default_rng(self.seed),
        )  # fmt: skip
        matrix = pack.compute(panel, rows)
        embedded = {f"static_{name}" for name in pack.vocabularies_} if self.embedding else set()
        self.columns_ = np.array([j for j, n in enumerate(pack.names_) if n not in embedded])
        self.scaler_ = DenseScaler().fit(matrix.values[:, self.columns_])
        self.positive_ = holds_at_zero(panel) if self.non_negative is None else self.non_negative
        self.shape_ = MQDNNShape(
            width=self.scaler_.width,
            levels=tuple(float(q) for q in self.quantiles),
            cardinalities=tuple(len(v) + 1 for v in pack.vocabularies_.values())
            if self.embedding
            else (),
            candidates=self._candidates(matrix).shape[1],
            hidden=tuple(self.hidden),
            dropout=self.dropout,
            embedding=self.embedding,
            loss_weight=self.loss_weight,
            typical_scale=float(matrix.scale.mean()),
            loss=self.loss,
        )

    def _check(self) -> None:
        if self.loss not in ("quantile", "squared"):
            raise ParameterError(f"{self.name}: loss must be 'quantile' or 'squared'")
        if not 0 <= self.loss_weight <= 1:
            raise ParameterError(f"{self.name}: loss_weight must lie in [0, 1]")
        if not 0 <= self.tilt <= 1:
            raise ParameterError(f"{self.name}: tilt must lie in [0, 1]")
        if not 0 <= self.dropout < 1:
            raise ParameterError(f"{self.name}: dropout must lie in [0, 1)")
        for name in ("n_rows", "embedding"):
            if isinstance(getattr(self, name), bool) or getattr(self, name) < (name == "n_rows"):
                raise ParameterError(f"{self.name}: {name} is too small: {getattr(self, name)!r}")

    def _make_learner(self) -> Learner:
        return MQDNNLearner(self.shape_)

    def _make_examples(self, panel: Panel, held_out: int | None) -> TensorExamples:
        if held_out is None:
            rng = np.random.default_rng(self.seed)
            rows, drawn, weights = sample_rows(
                panel, self.h, self.n_rows, season=self.pack_.seasons_[0], rng=rng, tilt=self.tilt
            )
            tensors = {**self._inputs(panel, rows), "y": drawn.astype(np.float32)}
            if self.tilt:
                tensors["weight"] = weights.astype(np.float32)
            return TensorExamples(tensors)
        past = panel.cut(held_out)
        rows = FeatureRows.ahead(past, np.flatnonzero(past.lengths > 0), min(self.h, held_out))
        targets = rows.origins + rows.horizons
        y: NDArray[np.float32] = panel.windows(rows.series, targets + 1, 1)[:, 0]
        if panel.censored is not None:
            y[panel.censored_windows(rows.series, targets + 1, 1)[:, 0]] = np.nan
        seen = np.flatnonzero(~np.isnan(y))
        if seen.size == 0:
            raise DataError(f"the last {held_out} periods hold no observation to validate on")
        return TensorExamples({**self._inputs(past, rows.select(seen)), "y": y[seen]})

    def _inputs(
        self, panel: Panel, rows: FeatureRows, tables: dict[str, Any] | None = None
    ) -> dict[str, NDArray]:
        matrix = self.pack_.compute(panel, rows, tables)
        inputs = {
            "x": self.scaler_.transform(matrix.values[:, self.columns_]),
            "candidates": self._candidates(matrix),
            "scale": matrix.scale.astype(np.float32),
        }
        return {**inputs, "codes": matrix.codes} if self.shape_.cardinalities else inputs

    def _candidates(self, matrix: FeatureMatrix) -> NDArray[np.float32]:
        """References (B, n) in units of the scale; the anchor stands in for absent ones."""
        anchor = matrix.anchor / matrix.scale
        place = {name: j for j, name in enumerate(self.pack_.names_)}

        def column(name: str) -> NDArray[np.float64]:
            values = matrix.values[:, place[name]].astype(np.float64)
            return np.where(np.isnan(values), anchor, values)

        windows = self.pack_.windows_
        wanted = ["lag_smooth", "lag_aligned", f"mean_{windows[len(windows) // 2]}"]
        grown = [name for name in place if name.startswith("lag_grown_")]
        wanted += grown[1:2] or grown[:1]
        wanted += [f"lag_{m}" for m in self.pack_.seasons_[1:]]
        quarter = f"_growth_{max(2, self.pack_.seasons_[0] // 4)}"
        found = [anchor, *(column(name) for name in wanted if name in place)]
        for name in place:
            if name.removesuffix(quarter) in self.pack_.groupings_ and name.endswith(quarter):
                growth = matrix.values[:, place[name]].astype(np.float64)
                found.append(np.where(np.isnan(growth), anchor, anchor * growth))
        return np.stack(found, axis=1).astype(np.float32)

    def _run_origins(
        self, learner: Learner, panel: Panel, back: list[int]
    ) -> tuple[NDArray[np.float32], dict[Span, NDArray[np.float32]]]:
        import torch

        values = np.empty((len(back) * len(panel), self.h, len(self.quantiles)), np.float32)
        block = max(1, BLOCK // self.h)
        for number, periods in enumerate(back):
            past = panel.cut(periods)
            tables = self.pack_.tables(past)
            for begin in range(0, len(panel), block):
                series = np.arange(begin, min(begin + block, len(panel)))
                rows = FeatureRows.ahead(past, series, self.h)
                inputs = self._inputs(past, rows, tables)
                batch = {name: torch.from_numpy(part) for name, part in inputs.items()}
                q = learner(batch).quantiles.numpy()
                if self.positive_:
                    q = np.maximum(q, 0.0)
                values[number * len(panel) + series] = q.reshape(len(series), self.h, -1)
        return values, {}

    def _holds_at_zero(self) -> bool:
        return bool(self.positive_)

    def _data_state(self) -> dict[str, Any]:
        return {
            "pack": self.pack_.state(), "scaler": self.scaler_.state(),
            "columns": self.columns_.tolist(), "positive": bool(self.positive_),
            "shape": self.shape_.to_dict(), "own_features": self.features is not None,
        }  # fmt: skip

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        state, arrays = super()._state()
        return state, arrays | self.pack_.arrays()

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        self.pack_ = FeaturePack.from_state(state["data"]["pack"], arrays)
        super()._restore(state, arrays)

    def _restore_data(self, state: dict[str, Any]) -> None:
        # For a new fit of the loaded model.
        self.features = list(self.pack_.features) if state.get("own_features") else None
        self.scaler_ = DenseScaler.from_state(state["scaler"])
        self.columns_ = np.asarray(state["columns"], np.int64)
        self.positive_ = state["positive"]
        self.shape_ = MQDNNShape.from_dict(state["shape"])

    def _parameters(self) -> dict[str, Any]:
        return {**super()._parameters(), "features": None}
