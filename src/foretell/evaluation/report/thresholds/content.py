"""Everything the page of a run about decisions says: sentences, table rows and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from foretell.decisions.thresholds import DecisionSurface
from foretell.evaluation.report.decisions import decision_section
from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.style import (
    BASELINE,
    BEST,
    OTHERS,
    layout,
    model_styles,
    plain,
    to_json,
)
from foretell.evaluation.report.words import MISSING, count, fixed, percent

Record = Mapping[str, Any]
_PARTS = {"train": "train on", "holdout": "choose on", "test": "judge on"}
_METHODS = {"single": "one threshold", "mist": "MIST", "vw_dp": "VW-DP", "ew_dp": "EW-DPMT"}


def write_threshold_report(
    path: str | Path, record: Record, surfaces: Mapping[str, DecisionSurface]
) -> Path:
    """Writes the page in one step; missing folders are made.

    Args:
        path: the HTML file.
        record: ``run.json``: ``tables`` of ``ThresholdStudy``, ``decision`` as in
            :func:`foretell.evaluation.report.decisions.decision_section`, ``metrics`` and
            ``leaderboard``.
        surfaces: rule -> surface of the best model.
    """
    context = build(record, surfaces)
    return write_page(path, render_page("thresholds.html.j2", context, context.pop("figures")))


def build(record: Record, surfaces: Mapping[str, DecisionSurface]) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    best = str(record["best"])
    styles = model_styles(list(record["metrics"]), best, None)
    decision, drawn = decision_section(record["decision"], surfaces)
    matched, more = _matched(record, styles)
    drawn |= more
    reliability, more = _reliability(record, best)
    drawn |= more
    about = record.get("data") or {}
    facts = {
        "source": about.get("source"),
        **{
            f"rows to {word}": f"{about[f'{part}_rows']:,}, {percent(about[f'{part}_rate'], 1)} "
            "positive"
            for part, word in _PARTS.items()
            if about.get(f"{part}_rows")
        },
    }
    return {
        "title": str(record.get("title") or "Decisions over score and uncertainty"),
        "made": str(record.get("ended") or record.get("started") or ""),
        "styles": styles,
        "best": best,
        "headline": _headline(record, best),
        "models": _models(record, best),
        "matched": matched,
        "deployed": _deployed(record),
        "reliability": reliability,
        "decision": decision,
        "data": {
            **problems_section(about.get("notes") or (), first="row"),
            "facts": {k: str(v) for k, v in facts.items() if v not in (None, "")},
        },
        "reproduce": reproduce_section(record),
        "figures": drawn,
    }


def _headline(record: Record, best: str) -> dict[str, Any]:
    decision = record["decision"]
    target = percent(decision["min_precision"], 1).replace(".0%", "%")
    rules = decision["rules"]
    rule = next(r for r in rules.values() if r["chosen"])
    single, test = rules["single"]["test"], rule["test"]
    tiles = [
        {
            "name": f"Recall at {target}, guaranteed",
            "value": percent(test["recall"], 1),
            "note": f"{best}; precision {percent(test['precision'], 1)} on the test rows",
        },
        {
            "name": "Recall of one threshold",
            "value": percent(single["recall"], 1),
            "note": f"precision {percent(single['precision'], 1)} on the test rows",
        },
    ]
    rows = [r for r in record["tables"]["matched"] if r["provider"] == best]
    same = [r for r in rows if abs(r["precision"] - decision["min_precision"]) < 1e-9]
    sentences = [
        f"{count(len(record['metrics']), 'model')} gave a score and its uncertainty; rules were "
        f"chosen on a hold-out to be right in at least {target} of the cases they call."
    ]
    if same:
        row = max(same, key=lambda r: r["difference"])
        clear = row["difference_low"] > 0 or row["difference_high"] < 0
        sentences.append(
            f"At a precision of {target} on the test rows a surface over score and uncertainty "
            f"finds {percent(row['recall'], 1)} of the positives, one threshold on the score "
            f"{percent(row['single_recall'], 1)}"
            + (
                f" (95% interval of the difference {_points(row)})."
                if clear
                else f": no clear difference (95% interval {_points(row)})."
            )
        )
        tiles.append(
            {
                "name": "Gain at equal precision",
                "value": _signed(row["difference"]),
                "note": f"points of recall; 95% interval {_points(row)}",
            }
        )
    return {"sentences": sentences, "tiles": tiles}


def _signed(value: float | None) -> str:
    return MISSING if value is None else fixed(100 * value, 1, sign=True)


def _points(row: Mapping[str, Any]) -> str:
    return f"{_signed(row['difference_low'])} to {_signed(row['difference_high'])} points"


def _models(record: Record, best: str) -> list[dict[str, Any]]:
    rows = []
    for row in record["leaderboard"]["test"]:
        scores = record["metrics"][row["model"]]["test"]
        rows.append(
            {
                "rank": row["rank"],
                "model": row["model"],
                "best": row["model"] == best,
                "auc": fixed(scores["auc"], 4),
                "nll": fixed(scores["nll"], 4),
                **{
                    f"{rule}_{key}": percent(scores[f"{prefix}{key}"], 1)
                    for rule, prefix in (("kept", ""), ("plain", "plain_"), ("single", "single_"))
                    for key in ("recall", "precision")
                },
            }
        )
    return rows


def _matched(
    record: Record, styles: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Recalls at equal precision on the test rows, and the differences as a picture."""
    rows = record["tables"]["matched"]
    if not rows:
        return [], {}
    figure = go.Figure()
    figure.add_vline(x=0, line={"color": "#1f2933", "width": 1.2, "dash": "dot"})
    for model in dict.fromkeys(r["provider"] for r in rows):
        own = [r for r in rows if r["provider"] == model][::-1]
        names = [
            plain(f"{model}, {_METHODS.get(r['method'], r['method'])} at {percent(r['precision'])}")
            for r in own
        ]
        value = [100 * r["difference"] for r in own]
        figure.add_scatter(
            x=value, y=names, mode="markers", showlegend=False,
            marker={"color": styles[model]["colour"], "symbol": styles[model]["symbol"], "size": 9},
            error_x={
                "type": "data", "symmetric": False, "color": "#52606d", "thickness": 1.4,
                "width": 4,
                "array": [100 * (r["difference_high"] - r["difference"]) for r in own],
                "arrayminus": [100 * (r["difference"] - r["difference_low"]) for r in own],
            },
            hovertemplate="%{y}: %{x:+.1f} points<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=90 + 24 * len(rows),
            xaxis={"title": {"text": "recall of the surface less that of one threshold (points)"}},
            yaxis={
                "type": "category",
                "gridcolor": "rgba(0,0,0,0)",
                "ticks": "",
                "autorange": "reversed",
            },
        )
    )
    table = [
        {
            "model": r["provider"],
            "method": _METHODS.get(r["method"], r["method"]),
            "precision": percent(r["precision"]),
            "single": percent(r["single_recall"], 1),
            "recall": percent(r["recall"], 1),
            "difference": _signed(r["difference"]),
            "interval": _points(r),
            "seeds": r["seeds"],
            "verdict": "better"
            if r["difference_low"] > 0
            else ("worse" if r["difference_high"] < 0 else "not clearly different"),
        }
        for r in rows
    ]
    return table, {"matched": to_json(figure)}


def _deployed(record: Record) -> list[dict[str, Any]]:
    """What rules chosen for a target do on the test rows."""
    return [
        {
            "model": r["provider"],
            "method": _METHODS.get(r["method"], r["method"]),
            "target": percent(r["min_precision"]),
            "feasible": percent(r["feasible"]),
            "hold_out": percent(r["holdout_precision"], 1),
            "precision": percent(r["precision"], 1),
            "interval": f"{percent(r['precision_low'], 1)} to {percent(r['precision_high'], 1)}",
            "recall": percent(r["recall"], 1),
            "recall_interval": f"{percent(r['recall_low'], 1)} to {percent(r['recall_high'], 1)}",
        }
        for r in record["tables"]["deployed"]
    ]


def _reliability(record: Record, best: str) -> tuple[str, dict[str, Any]]:
    """Positive rates by third of the uncertainty at the same score, of the best model."""
    rows = [r for r in record["tables"]["reliability"] if r["provider"] == best]
    if not rows:
        return "", {}
    first = [r for r in rows if r["seed"] == rows[0]["seed"]]
    figure = go.Figure()
    middle = [(r["score_low"] + r["score_high"]) / 2 for r in first]
    thirds = (
        ("rate_low_uncertainty", "most certain third", BEST),
        ("rate_middle", "middle third", OTHERS[2]),
        ("rate_high_uncertainty", "least certain third", BASELINE),
    )
    for key, name, colour in thirds:
        figure.add_scatter(
            x=middle, y=[100 * r[key] for r in first], mode="lines+markers", name=name,
            line={"color": colour, "width": 2}, marker={"size": 7},
            hovertemplate="score %{x:.3f}: %{y:.1f}% positive<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=320,
            xaxis={"title": {"text": "score (middle of its bin)"}},
            yaxis={"title": {"text": "positive"}, "ticksuffix": "%", "rangemode": "tozero"},
        )
    )
    gaps = [r["rate_low_uncertainty"] - r["rate_high_uncertainty"] for r in rows]
    top = [g for r, g in zip(rows, gaps, strict=True) if r["score_high"] == _top(rows, r["seed"])]
    mean = sum(top) / len(top)
    often = "more" if mean >= 0 else "less"
    sentence = (
        f"At the highest scores of {best} the most certain third is positive "
        f"{fixed(abs(100 * mean), 1)} points {often} often than the least certain third."
    )
    return sentence, {"reliability": to_json(figure)}


def _top(rows: list[dict[str, Any]], seed: int) -> float:
    return max(r["score_high"] for r in rows if r["seed"] == seed)
