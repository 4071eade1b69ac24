"""Proof that a forecast does not know its future."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import clone

from foretell.data.panel import Panel
from foretell.errors import ForetellError, ParameterError
from foretell.learners.demand.forecast import Forecast
from foretell.learners.demand.forecaster import Forecaster


class LeakageError(ForetellError, AssertionError):
    """A forecast changed when only its future was changed."""


@dataclass(frozen=True)
class LeakageCheck:
    """One comparison: whether all forecasts were bit-identical, and the first that was not."""

    name: str
    passed: bool
    rows: int
    differing: int
    first: str | None
    largest: float


@dataclass(frozen=True)
class LeakageReport:
    """What :func:`leakage_check` found."""

    model: str
    checks: tuple[LeakageCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every comparison was bit-identical."""
        return all(check.passed for check in self.checks)

    def to_polars(self) -> pl.DataFrame:
        """One row a comparison: ``check, passed, rows, differing, first, largest``."""
        return pl.DataFrame(
            [
                {
                    "check": c.name,
                    "passed": c.passed,
                    "rows": c.rows,
                    "differing": c.differing,
                    "first": c.first,
                    "largest": c.largest,
                }
                for c in self.checks
            ],
            schema_overrides={"first": pl.String},
        )


def leakage_check(
    model: Forecaster,
    panel: Panel,
    *,
    back: Sequence[int] | None = None,
    fitted: bool = False,
    max_series: int | None = None,
    seed: int = 0,
    raises: bool = True,
) -> LeakageReport:
    """Changes everything after an origin and looks whether forecasts made there change.

    All targets, past covariates and censoring flags after the origin are replaced by noise (a
    hundred times the largest value in size) and by missing values. Known covariates stay: they are
    known ahead. Three comparisons, each bit for bit:

    - ``fit``: fitted on the cut panel and on the corrupted panel, cut likewise;
    - ``predict``: one origin, panel against corrupted panel;
    - ``origins``: two origins in one call, the earlier one's forecasts with everything after it
      corrupted (a model that does all origins at once must keep them apart).

    Args:
        model: cloned before it is fitted, unless ``fitted``.
        panel: series that go on for at least ``back`` periods after the origin.
        back: two origins in periods before the end, or one; default ``h`` and ``h + 1``.
        fitted: use the model as it is and leave out the ``fit`` comparison.
        max_series: look at the first so many series only.
        seed: of the noise.
        raises: raise at the first leak instead of reporting it.

    Raises:
        LeakageError: names the comparison and the first differing series.
        ParameterError: no series is long enough.
    """
    origins = sorted({int(b) for b in (back or (model.h, model.h + 1))}, reverse=True)
    if origins[-1] < 1:
        raise ParameterError(f"an origin must lie at least 1 period before the end, not {origins}")
    used = panel if max_series is None else panel.select(np.arange(min(max_series, len(panel))))
    begun = _observed(used.cut(origins[0])) > 0
    if not begun.any():
        raise ParameterError(f"no series has a value {origins[0]} periods before its end")
    used = used.select(begun)
    early, late = origins[0], origins[-1]
    corrupted = {b: corrupt_after(used, b, seed) for b in {early, late}}
    checks = []
    subject = model
    if not fitted:
        subject = clone(model).fit(used.cut(late))
        other = clone(model).fit(corrupted[late].cut(late))
        checks.append(
            _compare(
                "fit",
                subject.predict_origins(used.cut(late), [0]),
                other.predict_origins(used.cut(late), [0]),
            )
        )
    checks.append(
        _compare(
            "predict",
            subject.predict_origins(used, [late]),
            subject.predict_origins(corrupted[late], [late]),
        )
    )
    if early != late:
        rows = np.arange(len(used))
        checks.append(
            _compare(
                "origins",
                subject.predict_origins(used, [early, late]).select(rows),
                subject.predict_origins(corrupted[early], [early, late]).select(rows),
            )
        )
    report = LeakageReport(model.name, tuple(checks))
    if raises and not report.passed:
        bad = next(check for check in checks if not check.passed)
        raise LeakageError(
            f"{model.name} looks into the future ({bad.name}): {bad.differing} of {bad.rows} "
            f"forecasts change when only later data change, first series {bad.first!r}, by up to "
            f"{bad.largest:.6g}. A model that is not deterministic fails the fit check too: give "
            "it a seed"
        )
    return report


def corrupt_after(panel: Panel, back: int, seed: int = 0) -> Panel:
    """The panel with everything after ``back`` periods before each series' end made nonsense."""
    rng = np.random.default_rng(seed)
    later = _later(panel, back)
    target = np.array(panel.target)
    size = float(np.nanmax(np.abs(target), initial=1.0, where=np.isfinite(target)))
    target[later] = _noise(rng, int(later.sum()), size)
    past = {}
    for name, values in panel.past.items():
        values = np.array(values)
        size = float(np.nanmax(np.abs(values), initial=1.0, where=np.isfinite(values)))
        values[later] = _noise(rng, int(later.sum()), size)
        past[name] = values
    censored = panel.censored
    if censored is not None:
        censored = np.array(censored)
        censored[later] = rng.random(int(later.sum())) < 0.5
    return replace(panel, target=target, past=past, censored=censored)


def _later(panel: Panel, back: int) -> NDArray[np.bool_]:
    later = np.zeros(len(panel.target), bool)
    for begin, length in zip(panel.begins, panel.lengths, strict=True):
        later[begin + max(0, length - back) : begin + length] = True
    return later


def _noise(rng: np.random.Generator, count: int, size: float) -> NDArray[np.float32]:
    """Large values of both signs, every fourth one missing."""
    values = 100 * size * rng.standard_normal(count)
    values[rng.random(count) < 0.25] = np.nan
    return values.astype(np.float32)


def _observed(panel: Panel) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(~np.isnan(s)) for s in panel], np.int64)


def _compare(name: str, clean: Forecast, other: Forecast) -> LeakageCheck:
    if clean.values.shape != other.values.shape or not np.array_equal(clean.ids, other.ids):
        raise LeakageError(f"the {name} check got forecasts of different shape or series")
    pairs = [(clean.values, other.values)]
    pairs += [(clean.spans[s], other.spans[s]) for s in clean.spans]
    wrong = np.zeros(len(clean), bool)
    largest = 0.0
    for first_values, second_values in pairs:
        a = np.ascontiguousarray(first_values, np.float32)
        b = np.ascontiguousarray(second_values, np.float32)
        # Bits, so that 0.0 and -0.0 differ and a NaN equals itself.
        unequal = a.view(np.uint32) != b.view(np.uint32)
        wrong |= unequal.reshape(len(clean), -1).any(axis=1)
        if unequal.any():
            gap = np.abs(a[unequal].astype(np.float64) - b[unequal])
            largest = max(largest, float(np.nanmax(gap, initial=0.0)))
    first = str(clean.ids[int(wrong.argmax())]) if wrong.any() else None
    return LeakageCheck(name, not wrong.any(), len(clean), int(wrong.sum()), first, largest)
