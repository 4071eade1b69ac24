"""Everything the page of a run about language models says: sentences, table rows and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.style import layout, model_styles, plain, to_json
from foretell.evaluation.report.words import MISSING, count, fixed, number, percent

Record = Mapping[str, Any]
_SCORES = {
    "intent_accuracy": "intent accuracy",
    "slot_f1": "slot F1",
    "exact_match": "all right",
    "score": "score",
}


def write_language_report(path: str | Path, record: Record) -> Path:
    """Writes the page in one step; missing folders are made.

    Args:
        path: the HTML file.
        record: ``run.json``: ``metrics``, ``leaderboard``, ``statements`` (model -> a
            ``PrivacyStatement`` as values, or None).
    """
    context = build(record)
    return write_page(path, render_page("language.html.j2", context, context.pop("figures")))


def build(record: Record) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    best = str(record["best"])
    metrics = {name: scores["test"] for name, scores in record["metrics"].items()}
    order = [row["model"] for row in record["leaderboard"]["test"]]
    plain_name = next((n for n, s in record["statements"].items() if s is None), None)
    styles = model_styles(list(metrics), best, plain_name)
    shown = {k: title for k, title in _SCORES.items() if any(k in s for s in metrics.values())}
    about = record.get("data") or {}
    facts = {
        "source": about.get("source"),
        "utterances to train on": number(about.get("train")),
        "utterances to judge on": number(about.get("test")),
        "intents": about.get("intents") or None,
        "slot tags": about.get("slots") or None,
    }
    return {
        "title": str(record.get("title") or "Language models and what privacy costs them"),
        "made": str(record.get("ended") or record.get("started") or ""),
        "styles": styles,
        "best": best,
        "headline": _headline(record, metrics, best, plain_name),
        "columns": list(shown.values()),
        "models": [_row(name, metrics[name], shown, name == best, metrics, plain_name)
                   for name in order],
        "statements": [
            {"model": name, **_statement(record["statements"][name])}
            for name in order
            if record["statements"].get(name) is not None
        ],
        "data": {
            **problems_section(about.get("notes") or (), first="row"),
            "facts": {k: str(v) for k, v in facts.items() if v not in (None, "")},
        },
        "reproduce": reproduce_section(record),
        "figures": _figure(metrics, order, styles, shown),
    }  # fmt: skip


def _main(shown: Mapping[str, Any]) -> str:
    return next(iter(shown), "intent_accuracy")


def _headline(
    record: Record, metrics: Mapping[str, Mapping[str, Any]], best: str, plain_name: str | None
) -> dict[str, Any]:
    scores = metrics[best]
    main = _main({k: v for k, v in _SCORES.items() if k in scores})
    tiles = [
        {
            "name": f"{_SCORES[main].capitalize()} of {best}",
            "value": percent(scores[main], 1),
            "note": _epsilon(scores),
        }
    ]
    sentences = [
        f"{count(len(metrics), 'model')} trained on the same texts, judged on texts that none saw. "
        "The guarantee of each is what its training earned, not what is often said of it."
    ]
    if plain_name is not None and plain_name != best:
        there = metrics[plain_name]
        tiles.append(
            {
                "name": f"{_SCORES[main].capitalize()} without privacy",
                "value": percent(there[main], 1),
                "note": plain_name,
            }
        )
        tiles.append(
            {
                "name": "Time of private training",
                "value": f"{scores['cpu_seconds'] / there['cpu_seconds']:.2f} x",
                "note": f"CPU seconds of {best} over those of {plain_name}",
            }
        )
    for name, own in metrics.items():
        claimed, true = own.get("claimed_epsilon"), own.get("epsilon")
        if claimed is not None and true is not None and true > 1.01 * claimed:
            sentences.append(
                f"{name} is often said to guarantee epsilon {fixed(claimed, 1)}: it guarantees "
                f"{fixed(true, 1)} (delta {own['delta']:.1e})."
            )
    return {"sentences": sentences, "tiles": tiles}


def _epsilon(scores: Mapping[str, Any]) -> str:
    if scores.get("delta") is None:
        return "not private"
    if scores.get("epsilon") is None:
        return "clipped without noise: no guarantee"
    return f"epsilon {scores['epsilon']:.3g} for one example at delta {scores['delta']:.1e}"


def _row(
    name: str,
    scores: Mapping[str, Any],
    shown: Mapping[str, str],
    best: bool,
    metrics: Mapping[str, Mapping[str, Any]],
    plain_name: str | None,
) -> dict[str, Any]:
    claimed, true = scores.get("claimed_epsilon"), scores.get("epsilon")
    base = None if plain_name is None else metrics[plain_name]["cpu_seconds"]
    infinite = "infinite"
    return {
        "model": name,
        "best": best,
        "false": claimed is not None and true is not None and true > 1.01 * claimed,
        "scores": [percent(scores[k], 1) if k in scores else MISSING for k in shown],
        "claimed": MISSING if scores.get("delta") is None else _number(claimed, infinite),
        "true": infinite if true is None else _number(true, infinite),
        "delta": MISSING if scores.get("delta") is None else f"{scores['delta']:.1e}",
        "seconds": fixed(scores["cpu_seconds"], 1),
        "ratio": MISSING if not base else f"{scores['cpu_seconds'] / base:.2f}",
    }


def _number(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else fixed(value, 2)


def _statement(statement: Mapping[str, Any]) -> dict[str, Any]:
    steps = zip(statement["noise_multipliers"], statement["steps"], strict=True)
    epsilon = statement["epsilon"]
    return {
        "guarantee": "none: epsilon is infinite"
        if epsilon is None
        else f"({epsilon:.4g}, {statement['delta']:.2e}) for one {statement['unit']}, "
        f"{statement['adjacency']}",
        "how": f"{statement['clipping']}; {statement['sampling']}; sensitivity "
        f"{statement['sensitivity_factor']:g} times the bound; "
        f"{str(statement['accountant']).upper()} accountant",
        "noise": "; ".join(f"{made} steps at {noise:.4g}" for noise, made in steps),
        "assumptions": list(statement["assumptions"]),
    }


def _figure(
    metrics: Mapping[str, Mapping[str, Any]],
    order: list[str],
    styles: Mapping[str, Mapping[str, Any]],
    shown: Mapping[str, str],
) -> dict[str, Any]:
    """Use over true epsilon; models without a guarantee stand at the right."""
    main = _main(shown)
    finite = [s["epsilon"] for s in metrics.values() if s.get("epsilon") is not None]
    if not finite:
        return {}
    end = 3 * max(finite)
    figure = go.Figure()
    for name in order:
        scores = metrics[name]
        if main not in scores:
            continue
        true = scores.get("epsilon")
        figure.add_scatter(
            x=[end if true is None else true], y=[100 * scores[main]], mode="markers+text",
            name=plain(name), text=[plain(name)], textposition="top center", showlegend=False,
            marker={"color": styles[name]["colour"], "symbol": styles[name]["symbol"], "size": 11},
            hovertemplate=(
                f"{plain(name)}: %{{y:.1f}}%, epsilon "
                + ("infinite" if true is None else f"{true:.3g}") + "<extra></extra>"
            ),
        )  # fmt: skip
    ticks = sorted({round(value, 1) for value in finite})
    figure.update_layout(
        layout(
            height=340,
            xaxis={
                "type": "log", "title": {"text": "true epsilon for one example (log)"},
                "tickvals": [*ticks, end], "ticktext": [*map(str, ticks), "no guarantee"],
            },
            yaxis={"title": {"text": f"{shown[main]} (%)"}},
        )
    )  # fmt: skip
    return {"privacy": to_json(figure)}
