"""Everything the page of a late-labels run says: sentences, table rows and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretell.decisions.thresholds import DecisionSurface
from foretell.errors import ParameterError
from foretell.evaluation.report.decisions import decision_section
from foretell.evaluation.report.feedback import figures
from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.style import model_styles, to_json
from foretell.evaluation.report.words import (
    MISSING,
    count,
    fixed,
    listing,
    number,
    percent,
    seconds,
)

ORACLE = "oracle"
_BINS = 15
_UNIT_WORDS = {
    "s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks", None: "units",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class FeedbackReport:
    """Everything that the page shows.

    Args:
        run: the run's record. ``metrics.<model>.<snapshot>`` holds ``nll, auc, pr_auc,
            calibration_ratio, ece``, each with ``_lower`` and ``_upper``, ``nll_sd, seeds,
            effective_share, fit_seconds``; ``leaderboard.<snapshot>`` rows ``rank, model,
            difference, lower, upper, relative, gap_closed`` against the baseline;
            ``audit.<snapshot>`` has ``delays`` (kind -> ``delay, share``), ``fake_negatives``
            (``age, share, lower, upper, rows``), ``visible_share, mean_visible, mean_final``;
            ``decision`` is as in
            :func:`foretell.evaluation.report.decisions.decision_section`; ``stream`` rows of
            ``PrequentialResult.summary``. Any of the last three may be missing.
        predictions: one row a model, snapshot, seed and test row: ``snapshot, model, seed, p, y``.
        surfaces: rule -> decision surface.
        stream: the prequential table, ``method, start, nll, kl, mean_p, mean_y, n, ...``.
    """

    run: Mapping[str, Any]
    predictions: pl.DataFrame | None = None
    surfaces: Mapping[str, DecisionSurface] = field(default_factory=dict)
    stream: pl.DataFrame | None = None

    def __post_init__(self) -> None:
        if not self.run.get("leaderboard") and not self.run.get("stream"):
            raise ParameterError("the run's record holds neither a leaderboard nor a stream")

    @property
    def boards(self) -> Mapping[str, Any]:
        """Leaderboards of the snapshots."""
        return {k: v for k, v in self.run.get("leaderboard", {}).items() if k in self.snapshots}

    @property
    def snapshots(self) -> list[str]:
        """Names of the snapshots; the first is the one that the page leads with."""
        return list((self.run.get("recipe") or {}).get("snapshots") or {})

    @property
    def best(self) -> str:
        """The model that the run names its best."""
        return str(self.run["best"])

    @property
    def baseline(self) -> str | None:
        """The model that the others are compared with."""
        return self.run.get("baseline")

    @property
    def unit(self) -> str:
        """The word of the log's unit of time."""
        unit = (self.run.get("data") or {}).get("unit")
        return _UNIT_WORDS.get(unit, str(unit))


def write_feedback_report(path: str | Path, data: FeedbackReport) -> Path:
    """Writes the page in one step; missing folders are made."""
    context = build(data)
    return write_page(path, render_page("feedback.html.j2", context, context.pop("figures")))


def build(data: FeedbackReport) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    names = [*data.run.get("metrics", {})]
    names += [r["method"] for r in data.run.get("stream", ()) if r["method"] not in names]
    styles = model_styles(names, data.best, data.baseline)
    labels, drawn = labels_section(data)
    boards, more = boards_section(data, styles)
    drawn |= more
    calibration, more = calibration_section(data, styles)
    drawn |= more
    stream, more = stream_section(data, styles)
    drawn |= more
    decision = None
    if data.run.get("decision"):
        decision, more = decision_section(data.run["decision"], data.surfaces)
        drawn |= more
    return {
        "title": str(data.run.get("title") or "Learning from labels that come late"),
        "made": str(data.run.get("ended") or data.run.get("started") or ""),
        "styles": styles,
        "best": data.best,
        "headline": headline(data),
        "labels": labels,
        "boards": boards,
        "calibration": calibration,
        "stream": stream,
        "decision": decision,
        "warnings": [str(text) for text in data.run.get("warnings") or ()],
        "data": data_section(data),
        "reproduce": reproduce_section(data.run),
        "figures": drawn,
    }


def headline(data: FeedbackReport) -> dict[str, Any]:
    """The sentences and the few figures at the top."""
    if not data.snapshots:
        return _stream_headline(data)
    first = data.snapshots[0]
    metrics = data.run["metrics"]
    own = metrics[data.best][first]
    rows = {r["model"]: r for r in data.run["leaderboard"][first]}
    audit = (data.run.get("audit") or {}).get(first) or {}
    sentences, tiles = [], []
    if audit:
        missing = 1 - audit["visible_share"]
        sentences.append(
            f"When the models were trained, {percent(missing)} of the conversions of their "
            "training rows had not happened yet: a row without one is not yet a negative."
        )
        tiles.append(
            {
                "name": "Conversions not visible",
                "value": percent(missing),
                "note": f"of those of the training rows, at the moment of training ({first})",
            }
        )
    baseline = data.baseline if data.baseline in metrics else None
    if baseline is not None and baseline != data.best:
        base = metrics[baseline][first]
        row = rows[data.best]
        sure = row["upper"] is not None and row["upper"] < 0
        sentences.append(
            f"{data.best} has the lowest loss of {count(_rivals(data), 'model')} that can be "
            f"deployed{_where(data)}: {fixed(own['nll'], 4)} nats a row against "
            f"{fixed(base['nll'], 4)} of {baseline}, {percent(abs(row['relative']), 1)} "
            f"{'less' if row['relative'] < 0 else 'more'}"
            + (
                f" (95% interval of the difference {_interval(row, places=4, sign=True)})."
                if sure
                else ", which is within the play of chance."
            )
        )
        sentences.append(
            f"{baseline} says {_said(base['calibration_ratio'])}; {data.best} says "
            f"{_said(own['calibration_ratio'])}."
        )
    else:
        sentences.append(
            f"{data.best} has the lowest loss of {count(_rivals(data), 'model')} that can be "
            f"deployed: {fixed(own['nll'], 4)} nats a row."
        )
        sentences.append(f"It says {_said(own['calibration_ratio'])}.")
    tiles += [
        {
            "name": f"Loss of {data.best}",
            "value": fixed(own["nll"], 3),
            "note": f"negative log-likelihood, 95% interval {_interval(own, 'nll', 3)}",
        },
        {
            "name": "Said over happened",
            "value": fixed(own["calibration_ratio"], 2),
            "note": "mean probability over the share of conversions; 1 is right"
            + (
                f"; {baseline}: {fixed(metrics[baseline][first]['calibration_ratio'], 2)}"
                if baseline is not None and baseline != data.best
                else ""
            ),
        },
    ]
    closed = rows[data.best].get("gap_closed")
    if closed is not None:
        tiles.append(
            {
                "name": "Of the gap closed",
                "value": percent(closed),
                "note": f"between {baseline} and a model that knew all labels",
            }
        )
    decision = data.run.get("decision")
    if decision:
        rule = next(r for r in decision["rules"].values() if r["chosen"])
        if rule["test"]["called"]:
            tiles.append(
                {
                    "name": f"Recall at {percent(decision['min_precision'])} precision",
                    "value": percent(rule["test"]["recall"]),
                    "note": f"precision on later rows {percent(rule['test']['precision'], 1)}",
                }
            )
    return {"sentences": sentences, "tiles": tiles}


def _stream_headline(data: FeedbackReport) -> dict[str, Any]:
    rows = {r["method"]: r for r in data.run["stream"]}
    best, key = rows[data.best], data.run["stream_metric"]
    text = (
        f"{data.best} has the lowest {_STREAM_NAMES[key]} of the methods that can be deployed: "
        f"{fixed(best[key], 4)}"
    )
    vanilla = rows.get("vanilla")
    if vanilla is not None and data.best != "vanilla" and vanilla[key]:
        text += f", {percent(best[key] / vanilla[key])} of that of training on labels as they stand"
    tiles = [
        {
            "name": f"{_STREAM_NAMES[key]} of {data.best}".capitalize(),
            "value": fixed(best[key], 4),
            "note": f"95% interval {_interval(best, key, 4)}",
        },
        {
            "name": "Said over happened",
            "value": fixed(best["ratio"], 2),
            "note": "mean probability over the share of conversions; 1 is right",
        },
    ]
    return {"sentences": [f"{text}."], "tiles": tiles}


def _where(data: FeedbackReport) -> str:
    """That the best is so on average, where there are several snapshots."""
    if len(data.snapshots) == 1:
        return ""
    return f" on average over {len(data.snapshots)} snapshots; at {data.snapshots[0]}"


def _rivals(data: FeedbackReport) -> int:
    return sum(name != ORACLE for name in data.run["metrics"])


def _said(ratio: float | None) -> str:
    """A calibration ratio in words."""
    if ratio is None:
        return "nothing that can be compared with what happened"
    if abs(ratio - 1) < 0.02:
        return f"as many conversions as came (ratio {fixed(ratio, 2)})"
    return (
        f"{percent(abs(ratio - 1))} {'more' if ratio > 1 else 'fewer'} conversions than came "
        f"(ratio {fixed(ratio, 2)})"
    )


def _interval(
    row: Mapping[str, Any], name: str | None = None, places: int = 4, sign: bool = False
) -> str:
    low, high = ("lower", "upper") if name is None else (f"{name}_lower", f"{name}_upper")
    if row.get(low) is None or row.get(high) is None:
        return MISSING
    return f"{fixed(row[low], places, sign)} to {fixed(row[high], places, sign)}"


def labels_section(data: FeedbackReport) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """How late labels are: delay curves and the share of fake negatives by age."""
    parts: list[dict[str, Any]] = []
    drawn: dict[str, Any] = {}
    for i, (snapshot, audit) in enumerate((data.run.get("audit") or {}).items()):
        delays = {
            kind: (curve["delay"], curve["share"])
            for kind, curve in audit["delays"].items()
            if curve["delay"]
        }
        if not delays:
            continue
        drawn[f"delays-{i}"] = to_json(figures.delay_figure(delays, data.unit))
        fake = audit["fake_negatives"]
        drawn[f"fakes-{i}"] = to_json(
            figures.fake_negative_figure(
                fake["age"], fake["share"], fake.get("lower"), fake.get("upper"), data.unit
            )
        )
        arrived = [
            f"{kind}: half within {_reached(c, 0.5):.3g} {data.unit}, nine in ten within "
            f"{_reached(c, 0.9):.3g}"
            for kind, c in delays.items()
        ]
        parts.append(
            {
                "snapshot": snapshot,
                "delays": f"delays-{i}",
                "fakes": f"fakes-{i}",
                "sentence": f"{'; '.join(arrived).capitalize()}.",
                "fake_sentence": _fake_sentence(fake, data.unit),
                "facts": {
                    "rows trained on": f"{audit['rows']:,}",
                    "conversions visible then": percent(audit["visible_share"], 1),
                    "share of positives visible then": percent(audit["mean_visible"], 1),
                    "share of positives in the end": percent(audit["mean_final"], 1),
                },
                "rows": [
                    {
                        "age": number(age, 3),
                        "share": percent(share, 1),
                        "n": f"{round(n):,}" if n is not None else MISSING,
                    }
                    for age, share, n in zip(
                        fake["age"],
                        fake["share"],
                        fake.get("rows") or [None] * len(fake["age"]),
                        strict=True,
                    )
                ],
            }
        )
    return parts, drawn


def _reached(curve: tuple[Sequence[float], Sequence[float]], share: float) -> float:
    delays, shares = (np.asarray(v, float) for v in curve)
    return float(delays[min(int(np.searchsorted(shares, share)), len(delays) - 1)])


def _fake_sentence(fake: Mapping[str, Any], unit: str) -> str:
    age, share = fake["age"], fake["share"]
    known = [(a, s) for a, s in zip(age, share, strict=True) if s is not None and np.isfinite(s)]
    if len(known) < 2:
        return ""
    (young, most), (old, least) = known[0], known[-1]
    return (
        f"Of the rows without a conversion at age {number(young, 3)} {unit}, {percent(most, 1)} "
        f"still convert; at age {number(old, 3)} it is {percent(least, 1)}."
    )


def boards_section(
    data: FeedbackReport, styles: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One leaderboard a snapshot, with a picture of the losses."""
    parts, drawn = [], {}
    for i, (snapshot, board) in enumerate(data.boards.items()):
        rows, points = [], []
        for row in board:
            scores = data.run["metrics"][row["model"]][snapshot]
            points.append(
                {
                    "model": row["model"],
                    "value": scores["nll"],
                    "lower": scores["nll_lower"],
                    "upper": scores["nll_upper"],
                }
            )
            rows.append(
                {
                    "rank": row["rank"] if row["model"] != ORACLE else MISSING,
                    "model": row["model"],
                    "best": row["model"] == data.best,
                    "oracle": row["model"] == ORACLE,
                    "nll": fixed(scores["nll"], 4),
                    "nll_interval": _interval(scores, "nll", 4),
                    "nll_sd": fixed(scores["nll_sd"], 4) if scores.get("seeds", 1) > 1 else "",
                    "auc": fixed(scores["auc"], 4),
                    "ratio": fixed(scores["calibration_ratio"], 3),
                    "ratio_interval": _interval(scores, "calibration_ratio", 2),
                    "ece": fixed(scores["ece"], 4),
                    "ess": percent(scores.get("effective_share")),
                    "fit": seconds(scores.get("fit_seconds")),
                    "difference": "" if row["difference"] is None
                    else fixed(row["difference"], 4, sign=True),
                    "interval": "" if row["difference"] is None
                    else _interval(row, places=4, sign=True),
                    "gap": "" if row.get("gap_closed") is None else percent(row["gap_closed"]),
                    "verdict": _verdict(row),
                }
            )  # fmt: skip
        drawn[f"board-{i}"] = to_json(
            figures.score_figure(points, styles, "negative log-likelihood, nats (95% interval)")
        )
        test = data.run["snapshots"][snapshot]
        seeds = max(r["seeds"] for r in (data.run["metrics"][b["model"]][snapshot] for b in board))
        parts.append(
            {
                "snapshot": snapshot,
                "figure": f"board-{i}",
                "rows": rows,
                "reference": data.baseline,
                "seeds": seeds,
                "gap": any(row["gap"] for row in rows),
                "design": f"trained at {test['now']} on {test['train_rows']:,} rows, judged by the "
                f"final labels of {test['test_rows']:,} rows "
                f"({percent(test['test_rate'], 1)} positive), {count(seeds, 'seed')}",
                "sentence": _board_sentence(data, board, snapshot),
            }
        )
    return parts, drawn


def _verdict(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return "reference"
    if row["lower"] <= 0 <= row["upper"]:
        return "not clearly different"
    return "better" if row["difference"] < 0 else "worse"


def _board_sentence(data: FeedbackReport, board: Sequence[Mapping[str, Any]], name: str) -> str:
    able = [row for row in board if row["model"] != ORACLE]
    metrics = data.run["metrics"]
    lead = able[0]["model"]
    text = f"{lead} has the lowest loss, {fixed(metrics[lead][name]['nll'], 4)}"
    if len(able) > 1:
        text += (
            f"; the next is {able[1]['model']} with "
            f"{fixed(metrics[able[1]['model']][name]['nll'], 4)}"
        )
    clear = [r["model"] for r in able if r["difference"] is not None and r["upper"] < 0]
    if data.baseline is not None:
        text += (
            f". Clearly better than {data.baseline}: {listing(clear)}"
            if clear
            else f". None is clearly better than {data.baseline}"
        )
    return text + "."


def calibration_section(
    data: FeedbackReport, styles: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Calibration before and after correction, in bins of equal numbers of rows."""
    parts: list[dict[str, Any]] = []
    drawn: dict[str, Any] = {}
    if data.predictions is None:
        return parts, drawn
    for i, snapshot in enumerate(data.snapshots):
        part = data.predictions.filter(pl.col("snapshot") == snapshot)
        curves = {}
        board = [row["model"] for row in data.run["leaderboard"][snapshot]]
        for model in board:
            own = part.filter(pl.col("model") == model)
            curves[model] = _curve(own["p"].to_numpy(), own["y"].to_numpy())
        shown = [data.best]
        if data.baseline is not None and data.baseline != data.best:
            shown.append(data.baseline)
        drawn[f"calibration-{i}"] = to_json(figures.calibration_figure(curves, styles, shown))
        ratios = [
            {
                "model": model,
                "value": data.run["metrics"][model][snapshot]["calibration_ratio"],
                "lower": data.run["metrics"][model][snapshot]["calibration_ratio_lower"],
                "upper": data.run["metrics"][model][snapshot]["calibration_ratio_upper"],
            }
            for model in board
        ]
        drawn[f"ratio-{i}"] = to_json(
            figures.score_figure(
                ratios, styles, "mean probability over share of conversions", perfect=1.0
            )
        )
        parts.append(
            {
                "snapshot": snapshot,
                "figure": f"calibration-{i}",
                "ratio": f"ratio-{i}",
                "sentence": f"Drawn are {listing(shown)}; the others can be added by a click in "
                "the legend.",
                "others": len(curves) > len(shown),
            }
        )
    return parts, drawn


def _curve(p: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float], list[int]]:
    """Mean prediction, share of positives and rows in bins of about equal numbers of rows."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part)]
    return (
        [float(p[part].mean()) for part in parts],
        [float(y[part].mean()) for part in parts],
        [len(part) for part in parts],
    )


_STREAM_NAMES = {"kl": "divergence from the truth", "nll": "loss"}


def stream_section(
    data: FeedbackReport, styles: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The prequential comparison: its table, and how the methods did over time."""
    rows = data.run.get("stream")
    if not rows or data.stream is None:
        return None, {}
    metric = data.run["stream_metric"]
    ranked = sorted(rows, key=lambda r: (r[metric] is None, r[metric]))
    able = [r["method"] for r in ranked if r["method"] != ORACLE]
    shown = list(
        dict.fromkeys([able[0], *(m for m in ("vanilla", ORACLE) if m in able or m == ORACLE)])
    )
    points = [
        {
            "model": r["method"],
            "value": r[metric],
            "lower": r[f"{metric}_lower"],
            "upper": r[f"{metric}_upper"],
        }
        for r in ranked
    ]
    title = _STREAM_NAMES[metric] + ", nats"
    drawn = {
        "stream-scores": to_json(figures.score_figure(points, styles, f"{title} (95% interval)")),
        "stream-time": to_json(
            figures.stream_figure(
                _smoothed(data.stream, metric), metric, styles, shown, data.unit, title
            )
        ),
    }
    table = [
        {
            "method": r["method"],
            "oracle": r["method"] == ORACLE,
            "kl": fixed(r["kl"], 4),
            "nll": fixed(r["nll"], 4),
            "auc": fixed(r["auc"], 4),
            "ratio": fixed(r["ratio"], 3),
            "interval": _interval(r, metric, 4),
            "sd": fixed(r.get(f"{metric}_sd"), 4),
            "against": "" if not r.get("against_vanilla") else fixed(r["against_vanilla"], 2),
        }
        for r in ranked
    ]
    return {
        "rows": table,
        "metric": title,
        "key": "KL" if metric == "kl" else "NLL",
        "truth": metric == "kl",
        "seeds": count(int(rows[0]["runs"]), "run"),
        "entities": f"{int(rows[0]['n'] // max(rows[0]['runs'], 1)):,}",
        "sentence": f"{able[0]} leads; the next is {able[1]}." if len(able) > 1 else "",
    }, drawn


def _smoothed(table: pl.DataFrame, metric: str, stretches: int = 60) -> pl.DataFrame:
    """Means over seeds and over stretches of time, weighted by rows."""
    start = table["start"]
    times = start.to_numpy()
    width = max(float(np.ptp(times)) / stretches, 1e-12)
    kept = table.filter(pl.col(metric).is_not_null() & (pl.col("n") > 0))
    return (
        kept.with_columns(((pl.col("start") - float(times.min())) // width).alias("stretch"))
        .group_by("method", "stretch", maintain_order=True)
        .agg(
            pl.col("start").min(),
            ((pl.col(metric) * pl.col("n")).sum() / pl.col("n").sum()).alias(metric),
        )
        .sort("stretch", maintain_order=True)
    )


def _moment(value: Any) -> Any:
    """A number of a log's clock as the page shows it; dates as they are."""
    return number(value, 4) if isinstance(value, float) else value


def data_section(data: FeedbackReport) -> dict[str, Any]:
    """What was read, and what was wrong with it."""
    about = data.run.get("data") or {}
    facts = {
        "source": about.get("source"),
        "entities": None if about.get("entities") is None else f"{about['entities']:,}",
        "from": _moment(about.get("first")),
        "to": _moment(about.get("last")),
        "attribution window": None
        if about.get("window") is None
        else f"{number(about['window'], 4)} {data.unit}",
        "kinds of outcomes": listing(list(about.get("kinds") or ())),
        "features": listing(list(about.get("features") or ())),
    }
    return {
        **problems_section(about.get("notes") or (), first="entity"),
        "facts": {k: str(v) for k, v in facts.items() if v not in (None, "")},
    }
