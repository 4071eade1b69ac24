"""The table of a prequential evaluation, its summary and its intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.errors import ParameterError
from foretell.evaluation.bootstrap import Interval, cluster_bootstrap
from foretell.evaluation.feedback.binary_metrics import expected_calibration_error

METRICS = ("nll", "auc", "pr_auc", "kl", "ratio")
"""Metrics with intervals; ``ratio`` is mean prediction over mean label."""

_SUMS = ("n", "nll", "kl", "auc", "auc_n", "pr_auc", "pr_auc_n", "mean_p", "mean_y")


@dataclass(frozen=True)
class PrequentialResult:
    """How classifiers did on a stream whose labels come late.

    Attributes:
        table: one row a method, stream, seed and bucket: ``method``, ``stream``, ``seed``,
            ``start``, ``end``, ``n`` entities scored, ``rows`` learned from after that, ``nll``,
            ``auc``, ``pr_auc``, ``kl`` (null without truth), ``mean_p``, ``mean_y``. AUC and PR-AUC
            are null in buckets with one class only.
        bins: one row a method, stream, seed and bin of the predicted probability: ``n``,
            ``sum_p``, ``sum_y``.
        seconds: processor time that each method and seed took: ``history``, ``update``,
            ``predict``.
        predictions: one row a scored entity with ``id``, ``p`` and ``y``, if they were kept.
    """

    table: pl.DataFrame
    bins: pl.DataFrame
    seconds: pl.DataFrame
    predictions: pl.DataFrame | None = None

    @staticmethod
    def join(results: Sequence[PrequentialResult]) -> PrequentialResult:
        """One result of several: other streams, other seeds, other methods.

        Raises:
            ParameterError: nothing to join, or a method, stream and seed that comes twice.
        """
        if not results:
            raise ParameterError("there is no result to join")
        tables = [r.table for r in results]
        keys = [t.select("method", "stream", "seed").unique() for t in tables]
        twice = pl.concat(keys).filter(pl.struct(pl.all()).is_duplicated())
        if len(twice):
            raise ParameterError(
                f"method, stream and seed {twice.row(0)} is in two results: name the streams "
                "differently"
            )
        kept = [r.predictions for r in results if r.predictions is not None]
        return PrequentialResult(
            pl.concat(tables),
            pl.concat([r.bins for r in results]),
            pl.concat([r.seconds for r in results]),
            pl.concat(kept) if kept else None,
        )

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order in which they came."""
        return self.table["method"].unique(maintain_order=True).to_list()

    def summary(
        self, *, block: int = 24, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> pl.DataFrame:
        """One row a method: means over all entities, with bootstrap intervals.

        Buckets follow each other with the same model and the same drift, so blocks of them are
        resampled, jointly for all methods and seeds of a stream.

        Args:
            block: buckets that are drawn together.
            resamples: number of resamples; 0 for no intervals.
            confidence: of the intervals.
            seed: of the resamples.

        Returns:
            ``method``, ``runs`` (streams and seeds), ``n``, each of :data:`METRICS` with ``_lower``
            and ``_upper``, its standard deviation over runs (``_sd``), and ``ece``.
        """
        blocks = self._blocks(block)
        columns: dict[str, NDArray | list] = {"method": self.methods}
        per_run = self.per_run()
        columns["runs"] = [len(per_run.filter(pl.col("method") == m)) for m in self.methods]
        columns["n"] = blocks.sums[:, :, 0].sum(axis=0).astype(np.int64)
        for metric in METRICS:
            found = _interval(blocks.sums, _metric(metric), resamples, confidence, seed)
            columns[metric] = found.estimate
            if resamples:
                columns[f"{metric}_lower"], columns[f"{metric}_upper"] = found.lower, found.upper
            columns[f"{metric}_sd"] = [
                _sd(per_run.filter(pl.col("method") == m)[metric].to_numpy()) for m in self.methods
            ]
        columns["ece"] = [
            per_run.filter(pl.col("method") == m)["ece"].to_numpy().mean() for m in self.methods
        ]
        return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))

    def per_run(self) -> pl.DataFrame:
        """One row a method, stream and seed: each of :data:`METRICS` and ``ece``."""
        keys = ["method", "stream", "seed"]
        rows = []
        for key, part in self.table.group_by(keys, maintain_order=True):
            sums = _sums(part).sum(axis=0)[None]
            bins = self.bins.filter(*(pl.col(k) == v for k, v in zip(keys, key, strict=True)))
            ece = expected_calibration_error(bins.select("n", "sum_p", "sum_y").to_numpy())
            values = {metric: float(_metric(metric)(sums)[0]) for metric in METRICS}
            rows.append({**dict(zip(keys, key, strict=True)), **values, "ece": ece})
        return pl.DataFrame(rows)

    def relative(
        self,
        metric: str = "nll",
        *,
        worst: str = "pretrain",
        best: str = "oracle",
        block: int = 24,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> pl.DataFrame:
        """How much of the way from one method to another each method goes.

        ``(m - worst) / (best - worst)``: 0 for ``worst``, 1 for ``best``; Yang et al. 2021 measure
        from the pre-trained model, other papers from ``vanilla``.

        Returns:
            ``method``, ``relative``, ``lower``, ``upper``.
        """
        at_worst, at_best = self._position(worst), self._position(best)
        value = _metric(metric)

        def statistic(sums: NDArray) -> NDArray:
            m = value(sums)
            low, high = m[..., [at_worst]], m[..., [at_best]]
            with np.errstate(divide="ignore", invalid="ignore"):
                return (m - low) / (high - low)

        found = _interval(self._blocks(block).sums, statistic, resamples, confidence, seed)
        return self._frame("relative", found)

    def ratio_to(
        self,
        method: str,
        metric: str = "kl",
        *,
        block: int = 24,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> pl.DataFrame:
        """Each method's metric divided by that of ``method``, with paired bootstrap intervals."""
        at = self._position(method)
        value = _metric(metric)

        def statistic(sums: NDArray) -> NDArray:
            m = value(sums)
            with np.errstate(divide="ignore", invalid="ignore"):
                return m / m[..., [at]]

        found = _interval(self._blocks(block).sums, statistic, resamples, confidence, seed)
        return self._frame("ratio", found)

    def _frame(self, name: str, found: Interval) -> pl.DataFrame:
        columns = {"method": self.methods, name: found.estimate}
        columns |= {"lower": found.lower, "upper": found.upper}
        return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))

    def _position(self, method: str) -> int:
        if method not in self.methods:
            raise ParameterError(f"there is no method {method!r} in the result: {self.methods}")
        return self.methods.index(method)

    def _blocks(self, block: int) -> _Blocks:
        if block < 1:
            raise ParameterError(f"block must be at least 1 bucket, not {block}")
        return _Blocks(self.table, self.methods, block)


class _Blocks:
    """Sums ``(N, methods, columns)`` of blocks of buckets, seeds of a stream added up."""

    def __init__(self, table: pl.DataFrame, methods: list[str], block: int) -> None:
        self.table, self.methods, self.block = table, methods, block

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        begins = self.table.select("stream", "start").unique().sort("stream", "start")
        number = (pl.int_range(pl.len()).over("stream") // self.block).alias("block")
        place = begins.with_columns(number)
        blocks = place.select("stream", "block").unique().sort("stream", "block")
        blocks = blocks.with_row_index("cluster")
        held = self.table.join(place, on=["stream", "start"], maintain_order="left")
        held = held.join(blocks, on=["stream", "block"], maintain_order="left")
        sums = np.zeros((len(blocks), len(self.methods), len(_SUMS)))
        where = {m: i for i, m in enumerate(self.methods)}
        rows = [where[m] for m in held["method"].to_list()]
        np.add.at(sums, (held["cluster"].to_numpy(), np.asarray(rows)), _sums(held))
        return sums


def _sums(table: pl.DataFrame) -> NDArray[np.float64]:
    """What each bucket adds to the sums ``(buckets, columns)``; undefined metrics add nothing."""
    n = table["n"].to_numpy().astype(np.float64)
    held = {
        name: table[name].cast(pl.Float64).to_numpy() for name in table.columns if name in _SUMS
    }
    sums = {"n": n}
    for name in ("nll", "kl", "mean_p", "mean_y"):
        sums[name] = np.where(n > 0, held[name], 0) * n if name != "kl" else held[name] * n
    sums["nll"], sums["mean_p"], sums["mean_y"] = (
        np.nan_to_num(sums[name]) for name in ("nll", "mean_p", "mean_y")
    )
    sums["kl"] = np.where(n > 0, sums["kl"], 0)
    for name in ("auc", "pr_auc"):
        sums[name] = np.nan_to_num(held[name]) * n
        sums[f"{name}_n"] = np.where(np.isnan(held[name]), 0, n)
    return np.stack([sums[name] for name in _SUMS], axis=1)


def _metric(name: str) -> Callable[[NDArray], NDArray]:
    """A metric of sums ``(..., columns)``."""
    if name not in METRICS:
        raise ParameterError(f"metric must be one of {METRICS}, not {name!r}")
    at = {column: i for i, column in enumerate(_SUMS)}
    above, below = {
        "ratio": ("mean_p", "mean_y"),
        "auc": ("auc", "auc_n"),
        "pr_auc": ("pr_auc", "pr_auc_n"),
    }.get(name, (name, "n"))

    def value(sums: NDArray) -> NDArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums[..., at[above]] / sums[..., at[below]]

    return value


def _interval(
    sums: NDArray[np.float64],
    statistic: Callable[[NDArray], NDArray],
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    """Interval of a statistic of all methods at once: (R, methods, columns) -> (R, methods)."""
    shape = sums.shape[1:]
    if not resamples:
        estimate = statistic(sums.sum(axis=0))
        return Interval(estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan))
    return cluster_bootstrap(
        sums.reshape(len(sums), -1),
        lambda flat: statistic(flat.reshape(-1, *shape)),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def _sd(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
