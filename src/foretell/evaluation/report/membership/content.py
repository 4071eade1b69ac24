"""Everything the page of a membership audit says: sentences, table rows and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from foretell.audits.membership import THREAT_MODELS, MembershipAudit, thinned
from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.roc import roc_curves
from foretell.evaluation.report.style import BASELINE, BEST, OTHERS, layout, to_json
from foretell.evaluation.report.words import MISSING, count, fixed, percent
from foretell.training.private import PrivacyStatement

Record = Mapping[str, Any]
THREATS = THREAT_MODELS
_COLOURS = (BEST, BASELINE, *OTHERS)
_MOST_EXPOSED = 20


def mia_report(
    audit: MembershipAudit,
    folder: str | Path,
    *,
    title: str = "What the model gives away about its training data",
    record: Record | None = None,
    names: Sequence[str] | None = None,
    unit: str = "example",
) -> tuple[Path, Path]:
    """Writes ``audit.json`` and ``audit.html`` into a folder.

    Args:
        audit: what was found.
        folder: made if it is not there.
        title: of the page.
        record: what it takes to have the figures again: keys of a run's ``run.json``.
        names: of the N examples; the most exposed ones are then listed by name. They are part of
            what an attacker looks for: keep such a page to yourself.
        unit: what an example is, in the singular.

    Returns:
        The two files.
    """
    folder = Path(folder)
    file = audit.to_json(folder / "audit.json")
    page = write_audit_report(
        folder / "audit.html", audit, title=title, record=record, names=names, unit=unit
    )
    return file, page


def write_audit_report(
    path: str | Path,
    audit: MembershipAudit,
    *,
    title: str,
    record: Record | None = None,
    names: Sequence[str] | None = None,
    unit: str = "example",
) -> Path:
    """Writes the page in one step; missing folders are made. See :func:`mia_report`."""
    context = build(audit, title, record or {}, names, unit)
    return write_page(path, render_page("audit.html.j2", context, context.pop("figures")))


def build(
    audit: MembershipAudit,
    title: str,
    record: Record,
    names: Sequence[str] | None = None,
    unit: str = "example",
) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    document = audit.to_dict()
    about = record.get("data") or {}
    facts = {
        "source": about.get("source"),
        f"{unit}s" if not unit.endswith("s") else unit: f"{document['examples']:,}",
        "models attacked": len(audit.targets),
    }
    statement = None
    if audit.statement is not None:
        statement = str(PrivacyStatement.from_dict(dict(audit.statement)))
    return {
        "title": title,
        "made": str(record.get("ended") or record.get("started") or ""),
        "headline": _headline(audit, document, unit),
        "invalid": audit.invalid or "",
        "threat": {"id": audit.threat_model, "words": document["attacker"]},
        "attacks": attack_rows(document),
        "statement": statement or "",
        "blind": "" if audit.blind is None else str(audit.blind),
        "notes": list(audit.notes),
        "unit": unit,
        "exposed": _exposed(audit, names),
        "data": {
            **problems_section(about.get("notes") or (), first="row"),
            "facts": {k: str(v) for k, v in facts.items() if v not in (None, "")},
        },
        "reproduce": reproduce_section(record),
        "figures": {"curves": _curves(audit), "vulnerability": _vulnerability(audit)},
    }


def attack_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of attacks, from the JSON form of an audit."""
    rows = []
    for attack in document["attacks"]:
        rows.append(
            {
                "attack": attack["attack"],
                "targets": attack["targets"],
                "shadows": attack["n_shadows"],
                "auc": fixed(attack["auc"], 3),
                "range": f"{fixed(attack['auc_low'], 3)} to {fixed(attack['auc_high'], 3)}",
                "balanced": percent(attack["balanced_accuracy"], 1),
                "guessed": percent(attack["guessed_accuracy"], 1),
                "points": [_point(point) for point in attack["points"]],
                "flags": "; ".join(attack["flags"]),
            }
        )
    return rows


def points_text(tpr: float | None) -> str:
    """A true-positive rate, or a dash where too few non-members are there to say."""
    return MISSING if tpr is None else percent(tpr, 2)


def _point(point: Mapping[str, Any]) -> str:
    if point["tpr"] is None:
        return MISSING
    text = f"{percent(point['tpr'], 2)} ({percent(point['low'], 2)} to {percent(point['high'], 2)})"
    return f"{text}, low count" if point["low_count"] else text


def _headline(audit: MembershipAudit, document: Mapping[str, Any], unit: str) -> dict[str, Any]:
    best = audit.summaries[0]
    if audit.invalid:
        sentences = [f"This audit is invalid: {audit.invalid}."]
    else:
        sentences = [
            f"An attacker who {document['attacker']} tells members from others with an AUC of "
            f"{fixed(best.auc, 3)} by the best of {count(len(audit.summaries), 'attack')} "
            f"({best.attack}); 0.5 is a guess."
        ]
    tiles = [
        {
            "name": "AUC of the best attack",
            "value": fixed(best.auc, 3),
            "note": f"{best.attack}, {count(best.n_shadows, 'shadow model')}",
        }
    ]
    point = best.points[1]
    tiles.append(
        {
            "name": "Members found at 0.1% false alarms",
            "value": points_text(point.tpr),
            "note": "too few others to say"
            if point.tpr is None
            else f"95% interval {percent(point.low, 2)} to {percent(point.high, 2)}"
            + (", low count" if point.low_count else ""),
        }
    )
    exposed = document["vulnerability"]
    tiles.append(
        {
            "name": f"Clearly exposed, of {exposed['examples']:,}",
            "value": f"{exposed['above_0.99']:,}",
            "note": f"stand out above 99% of what was not trained on ({unit})",
        }
    )
    return {"sentences": sentences, "tiles": tiles}


def _exposed(audit: MembershipAudit, names: Sequence[str] | None) -> list[dict[str, str]]:
    if names is None:
        return []
    seen = [i for i in range(len(names)) if audit.vulnerability[i] == audit.vulnerability[i]]
    ranked = sorted(seen, key=lambda i: -audit.vulnerability[i])[:_MOST_EXPOSED]
    return [{"name": str(names[i]), "value": percent(audit.vulnerability[i], 1)} for i in ranked]


def _curves(audit: MembershipAudit) -> dict[str, Any]:
    """ROC curves of the attacks on the first target."""
    return roc_curves(
        ((s.attack, *thinned(audit.results[s.attack][0].curve, 150)) for s in audit.summaries),
        _COLOURS,
    )


def _vulnerability(audit: MembershipAudit) -> dict[str, Any]:
    """How many examples stand out how far."""
    values = audit.vulnerability[audit.vulnerability == audit.vulnerability]
    figure = go.Figure(
        go.Histogram(
            x=values, xbins={"start": 0, "end": 1.0001, "size": 0.02}, marker={"color": BEST},
            hovertemplate="%{x}: %{y}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=300,
            xaxis={"title": {"text": "share of non-members that it scores above, when trained on"}},
            yaxis={"title": {"text": "examples"}},
        )
    )
    return to_json(figure)
