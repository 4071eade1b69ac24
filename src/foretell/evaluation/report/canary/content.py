"""Everything the page of a run about canaries says: sentences, table rows and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import polars as pl

from foretell.audits.extraction.report import CHANCE_BITS
from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.style import BASELINE, BEST, layout, plain, to_json
from foretell.evaluation.report.words import MISSING, count, fixed, percent

Record = Mapping[str, Any]
_MOST_CANARIES = 60
_THREATS = {"white_box_final": "an attacker who holds all final weights"}


def write_canary_report(path: str | Path, record: Record, canaries: pl.DataFrame) -> Path:
    """Writes the page in one step; missing folders are made.

    Args:
        path: the HTML file.
        record: ``run.json``: ``metrics``, ``models``, ``attack``.
        canaries: a row a model and canary, as ``ExtractionReport.to_polars`` gives them, after a
            column ``model``.
    """
    context = build(record, canaries)
    return write_page(path, render_page("canary.html.j2", context, context.pop("figures")))


def build(record: Record, canaries: pl.DataFrame) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    about = record.get("data") or {}
    parts = about.get("parts") or {}
    notes = [
        *(about.get("notes") or ()),
        *dict.fromkeys(note for m in record["models"].values() for note in m["notes"]),
    ]
    facts = {
        "source": about.get("source"),
        **{f"utterances, part {part}": f"{size:,}" for part, size in parts.items()},
    }
    shown = record["baseline"] or record["leaderboard"]["valid"][-1]["model"]
    return {
        "title": str(record.get("title") or "What canaries a model gives away"),
        "made": str(record.get("ended") or record.get("started") or ""),
        "headline": _headline(record),
        "models": _models(record),
        "attack": _attack(record),
        "shown": record["models"][shown]["title"],
        "canaries": _canaries(canaries.filter(pl.col("model") == shown)),
        "statements": [
            {"model": m["title"], "text": m["statement"]}
            for m in record["models"].values()
            if m["statement"]
        ],
        "data": {
            **problems_section(notes, first="row"),
            "facts": {k: str(v) for k, v in facts.items() if v not in (None, "")},
        },
        "reproduce": reproduce_section(record),
        "figures": _figures(record),
    }


def _scores(record: Record, model: str) -> Mapping[str, Any]:
    scores: Mapping[str, Any] = record["metrics"][model]["valid"]
    return scores


def _interval(scores: Mapping[str, Any], key: str, places: int, share: bool = False) -> str:
    low, high = scores.get(f"{key}_low"), scores.get(f"{key}_high")
    if low is None or high is None:
        return MISSING
    show = percent if share else fixed
    return f"{show(low, places)} to {show(high, places)}"


def _attack(record: Record) -> dict[str, str]:
    attack = record["attack"]
    return {
        "threat": _THREATS.get(attack["threat_model"], attack["threat_model"]),
        "threat_id": attack["threat_model"],
        "method": attack["method"],
        "space": f"{attack['space']:,}",
        "bits": fixed(math.log2(attack["space"]), 1),
        "words": str(attack["words"]),
        "n_tokens": str(attack["n_tokens"]),
        "chance": percent(attack["chance_token_accuracy"]),
        "chance_bits": fixed(CHANCE_BITS, 2),
    }


def _headline(record: Record) -> dict[str, Any]:
    models, attack = record["models"], record["attack"]
    best = record["best"]
    canaries = _scores(record, best)["canaries"]
    sentences = [
        f"{count(canaries, 'secret')} of {count(attack['n_tokens'], 'word')} were planted in the "
        f"training data of {count(len(models), 'model')} and then sought in their weights. A "
        f"secret that was never there has {fixed(CHANCE_BITS, 2)} bits of exposure on average; "
        f"the most is {fixed(math.log2(attack['space']), 1)}."
    ]
    tiles = []
    baseline = record["baseline"]
    if baseline is not None:
        scores = _scores(record, baseline)
        tiles.append(
            {
                "name": f"Exposure, {models[baseline]['title']}",
                "value": fixed(scores["exposure"], 2),
                "note": f"bits; 95% interval {_interval(scores, 'exposure', 2)}",
            }
        )
        clear = [
            m["title"]
            for m in models.values()
            if "against_baseline" in m and m["against_baseline"]["high"] < 0
        ]
        worse = [
            m["title"]
            for m in models.values()
            if "against_baseline" in m and m["against_baseline"]["low"] > 0
        ]
        if clear:
            sentences.append(f"Clearly less exposed than it: {'; '.join(clear)}.")
        if worse:
            sentences.append(f"Clearly more exposed: {'; '.join(worse)}.")
    scores = _scores(record, best)
    tiles.append(
        {
            "name": f"Least exposed: {models[best]['title']}",
            "value": fixed(scores["exposure"], 2),
            "note": f"bits; 95% interval {_interval(scores, 'exposure', 2)}",
        }
    )
    return {"sentences": sentences, "tiles": tiles}


def _models(record: Record) -> list[dict[str, Any]]:
    rows = []
    for name, model in record["models"].items():
        scores = _scores(record, name)
        difference = model.get("against_baseline")
        rows.append(
            {
                "title": model["title"],
                "best": name == record["best"],
                "repetitions": model["repetitions"],
                "exposure": fixed(scores["exposure"], 2),
                "interval": _interval(scores, "exposure", 2),
                "control": fixed(scores["control_exposure"], 2),
                "words": percent(scores["token_accuracy"]),
                "words_interval": _interval(scores, "token_accuracy", 0, share=True),
                "whole": percent(scores["exact_match"]),
                "accuracy": percent(scores.get("intent_accuracy"), 1),
                "f1": fixed(scores.get("slot_f1"), 3),
                "epsilon": "no bound" if model["epsilon"] is None else _epsilon(model["epsilon"]),
                "difference": "baseline"
                if name == record["baseline"]
                else MISSING
                if difference is None
                else f"{fixed(difference['value'], 2, sign=True)} "
                f"({fixed(difference['low'], 2, sign=True)} to "
                f"{fixed(difference['high'], 2, sign=True)})",
                "optimised": percent(scores["optimised"]),
            }
        )
    return rows


def _epsilon(value: Any) -> str:
    return "no bound" if value is None or not math.isfinite(value) else f"ε {value:.3g}, see below"


def _canaries(table: pl.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "prefix": row["prefix"],
            "secret": row["secret"],
            "found": row["found"] or "not known to the model",
            "hits": str(row["hits"]),
            "rank": MISSING if row["rank"] is None else f"{row['rank']:,.0f}",
            "exposure": fixed(row["exposure"], 2),
        }
        for row in table.head(_MOST_CANARIES).to_dicts()
    ]


def _figures(record: Record) -> dict[str, Any]:
    figure = go.Figure()
    names = [plain(m["title"]) for m in record["models"].values()]
    scores = [_scores(record, name) for name in record["models"]]
    for key, label, colour, symbol in (
        ("exposure", "planted", BEST, "circle"),
        ("control_exposure", "never planted", BASELINE, "diamond"),
    ):
        value = [s[key] for s in scores]
        figure.add_scatter(
            x=value, y=names, mode="markers", name=label,
            marker={"color": colour, "size": 9, "symbol": symbol},
            error_x={
                "type": "data", "symmetric": False, "color": "#52606d", "thickness": 1.3,
                "width": 4,
                "array": [_gap(s, key, "high") for s in scores],
                "arrayminus": [_gap(s, key, "low") for s in scores],
            },
            hovertemplate="%{y}: %{x:.2f} bits<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.add_vline(x=CHANCE_BITS, line={"color": "#1f2933", "width": 1.2, "dash": "dot"})
    figure.update_layout(
        layout(
            height=110 + 30 * len(names),
            xaxis={
                "title": {"text": "exposure (bits); the dotted line is chance"},
                "rangemode": "tozero",
            },
            yaxis={"type": "category", "autorange": "reversed", "gridcolor": "rgba(0,0,0,0)",
                   "ticks": ""},
        )
    )  # fmt: skip
    return {"exposure": to_json(figure)}


def _gap(scores: Mapping[str, Any], key: str, end: str) -> float | None:
    value, other = scores[key], scores[f"{key}_{end}"]
    return None if value is None or other is None else abs(other - value)
