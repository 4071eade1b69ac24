"""What late labels do to a log: how late they are, how many are missing, what weights cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from foretell.data.events import EventLog
from foretell.decisions.thresholds import clopper_pearson
from foretell.errors import NotMatureError, ParameterError
from foretell.estimators.feedback import SnapshotCorrector
from foretell.evaluation.feedback.delays import incidence_curve, truncated_delay_curve
from foretell.evaluation.feedback.paired_scores import compare_probabilities
from foretell.evaluation.report.style import BASELINE, BEST, layout, shade

FloatArray = NDArray[np.float64]

_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, eq=False)
class FeedbackAudit:
    """Tables of an audit.

    Args:
        summary: one row of totals, and the quantiles ``delay_0.1`` ... ``delay_0.9`` of the
            conversion delay (product-limit).
        delay_curve: kind, estimate (``"product_limit"`` of all that is visible, corrected for
            truncation; ``"matured"`` of entities whose whole window is over; ``"visible"`` as it is
            seen, biased towards short delays), age, share, lower, upper.
        fake_negatives: age, and of the entities without a conversion at that age the share that
            converts later: product-limit estimate, and count, share and interval of the matured.
        weights: method, training set, rows, effective sample size and its share, mean label
            visible and corrected, largest weight, share of rows at the largest weight.
        calibration: mean p / mean y by period, with intervals, if probabilities were given.
        notes: what could not be computed, and why.
    """

    summary: pl.DataFrame
    delay_curve: pl.DataFrame
    fake_negatives: pl.DataFrame
    weights: pl.DataFrame
    calibration: pl.DataFrame | None
    unit: str | None
    notes: tuple[str, ...] = ()

    def to_polars(self) -> dict[str, pl.DataFrame]:
        """All tables by name."""
        tables = {
            "summary": self.summary,
            "delay_curve": self.delay_curve,
            "fake_negatives": self.fake_negatives,
            "weights": self.weights,
        }
        return tables if self.calibration is None else {**tables, "calibration": self.calibration}

    def plot(self) -> go.Figure:
        """Delay curves, fake negatives by age and, where known, the calibration ratio."""
        names = ["share of outcomes seen by age", "share of unlabelled rows that convert later"]
        if self.calibration is not None:
            names.append("mean probability / mean label")
        figure = make_subplots(rows=1, cols=len(names), subplot_titles=names)
        colours = (BEST, BASELINE, "#4d7c5a", "#7a4f8a", "#6b7280", "#8a6d1f")
        for i, kind in enumerate(self.delay_curve["kind"].unique(maintain_order=True)):
            for estimate, dash in (("product_limit", "solid"), ("visible", "dot")):
                part = self.delay_curve.filter(
                    (pl.col("kind") == kind) & (pl.col("estimate") == estimate)
                )
                colour = colours[i % len(colours)]
                if estimate == "product_limit":
                    _band(figure, part, "age", colour, 1)
                title = kind if estimate == "product_limit" else f"{kind}, as it looks now"
                figure.add_scatter(
                    x=part["age"], y=part["share"], mode="lines", name=title,
                    line={"color": colour, "dash": dash}, row=1, col=1,
                )  # fmt: skip
        _band(figure, self.fake_negatives, "age", BEST, 2)
        figure.add_scatter(
            x=self.fake_negatives["age"], y=self.fake_negatives["share"], mode="lines",
            line={"color": BEST}, showlegend=False, row=1, col=2,
        )  # fmt: skip
        if self.calibration is not None:
            part = self.calibration.filter(pl.col("period") != "all")
            figure.add_hline(y=1, line={"color": "#52606d", "dash": "dot"}, row=1, col=3)
            figure.add_scatter(
                x=part["begin"], y=part["ratio"], mode="lines+markers", showlegend=False,
                line={"color": BEST}, row=1, col=3,
                error_y={
                    "array": part["upper"] - part["ratio"],
                    "arrayminus": part["ratio"] - part["lower"],
                },
            )  # fmt: skip
        figure.update_layout(layout(height=380, margin={"l": 56, "r": 12, "t": 64, "b": 44}))
        figure.update_layout(legend={"y": 1.14})
        unit = f" ({self.unit})" if self.unit else ""
        for col in range(1, len(names) + 1):
            text = f"age{unit}" if col < 3 else f"time of exposure{unit}"
            figure.update_xaxes(title_text=text, row=1, col=col)
        return figure


def feedback_audit(
    log: EventLog,
    now: Any = None,
    *,
    engagement: str | Sequence[Any] = (),
    methods: Sequence[str] | None = None,
    probabilities: ArrayLike | Any = None,
    ages: ArrayLike | None = None,
    since: Any = -np.inf,
    auxiliary: Any = None,
    clusters: NDArray | None = None,
    periods: int = 4,
    confidence: float = 0.95,
    random_state: int = 0,
) -> FeedbackAudit:
    """Delay curve, fake negatives by age, effective sample sizes and calibration at an instant.

    Only ``log.until(now)`` is read. Delays of what is visible are biased towards short ones, since
    the long ones have not happened yet; the curves here correct for that
    (:mod:`foretell.evaluation.feedback.delays`).

    Args:
        log: entities and outcomes.
        now: the instant; the log's own where None.
        engagement: kinds before the conversion; they get delay curves and the funnel's weights.
        methods: of weights, of ``"fsiw"``, ``"soft"``, ``"funnel"``; those that the log allows
            where None; () for none.
        probabilities: (n,) of the entities of ``log.until(now)``, or a classifier that is asked
            about them, for the calibration ratio on matured entities. A model that was trained on
            these very entities looks better than it is.
        ages: (a,) of the curves; 25 up to the window where None.
        since: entities from this time on are to be corrected.
        auxiliary: classifier for the weights.
        clusters: (n,) of the entities of ``log.until(now)``, resampled together for calibration.
        periods: parts of equal size that calibration is given for.
        confidence: of the intervals.
        random_state: seed.

    Raises:
        ParameterError: there is no entity at ``now``, or an argument does not fit the log.
    """
    view = log if now is None else log.until(log.moment(now))
    if len(view) == 0:
        raise ParameterError(f"no entity lies before now={now}")
    grid = np.linspace(0, view.window, 26)[1:] if ages is None else np.asarray(ages, np.float64)
    notes: list[str] = []
    curve = _delay_curves(view, engagement, grid, confidence)
    weights = _weights(view, methods, engagement, since, auxiliary, random_state, notes)
    calibration = None
    if probabilities is not None:
        calibration = _calibration(view, probabilities, clusters, periods, confidence, notes)
    delay, matured = view.delay(), view.matured
    summary = pl.DataFrame(
        {
            "now": [view.now],
            "window": [view.window],
            "conversion": [view.conversion],
            "entities": [len(view)],
            "matured": [int(matured.sum())],
            "visible_conversions": [int(np.isfinite(delay).sum())],
            "visible_rate": [float(np.isfinite(delay).mean())],
            "matured_rate": [float(np.isfinite(delay[matured]).mean()) if matured.any() else None],
        }
    )
    seen = np.isfinite(delay)
    points = np.unique(np.quantile(delay[seen], np.linspace(0, 1, 1001))) if seen.any() else grid
    share = truncated_delay_curve(delay[seen], _followed(view)[seen], points).share
    for level in _QUANTILES:
        above = points[share >= level]
        summary = summary.with_columns(
            pl.lit(float(above[0]) if len(above) else None).alias(f"delay_{level:g}")
        )
    fake = _fake_negatives(view, grid, confidence)
    return FeedbackAudit(summary, curve, fake, weights, calibration, view.unit, tuple(notes))


def _delay_curves(
    view: EventLog, engagement: str | Sequence[Any], ages: FloatArray, confidence: float
) -> pl.DataFrame:
    kinds = {view.conversion: view.outcome_times()}
    for kind in _flat(engagement):
        kinds[kind] = view.outcome_times(kind)
    followed = _followed(view)
    complete = np.isinf(followed)
    tables = []
    for kind, times in kinds.items():
        delay = times - view.times
        seen = np.isfinite(delay)
        curve = truncated_delay_curve(delay[seen], followed[seen], ages, confidence)
        tables.append(_table(kind, "product_limit", ages, *curve[1:]))
        for estimate, rows in (("matured", seen & complete), ("visible", seen)):
            hits = np.searchsorted(np.sort(delay[rows]), ages, "right")
            count = np.full(len(ages), rows.sum())
            lower, upper = clopper_pearson(hits, count, confidence)
            share = hits / np.maximum(count, 1) if rows.any() else np.full(len(ages), np.nan)
            tables.append(_table(kind, estimate, ages, share, lower, upper))
    return pl.concat(tables)


def _followed(view: EventLog) -> FloatArray:
    """How long (n,) each entity has been watched; +inf where the log's whole window is over.

    Entities with an early deadline count as watched until now like all others of their time, though
    nothing can happen to them any more: if they counted as complete at once, the entities that
    are complete would be those with short windows, and delays would look short.
    """
    watched = view.now - view.times
    return np.where(view.times + view.window <= view.now, np.inf, watched)


def _fake_negatives(view: EventLog, ages: FloatArray, confidence: float) -> pl.DataFrame:
    """Share of entities without a conversion at an age that will convert."""
    delay, followed = view.delay(), _followed(view)
    matured = np.isinf(followed)
    ends = np.append(ages, view.window)
    curve = incidence_curve(delay, followed, ends, confidence)
    # Given no conversion by s, the survival after s: a product over later delays only.
    share, lower, upper = np.empty((3, len(ages)))
    for i, age in enumerate(ages):
        waiting = (delay > age) & (followed > age)
        later = incidence_curve(delay[waiting], followed[waiting], ends[-1:], confidence)
        share[i], lower[i], upper[i] = later.share[0], later.lower[0], later.upper[0]
    unlabelled = np.array([(delay[matured] > age).sum() for age in ages])
    flips = np.array([((delay[matured] > age) & np.isfinite(delay[matured])).sum() for age in ages])
    low, high = clopper_pearson(flips, unlabelled, confidence)
    return pl.DataFrame(
        {
            "age": ages,
            "converted_by": curve.share[:-1],
            "share": share,
            "lower": lower,
            "upper": upper,
            "matured_unlabelled": unlabelled,
            "matured_flips": flips,
            "matured_share": np.where(unlabelled > 0, flips / np.maximum(unlabelled, 1), np.nan),
            "matured_lower": low,
            "matured_upper": high,
        }
    )


def _weights(
    view: EventLog,
    methods: Sequence[str] | None,
    engagement: str | Sequence[Any],
    since: Any,
    auxiliary: Any,
    random_state: int,
    notes: list[str],
) -> pl.DataFrame:
    if methods is None:
        methods = ("soft",) if view.revocation else ("fsiw", "soft")
        if _flat(engagement) and not view.revocation:
            methods = (*methods, "funnel")
    rows = []
    for method in methods:
        corrector = SnapshotCorrector(
            method,  # type: ignore[arg-type]
            engagement if method == "funnel" else (),
            auxiliary=auxiliary,
            random_state=random_state,
        )
        try:
            corrector.fit(view, view.now, since=since)
        except NotMatureError as error:
            notes.append(f"weights of {method!r}: {error}")
            continue
        sets = (
            corrector.steps(view, view.now, since=since)
            if method == "funnel"
            else [corrector.transform(view, view.now, since=since)]
        )
        for step, part in enumerate(sets):
            weight, y = part.sample_weight, part.y
            if not len(weight):
                notes.append(f"weights of {method!r}, step {step}: nobody has come so far yet")
                continue
            top = float(weight.max())
            visible = float(y.mean()) if method != "soft" else float(view.label()[part.rows].mean())
            rows.append(
                {
                    "method": method,
                    "step": step,
                    "rows": len(weight),
                    "effective_sample_size": part.effective_sample_size,
                    "effective_share": part.effective_sample_size / max(len(weight), 1),
                    "mean_label_visible": visible,
                    "mean_label_corrected": float((weight * y).sum() / weight.sum()),
                    "largest_weight": top,
                    "share_at_largest": float((weight >= top * (1 - 1e-9)).mean()),
                }
            )
    schema = {
        "method": pl.String, "step": pl.Int64, "rows": pl.Int64,
        "effective_sample_size": pl.Float64, "effective_share": pl.Float64,
        "mean_label_visible": pl.Float64, "mean_label_corrected": pl.Float64,
        "largest_weight": pl.Float64, "share_at_largest": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def _calibration(
    view: EventLog,
    probabilities: Any,
    clusters: NDArray | None,
    periods: int,
    confidence: float,
    notes: list[str],
) -> pl.DataFrame | None:
    if hasattr(probabilities, "predict_proba"):
        probabilities = probabilities.predict_proba(view)[:, 1]
    p = np.asarray(probabilities, np.float64)
    if p.shape != (len(view),):
        raise ParameterError(
            f"probabilities must be one for each of the {len(view)} entities at now, not {p.shape}"
        )
    if clusters is not None and len(clusters) != len(view):
        raise ParameterError(f"{len(clusters)} clusters for {len(view)} entities")
    rows = np.flatnonzero(view.matured)
    if len(rows) == 0:
        notes.append("calibration: no entity has matured")
        return None
    order = rows[np.argsort(view.times[rows], kind="stable")]
    y, owner = view.label(), None if clusters is None else np.asarray(clusters)
    parts = [("all", order)]
    parts += [(str(i + 1), part) for i, part in enumerate(np.array_split(order, periods))]
    found = []
    for name, part in parts:
        if len(part) == 0:
            continue
        table = compare_probabilities(
            y[part],
            {"model": p[part]},
            clusters=None if owner is None else owner[part],
            confidence=confidence,
        )
        values = {row["metric"]: row for row in table.iter_rows(named=True)}
        found.append(
            {
                "period": name,
                "begin": float(view.times[part].min()),
                "end": float(view.times[part].max()),
                "rows": len(part),
                "mean_p": float(p[part].mean()),
                "mean_y": float(y[part].mean()),
                "ratio": float(values["ratio"]["estimate"]),
                "lower": float(values["ratio"]["lower"]),
                "upper": float(values["ratio"]["upper"]),
                "nll": float(values["nll"]["estimate"]),
            }
        )
    return pl.DataFrame(found)


def _flat(engagement: str | Sequence[Any]) -> list[str]:
    if isinstance(engagement, str):
        return [engagement]
    return [kind for part in engagement for kind in _flat(part)]


def _table(
    kind: str, estimate: str, ages: FloatArray, share: Any, lower: Any, upper: Any
) -> pl.DataFrame:
    values = {"age": ages, "share": share, "lower": lower, "upper": upper}
    return pl.DataFrame(values).select(
        pl.lit(kind).alias("kind"), pl.lit(estimate).alias("estimate"), pl.all()
    )


def _band(figure: go.Figure, table: pl.DataFrame, x: str, colour: str, col: int) -> None:
    at = table[x].to_numpy()
    figure.add_scatter(
        x=np.concatenate([at, at[::-1]]),
        y=np.concatenate([table["upper"].to_numpy(), table["lower"].to_numpy()[::-1]]),
        fill="toself", fillcolor=shade(colour, 0.14), mode="lines", line={"width": 0},
        hoverinfo="skip", showlegend=False, row=1, col=col,
    )  # fmt: skip
