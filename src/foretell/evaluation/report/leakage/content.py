"""Everything the page of a run about leakage says: sentences, table rows and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from foretell.evaluation.report.membership import THREATS, attack_rows, points_text
from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.roc import roc_curves
from foretell.evaluation.report.style import BASELINE, BEST, OTHERS, layout, plain, to_json
from foretell.evaluation.report.words import MISSING, count, fixed, number, percent

Record = Mapping[str, Any]
_PROTOCOL = "membership"
_ATTACKS = (("lira", "LiRA", BEST), ("rmia", "RMIA", OTHERS[1]), ("loss", "loss alone", BASELINE))


def write_leakage_report(path: str | Path, record: Record) -> Path:
    """Writes the page in one step; missing folders are made.

    Args:
        path: the HTML file.
        record: ``run.json``: ``metrics``, ``models`` with their audits, ``attack``, ``lesson``.
    """
    context = build(record)
    return write_page(path, render_page("leakage.html.j2", context, context.pop("figures")))


def build(record: Record) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    about = record.get("data") or {}
    facts = {
        "source": about.get("source"),
        "texts to train on": f"{about.get('train_texts', 0):,}",
        "texts to judge": f"{about.get('test_texts', 0):,}",
        "labels": about.get("labels"),
        "features": about.get("features"),
    }
    models = record["models"]
    return {
        "title": str(record.get("title") or "What training gives away"),
        "made": str(record.get("ended") or record.get("started") or ""),
        "headline": _headline(record),
        "lesson": str(record.get("lesson") or ""),
        "attack": {
            "threat_id": record["attack"]["threat_model"],
            "threat": THREATS[record["attack"]["threat_model"]],
            "n_models": record["attack"]["n_models"],
            "targets": record["attack"]["targets"],
            "canaries": f"{record['attack']['canaries']:,}",
        },
        "rows": [_row(record, name) for name in models],
        "details": [
            {"title": model["title"], "attacks": attack_rows(model["audit"])}
            for model in models.values()
        ],
        "statements": [
            {"title": model["title"], "text": model["statement"]}
            for model in models.values()
            if model["statement"]
        ],
        "data": {
            **problems_section(about.get("notes") or (), first="row"),
            "facts": {k: str(v) for k, v in facts.items() if v not in (None, "")},
        },
        "reproduce": reproduce_section(record),
        "figures": {"study": _study(record), "curves": _curves(record)},
    }


def _headline(record: Record) -> dict[str, Any]:
    models, metrics = record["models"], record["metrics"]
    private = [n for n, m in models.items() if m["statement"]]
    sentences = [
        f"{count(len(models), 'training')} of the same model, each repeated on "
        f"{record['attack']['n_models']} random halves of the data; every attacked model has the "
        "others of its kind as shadow models."
    ]
    if record.get("lesson"):
        sentences.append(str(record["lesson"]))
    tiles = []
    ordered = sorted(models, key=lambda n: metrics[n][_PROTOCOL]["lira_auc"])
    for name in dict.fromkeys([ordered[0], ordered[-1]]):
        scores = metrics[name][_PROTOCOL]
        tiles.append(
            {
                "name": f"LiRA AUC, {models[name]['title']}",
                "value": fixed(scores["lira_auc"], 3),
                "note": f"test accuracy {percent(scores['test_accuracy'], 1)}; 0.5 is a guess",
            }
        )
    if private:
        points = sum(models[n]["audit"]["dp_bound"]["points"] for n in private)
        broken = sum(models[n]["audit"]["dp_bound"]["violations"] for n in private)
        tiles.append(
            {
                "name": "Points above the bound",
                "value": f"{broken}",
                "note": f"of {points:,} points of all curves held against TPR ≤ e^ε FPR + δ",
            }
        )
    return {"sentences": sentences, "tiles": tiles}


def _row(record: Record, name: str) -> dict[str, Any]:
    model, scores = record["models"][name], record["metrics"][name][_PROTOCOL]
    bound, check = model.get("bound"), model["audit"]["dp_bound"]
    epsilon = scores.get("epsilon")
    row = {
        "title": model["title"],
        "epsilon": MISSING if epsilon is None else number(epsilon, 3),
        "epsilon_pld": fixed(scores.get("epsilon_pld"), 2),
        "noise": fixed(model["noise"], 3) if model["noise"] is not None else MISSING,
        "accuracy": percent(scores["test_accuracy"], 1),
        "low": MISSING if bound is None else fixed(bound["epsilon"], 2),
        "violation": model.get("violation") or "",
        "check": MISSING
        if check is None
        else ("holds" if not check["violations"] else f"broken at {check['violations']} points"),
    }
    for short, _, _ in _ATTACKS:
        row[f"{short}_auc"] = fixed(scores[f"{short}_auc"], 3)
        row[f"{short}_tpr"] = points_text(scores[f"{short}_tpr"])
    return row


def _study(record: Record) -> dict[str, Any]:
    """AUC of the attacks, training by training."""
    figure = go.Figure()
    titles = [plain(model["title"]) for model in record["models"].values()]
    for short, title, colour in _ATTACKS:
        values = [record["metrics"][n][_PROTOCOL][f"{short}_auc"] for n in record["models"]]
        figure.add_scatter(
            x=titles, y=values, mode="lines+markers", name=title,
            line={"color": colour, "width": 2}, marker={"size": 8},
            hovertemplate="%{x}: AUC %{y:.3f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=titles, y=[r["test_accuracy"] for r in _scores(record)], mode="lines+markers",
        name="test accuracy", line={"color": OTHERS[2], "dash": "dot"}, marker={"symbol": "x"},
        hovertemplate="%{x}: accuracy %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=380,
            xaxis={"type": "category"},
            yaxis={"title": {"text": "AUC, accuracy"}, "range": [0, 1]},
        )
    )
    return to_json(figure)


def _curves(record: Record) -> dict[str, Any]:
    """ROC curves of LiRA on one target of each training."""
    curves = [
        (model["title"], curve["fpr"], curve["tpr"])
        for model in record["models"].values()
        for curve in [model["audit"]["curves"]["LiRA online"]]
    ]
    return roc_curves(curves, (*OTHERS, BASELINE, BEST))


def _scores(record: Record) -> list[Mapping[str, Any]]:
    return [record["metrics"][name][_PROTOCOL] for name in record["models"]]
