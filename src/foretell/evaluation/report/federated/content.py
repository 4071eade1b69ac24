"""Everything the page of a federated run says: sentences, table rows and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import polars as pl

from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.style import layout, model_styles, plain, to_json
from foretell.evaluation.report.words import MISSING, count, fixed, percent

Record = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


def write_federated_report(path: str | Path, record: Record, curves: pl.DataFrame) -> Path:
    """Writes the page in one step; missing folders are made.

    Args:
        path: the HTML file.
        record: ``run.json``.
        curves: ``mode, method, rate, seed, round, samples_cumulative, bytes_down, bytes_up,
            accuracy``.
    """
    context = build(record, curves)
    return write_page(path, render_page("federated.html.j2", context, context.pop("figures")))


def build(record: Record, curves: pl.DataFrame) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    tables = record["tables"]
    best, baseline = str(record["best"]), record.get("baseline")
    styles = model_styles([r["method"] for r in tables["static"]], best, baseline)
    about = record.get("data") or {}
    static = curves.filter(pl.col("mode") == "static")
    figures = {
        "rounds": _curve(static, "round", "round", styles),
        "samples": _curve(static, "samples_cumulative", "samples processed on devices", styles),
        "bytes": _curve(static, "bytes", "megabytes sent and received", styles),
    }
    groups = _groups(tables.get("groups") or [], styles, figures)
    continual = _continual(tables.get("continual") or [])
    buffers = [b for b in curves["mode"].unique(maintain_order=True) if b != "static"]
    if buffers:
        moving = curves.filter(pl.col("mode") == buffers[0])
        figures["continual"] = _curve(moving, "round", "round", styles)
    marks = [k.removeprefix("round_") for k in tables["static"][0] if k.startswith("round_")]
    slices = [k for k in tables["static"][0] if k.endswith("topics")]
    return {
        "title": str(record.get("title") or "Training on data that stays with its clients"),
        "made": str(record.get("ended") or record.get("started") or ""),
        "styles": styles,
        "best": best,
        "headline": _headline(tables, best, baseline, marks, slices),
        "marks": marks,
        "slices": slices,
        "methods": _methods(record, best, marks, slices),
        "groups": groups,
        "continual": continual,
        "buffer": buffers[0] if buffers else None,
        "privacy": _privacy(tables.get("privacy") or []),
        "statements": [
            {"method": name, "text": _statement(s), **_whole(s)}
            for name, s in (record.get("statements") or {}).items()
        ],
        "audit": _audit(tables.get("audit")),
        "warnings": list(record.get("warnings") or []),
        "data": {
            **problems_section((), first="client"),
            "facts": {
                "source": str(about.get("source", "")),
                "clients": f"{about.get('clients', 0):,}",
                "examples": f"{about.get('examples', 0):,}",
                "tests": f"{about.get('tests', 0):,}",
                "activity": f"median {about.get('median_activity', 0):g}, largest "
                f"{about.get('largest_activity', 0):,}; the most active tenth holds "
                f"{percent(about.get('top_tenth_share'))} of the examples",
                **({"partition": about["partition"]} if about.get("partition") else {}),
            },
        },
        "reproduce": reproduce_section(record),
        "figures": figures,
    }


def _headline(
    tables: Record, best: str, baseline: Any, marks: Sequence[str], slices: Sequence[str]
) -> dict[str, Any]:
    rows = {r["method"]: r for r in tables["static"]}
    top = rows[best]
    first, last = marks[0], marks[-1]
    tiles = [
        {
            "name": f"Accuracy after {last} rounds",
            "value": percent(top[f"round_{last}"], 1),
            "note": f"{best}, {count(top['seeds'], 'seed')}",
        }
    ]
    sentences = [
        f"{count(len(rows), 'way')} to choose devices and to weigh their updates were compared, "
        "each at the server learning rate that suits it best."
    ]
    if baseline in rows and baseline != best:
        base = rows[baseline]
        gains = [f"{_points(top[f'round_{m}'] - base[f'round_{m}'])} at round {m}" for m in marks]
        sentences.append(f"Against {baseline}, {best} gains " + ", ".join(gains) + " (points).")
        tiles.append(
            {
                "name": f"Gain at round {first}",
                "value": _points(top[f"round_{first}"] - base[f"round_{first}"]),
                "note": f"points over {baseline}",
            }
        )
        end = [r for r in tables["samples"] if r["method"] in (best, baseline)]
        if end:
            mark = max(r["samples"] for r in end)
            at = {r["method"]: r["accuracy"] for r in end if r["samples"] == mark}
            sentences.append(
                f"The gain is one per round of communication: {best} trains on "
                f"{top['samples_per_round']:.0f} samples a round, {baseline} on "
                f"{base['samples_per_round']:.0f}. After the same {mark:,.0f} samples {best} has "
                f"{percent(at[best], 1)} and {baseline} {percent(at[baseline], 1)}."
            )
    sentences += [_slice(rows, name, baseline) for name in slices]
    gap = _gap(tables.get("groups") or [], best)
    if gap is not None:
        sentences.append(gap)
    return {"sentences": sentences, "tiles": tiles}


def _slice(rows: Mapping[str, Mapping[str, Any]], name: str, baseline: Any) -> str:
    """Who gains and who pays on some of the tests."""
    ordered = sorted(rows.values(), key=lambda r: -r[name])
    if baseline not in rows:
        return f"On {name} {ordered[0]['method']} is best with {percent(ordered[0][name], 1)}."
    base = rows[baseline][name]
    worse = [r for r in ordered if r[name] < base]
    if not worse:
        return f"On {name} no method is worse than {baseline} with {percent(base, 1)}."
    names = ", ".join(f"{r['method']} ({percent(r[name], 1)})" for r in worse)
    return (
        f"On {name} {names} {'is' if len(worse) == 1 else 'are'} worse than {baseline} "
        f"({percent(base, 1)}): clients that are chosen less often pay for it."
    )


def _gap(groups: Rows, best: str) -> str | None:
    """How unequal the best method is to quiet and to active clients."""
    own = [g for g in groups if g["method"] == best and g["low"] > 0 and g["accuracy"] is not None]
    if len(own) < 2:
        return None
    low, high = own[0], own[-1]
    return (
        f"Posts of clients with {low['group']} examples are right in {percent(low['accuracy'], 1)} "
        f"of cases under {best}, those of clients with {high['group']} in "
        f"{percent(high['accuracy'], 1)}."
    )


def _methods(
    record: Record, best: str, marks: Sequence[str], slices: Sequence[str]
) -> list[dict[str, Any]]:
    order = {row["model"]: row["rank"] for row in record["leaderboard"]["final"]}
    rows = sorted(record["tables"]["static"], key=lambda r: order[r["method"]])
    return [
        {
            "rank": order[r["method"]],
            "method": r["method"],
            "best": r["method"] == best,
            "selection": r["selection"],
            "aggregation": r["aggregation"].replace("_", " "),
            "rate": MISSING if r["rate"] is None else f"{r['rate']:g}",
            "at": [fixed(r[f"round_{m}"], 3) for m in marks],
            "samples": f"{r['samples_per_round']:,.0f}",
            "megabytes": f"{r['megabytes']:,.0f}",
            "used": percent(r["clients_used"]),
            "slices": [fixed(r[name], 3) for name in slices],
        }
        for r in rows
    ]


def _curve(
    curves: pl.DataFrame, x: str, title: str, styles: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Mean accuracy over seeds; numbers on the x axis are means over seeds too."""
    figure = go.Figure()
    table = curves.with_columns(((pl.col("bytes_down") + pl.col("bytes_up")) / 1e6).alias("bytes"))
    for method, style in styles.items():
        own = (
            table.filter(pl.col("method") == method)
            .group_by("round").agg(pl.col(x if x != "round" else "seed").mean().alias("x"),
                                   pl.col("accuracy").mean()).sort("round")
        )  # fmt: skip
        if own.is_empty():
            continue
        place = own["round"] if x == "round" else own["x"]
        figure.add_scatter(
            x=place.to_list(), y=[100 * a for a in own["accuracy"]], mode="lines",
            name=plain(method), line={"color": style["colour"], "width": 1.8},
            hovertemplate="%{x:,.0f}: %{y:.1f}%<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            height=380,
            xaxis={"title": {"text": title}, "rangemode": "tozero"},
            yaxis={"title": {"text": "accuracy"}, "ticksuffix": "%", "rangemode": "tozero"},
        )
    )
    return to_json(figure)


def _groups(
    rows: Rows, styles: Mapping[str, Mapping[str, Any]], figures: dict[str, Any]
) -> dict[str, Any] | None:
    shown = [r for r in rows if r["accuracy"] is not None]
    if not shown:
        return None
    names = list(dict.fromkeys(r["group"] for r in shown))
    figure = go.Figure()
    table = []
    for method, style in styles.items():
        own = {r["group"]: r for r in shown if r["method"] == method}
        if not own:
            continue
        figure.add_scatter(
            x=[plain(n) for n in names], y=[100 * own[n]["accuracy"] for n in names],
            mode="lines+markers", name=plain(method),
            line={"color": style["colour"], "width": 1.6},
            marker={"color": style["colour"], "symbol": style["symbol"], "size": 7},
            hovertemplate="%{x}: %{y:.1f}%<extra>%{fullData.name}</extra>",
        )  # fmt: skip
        table.append({"method": method, "at": [percent(own[n]["accuracy"], 1) for n in names]})
    figure.update_layout(
        layout(
            height=340,
            xaxis={"type": "category", "title": {"text": "examples of the client"}},
            yaxis={"title": {"text": "accuracy"}, "ticksuffix": "%"},
        )
    )
    figures["groups"] = to_json(figure)
    first = [r for r in shown if r["method"] == shown[0]["method"]]
    return {
        "names": names,
        "clients": [f"{r['clients']:,}" for r in first],
        "tests": [f"{r['tests']:,}" for r in first],
        "rows": table,
    }


def _continual(rows: Rows) -> list[dict[str, Any]]:
    return [
        {
            "buffer": r["buffer"].replace("_", " ").replace(":", " "),
            "method": r["method"],
            "periods": [fixed(a, 3) for a in r["by_period"]],
            "period": fixed(r["accuracy_period"], 3),
            "past": fixed(r["accuracy_past"], 3),
            "static": fixed(r["static"], 3),
            "rounds": MISSING if r["rounds_to_static"] is None else f"{r['rounds_to_static']:.0f}",
        }
        for r in rows
    ]


def _privacy(rows: Rows) -> dict[str, Any] | None:
    if not rows:
        return None
    names = list(rows[0]["at"])
    return {
        "names": names,
        "rows": [
            {
                "rule": r["rule"],
                "bound": f"{r['q_max']:.3g}" if r["bounded"] else "none",
                "at": [_epsilon(r["at"][n]) for n in names],
                "median": _epsilon(r["median"]),
                "p90": _epsilon(r["p90"]),
                "largest": _epsilon(r["largest"]),
            }
            for r in rows
        ],
    }


def _epsilon(value: float) -> str:
    return f"{value:.3g}"


def _statement(statement: Mapping[str, Any]) -> str:
    return (
        f"(epsilon {statement['epsilon']:.4g}, delta {statement['delta']:.3g}), one "
        f"{statement['unit']} ({statement['adjacency']}), {statement['sampling']}; "
        f"{statement['clipping']}; assumes: " + "; ".join(statement["assumptions"])
    )


def _whole(statement: Mapping[str, Any]) -> dict[str, Any]:
    """What a statement says of all clients, and what does not add up."""
    whole = statement.get("federation") or {}
    spread = whole.get("distribution") or {}
    return {
        "spread": ", ".join(
            f"{name} {MISSING if value is None else _epsilon(value)}"
            for name, value in spread.items()
        ),
        "clients": f"{whole.get('clients', 0):,}",
        "notes": list(whole.get("assumptions") or []),
    }


def _audit(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What canary clients prove of the claim."""
    if found is None:
        return None
    claim = found["claim"]
    rows = [
        {
            "noise": "as claimed" if run["noisy"] else "left out",
            "fdp": _epsilon(run["bounds"]["fdp"]),
            "steinke": _epsilon(run["bounds"]["steinke"]),
            "auc": fixed(run["auc"], 3),
            "drawn": f"{run['ever_drawn']:,} of {run['canaries']:,}",
            "accuracy": fixed(run["accuracy"], 3),
            "verdict": "refuted" if run["refuted"] else "not refuted",
        }
        for run in found["runs"]
    ]
    first = found["runs"][0]
    told = [name for names in found["assumptions"].values() for name in names]
    return {
        "rows": rows,
        "claim": f"epsilon {claim['epsilon']:.4g} at delta {claim['delta']:.3g}, one "
        f"{claim['unit']} ({claim['adjacency']})",
        "canaries": f"{first['canaries']:,}",
        "activity": f"{first['activity']:,}",
        "threat_model": found["threat_model"],
        "confidence": percent(found["confidence"]),
        "assumptions": "; ".join(dict.fromkeys(told)),
    }


def _points(value: float) -> str:
    return fixed(100 * value, 1, sign=True)
