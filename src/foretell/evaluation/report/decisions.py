"""Decisions on scores and uncertainties: what each rule achieved, its picture, its guarantee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from foretell.decisions.thresholds import DecisionSurface
from foretell.evaluation.report.style import (
    BASELINE,
    BEST,
    INK,
    MUTED,
    OTHERS,
    layout,
    plain,
    to_json,
)
from foretell.evaluation.report.words import MISSING, count, fixed, percent

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")
_METHODS = {
    "single": "one threshold on the score",
    "mist": "isotonic regression in each uncertainty level, one calibrated cut (MIST)",
    "ew_dp": "dynamic programme over equal bins (EW-DPMT)",
    "vw_dp": "dynamic programme over unequal bins (VW-DP)",
    "milp": "integer programme over bins",
}


def decision_section(
    record: Mapping[str, Any], surfaces: Mapping[str, DecisionSurface]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page says of a decision, and its figures.

    Args:
        record: ``min_precision, delta, rows, rules``: rule -> ``title, method, feasible,
            guaranteed, chosen`` (whether it is the one that is kept), ``hold_out, test``: what it
            achieved there: ``precision, precision_low, precision_high, recall, recall_low,
            recall_high, called, true_positives, positives, rows, abstained``), ``guarantee``.
        surfaces: rule -> its surface.
    """
    target = float(record["min_precision"])
    rules = record["rules"]
    chosen = next(name for name, rule in rules.items() if rule["chosen"])
    drawn: dict[str, Any] = {
        "decision-precision": to_json(
            _achieved_figure(rules, "precision", chosen, target, "precision on the test rows")
        ),
        "decision-recall": to_json(
            _achieved_figure(rules, "recall", chosen, None, "recall on the test rows")
        ),
    }
    pictures = []
    for i, (name, surface) in enumerate(surfaces.items()):
        if surface.n_levels > 1 or len(surfaces) == 1:
            drawn[f"surface-{i}"] = to_json(surface_figure(surface))
            pictures.append(
                {
                    "rule": rules[name]["title"],
                    "figure": f"surface-{i}",
                    "levels": _levels(surface),
                    "chosen": name == chosen,
                }
            )
    pictures.sort(key=lambda p: not p["chosen"])
    section = {
        "sentences": _sentences(record, chosen),
        "target": percent(target, 1).replace(".0%", "%"),
        "rows": [_row(name, rule, target, name == chosen) for name, rule in rules.items()],
        "guarantee": _guarantee(record, rules),
        "pictures": pictures,
        "notes": [str(note) for note in record.get("notes", ())],
        "abstains": any(rule["test"].get("abstained") for rule in rules.values()),
    }
    return section, drawn


def _row(name: str, rule: Mapping[str, Any], target: float, chosen: bool) -> dict[str, Any]:
    test, hold_out = rule["test"], rule["hold_out"]
    verdict = "none called"
    if test["called"]:
        verdict = "kept" if test["precision"] >= target else "missed"
        if test["precision_high"] < target:
            verdict = "clearly missed"
    return {
        "rule": rule["title"],
        "method": _METHODS.get(rule["method"], rule["method"]),
        "chosen": chosen,
        "guaranteed": rule["guaranteed"],
        "hold_precision": percent(hold_out["precision"], 1),
        "hold_recall": percent(hold_out["recall"], 1),
        "precision": percent(test["precision"], 1),
        "precision_interval": _interval(test, "precision"),
        "recall": percent(test["recall"], 1),
        "recall_interval": _interval(test, "recall"),
        "called": f"{round(test['called']):,} of {round(test['rows']):,}",
        "abstained": percent(test.get("abstained", 0) / max(test["rows"], 1), 1),
        "verdict": verdict,
    }


def _interval(scores: Mapping[str, Any], name: str) -> str:
    low, high = scores[f"{name}_low"], scores[f"{name}_high"]
    if low is None or high is None:
        return MISSING
    return f"{percent(low, 1)} to {percent(high, 1)}"


def _sentences(record: Mapping[str, Any], chosen: str) -> list[str]:
    target = percent(record["min_precision"], 1).replace(".0%", "%")
    rule = record["rules"][chosen]
    test = rule["test"]
    if not rule["feasible"] or not test["called"]:
        best = rule.get("best_precision")
        if best is None or best < record["min_precision"]:
            first = f"No rule reaches a precision of {target}, so that nothing is called."
            if best is None:
                return [first]
            return [f"{first} The best that the hold-out shows is {percent(best, 1)}."]
        if rule["feasible"]:
            return [f"The rule “{rule['title']}” calls none of the test rows."]
        return [
            f"No rule can be shown to reach a precision of {target}, so that nothing is called. "
            f"Among a few rows of the hold-out {percent(best, 1)} are positive, too few to prove "
            "anything."
        ]
    sentences = [
        f"To act only where at least {target} will turn out positive, the rule "
        f"“{rule['title']}” calls {percent(test['called'] / test['rows'], 1)} of the test rows: "
        f"{percent(test['precision'], 1)} of them were positive "
        f"(95% interval {_interval(test, 'precision')}), which finds {percent(test['recall'], 1)} "
        f"of all positives ({_interval(test, 'recall')})."
    ]
    single = record["rules"].get("single")
    if single is not None and chosen != "single" and single["test"]["called"]:
        sentences.append(
            f"One threshold on the score alone finds {percent(single['test']['recall'], 1)} with a "
            f"precision of {percent(single['test']['precision'], 1)}."
        )
    return sentences


def _guarantee(
    record: Mapping[str, Any], rules: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    rule = next((r for r in rules.values() if r.get("guarantee")), None)
    if rule is None:
        return None
    given = rule["guarantee"]
    target = percent(record["min_precision"], 1).replace(".0%", "%")
    price = given.get("price")
    sentence = (
        "Choosing a surface and judging it on the same rows is optimistic. The guaranteed rule "
        f"was chosen on {round(given['selection_rows']):,} rows and tested on "
        f"{round(given['test_rows']):,} others: with a probability of at least "
        f"{percent(1 - given['delta'], 1).replace('.0%', '%')} its precision is {target} or more "
        "on rows that come from where the hold-out came from. It says nothing of rows after a "
        "drift."
    )
    if not rule["feasible"]:
        sentence = (
            "Choosing a surface and judging it on the same rows is optimistic. Rules were found on "
            f"{round(given['selection_rows']):,} rows and tested on "
            f"{round(given['test_rows']):,} others: of none could it be said, with a probability "
            f"of at least {percent(1 - given['delta'], 1).replace('.0%', '%')}, that its precision "
            f"is {target} or more. A lower target or a larger hold-out may help."
        )
    elif price is not None:
        sentence += (
            f" The price: on the rows it was tested on it finds {percent(price, 0)} of what the "
            "rule without guarantee finds."
        )
    facts = {
        "surfaces in the family": f"{given['family']:,}",
        "tests made": f"{given['tested']} in {count(given['walks'], 'walk')}",
        **({"p-value of the one returned": fixed(given["p_value"], 4)} if rule["feasible"] else {}),
        "recall without guarantee, same rows": percent(given.get("plain_recall"), 1),
        "precision without guarantee, same rows": percent(given.get("plain_precision"), 1),
    }
    return {"sentence": sentence, "facts": facts}


def _levels(surface: DecisionSurface) -> list[dict[str, str]]:
    rows = []
    for row in surface.levels().iter_rows(named=True):
        threshold = row["threshold"]
        rows.append(
            {
                "level": _level_name(row["level"], surface.n_levels),
                "threshold": "never" if threshold is None else fixed(threshold, 4),
                "rows": f"{round(row['rows']):,}",
                "positives": percent(row["positives"] / row["rows"] if row["rows"] else None, 1),
                "called": f"{round(row['called']):,}",
                "precision": percent(row["precision"], 1),
                "recall": percent(row["recall"], 1),
            }
        )
    return rows


def _level_name(level: int, levels: int) -> str:
    if level == 0:
        return "1, most certain"
    return f"{levels}, least certain" if level == levels - 1 else str(level + 1)


def surface_figure(surface: DecisionSurface) -> go.Figure:
    """Positive rate by score and uncertainty level, and the threshold of each level as a line."""
    cells = surface.to_frame().filter(surface.to_frame()["rows"] > 0)
    names = [_level_name(k, surface.n_levels) for k in range(surface.n_levels)]
    low, high = cells["score_low"].to_numpy(), cells["score_high"].to_numpy()
    rate = 100 * cells["rate"].to_numpy()
    level = cells["level"].to_list()
    figure = go.Figure(
        go.Bar(
            orientation="h", base=low, x=high - low, y=[names[k] for k in level], width=0.92,
            marker={
                "color": rate, "cmin": 0, "cmax": max(float(rate.max(initial=1)), 1.0),
                "colorscale": [[0, "#f4f1ea"], [0.5, "#9db9d6"], [1, BEST]],
                "line": {"width": 0},
                "colorbar": {
                    "title": {"text": "positive", "font": {"size": 12}}, "ticksuffix": "%",
                    "thickness": 12, "len": 0.9, "outlinewidth": 0,
                },
            },
            customdata=list(
                zip(low, high, cells["rows"].to_list(), cells["rate_low"].to_numpy() * 100,
                    cells["rate_high"].to_numpy() * 100, strict=True)
            ),
            hovertemplate="score %{customdata[0]:.3f} to %{customdata[1]:.3f}, level %{y}<br>"
            "%{marker.color:.1f}% positive (%{customdata[3]:.1f} to %{customdata[4]:.1f}), "
            "%{customdata[2]:,} rows<extra></extra>",
            showlegend=False,
        )
    )  # fmt: skip
    top = float(high.max(initial=1.0))
    for k, threshold in enumerate(surface.thresholds.tolist()):
        if threshold > top:
            continue
        figure.add_scatter(
            x=[threshold, threshold], y=[k - 0.46, k + 0.46], mode="lines", showlegend=k == 0,
            name="called from here on", line={"color": BASELINE, "width": 3},
            hovertemplate=f"threshold {threshold:.4f}<extra></extra>", yaxis="y2",
        )  # fmt: skip
    spread = [-0.5, surface.n_levels - 0.5]
    figure.update_layout(
        layout(
            height=130 + 46 * surface.n_levels,
            bargap=0,
            xaxis={"title": {"text": "score"}},
            yaxis={
                "title": {"text": "uncertainty level"},
                "type": "category",
                "categoryorder": "array",
                "categoryarray": names,
                "gridcolor": "rgba(0,0,0,0)",
                "ticks": "",
                "range": spread,
            },
            yaxis2={"overlaying": "y", "range": spread, "visible": False, "fixedrange": True},
        )
    )
    return figure


def _achieved_figure(
    rules: Mapping[str, Mapping[str, Any]],
    name: str,
    chosen: str,
    target: float | None,
    title: str,
) -> go.Figure:
    """A share of each rule on the test rows with its interval, and the target as a line."""
    shown = [(n, r) for n, r in rules.items() if r["test"][name] is not None][::-1]
    value = [100 * r["test"][name] for _, r in shown]
    colours = [BEST if n == chosen else _colour(i) for i, (n, _) in enumerate(shown)]
    above = [100 * r["test"][f"{name}_high"] - v for (_, r), v in zip(shown, value, strict=True)]
    below = [v - 100 * r["test"][f"{name}_low"] for (_, r), v in zip(shown, value, strict=True)]
    figure = go.Figure()
    if target is not None:
        figure.add_vline(x=100 * target, line={"color": INK, "width": 1.2, "dash": "dot"})
    figure.add_scatter(
        x=value, y=[plain(r["title"]) for _, r in shown], mode="markers", showlegend=False,
        marker={"color": colours, "size": 10,
                "symbol": [_SYMBOLS[i % len(_SYMBOLS)] for i in range(len(shown))]},
        error_x={
            "type": "data", "symmetric": False, "color": MUTED, "thickness": 1.4, "width": 4,
            "array": above, "arrayminus": below,
        },
        hovertemplate="%{y}: %{x:.1f}%<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        layout(
            height=100 + 30 * len(shown),
            xaxis={"title": {"text": title}, "ticksuffix": "%"},
            yaxis={"type": "category", "gridcolor": "rgba(0,0,0,0)", "ticks": ""},
        )
    )
    return figure


def _colour(i: int) -> str:
    return OTHERS[i % len(OTHERS)]
