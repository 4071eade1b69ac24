"""Everything the page of a run about early warning says: sentences, table rows and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foretell.evaluation.clinical import APART
from foretell.evaluation.report.record import problems_section, reproduce_section
from foretell.evaluation.report.render import render_page, write_page
from foretell.evaluation.report.sepsis import figures as draw
from foretell.evaluation.report.sepsis.checks import checks_section, checks_warning
from foretell.evaluation.report.sepsis.privacy import privacy_section
from foretell.evaluation.report.sepsis.words import CONVENTIONS, MUST_NOT, UTILITY
from foretell.evaluation.report.style import model_styles
from foretell.evaluation.report.words import MISSING, count, fixed, listing, number, percent

Record = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

_METRICS = {
    "patient_sensitivity": ("septic patients found in time", "share"),
    "patient_specificity": ("other patients left in peace", "share"),
    "ppv": ("PPV: alarms with an onset to come", "share"),
    "patient_ppv": ("alarmed patients with an onset to come", "share"),
    "alarms_per_true_alarm": ("alarms for one true alarm", "number"),
    "false_alarms_per_patient_hour": ("false alarms per patient-hour (FAPH)", "rate"),
    "alarms_per_bed_day": ("alarms per bed-day", "number"),
    "lead_q25": ("lead, lower quartile", "hours"),
    "lead_median": ("lead, median", "hours"),
    "lead_q75": ("lead, upper quartile", "hours"),
}
_STATUS = {
    "ok": "score given",
    "invalid_input": "no score: the input is broken",
    "out_of_distribution": "no score: unlike what the model was validated on",
    "ambiguous": "score given, but it decides nothing: measure more",
}
_KINDS = {"age": "Age", "sex": "Sex", "unit": "Unit", "site": "Site"}


def write_sepsis_report(path: str | Path, record: Record) -> Path:
    """Writes the page in one step; missing folders are made.

    Args:
        path: the HTML file.
        record: ``run.json`` of a run of the task ``sepsis``.
    """
    context = build(record)
    return write_page(path, render_page("sepsis.html.j2", context, context.pop("figures")))


def build(record: Record) -> dict[str, Any]:
    """The context of the page's template; ``figures`` holds what scripts draw."""
    tables, deployed = record["tables"], str(record["deployed"]["method"])
    sequence: Rows = tables["sequence"]
    mine = next(entry for entry in sequence if entry["method"] == deployed)
    baseline = next((e["method"] for e in sequence if e["kind"] == "naive"), None)
    styles = model_styles([e["method"] for e in sequence], deployed, baseline)
    figures: dict[str, Any] = {
        "matrix": draw.heat_map(mine),
        "first_site": draw.first_site(sequence, styles),
        "calibration": draw.calibration(tables["calibration"]["bins"]),
        "decision_curve": draw.decision_curve(tables["decision_curve"]),
    }
    alarms = tables["alarms"]
    if tables["leads"]:
        figures["leads"] = draw.leads(tables["leads"], float(alarms["horizon"]))
    examples, own = [], alarms.get("thresholds", {})
    for example in tables["examples"]:
        name = example["name"].replace(" ", "_")
        figures[name] = draw.trajectory(
            example, float(own.get(example["site"], alarms["threshold"]))
        )
        examples.append({**_example(example), "figure": name})
    about = record.get("data") or {}
    return {
        "title": str(record.get("title") or "Early warning of sepsis"),
        "made": str(record.get("ended") or record.get("started") or ""),
        "styles": styles,
        "deployed": deployed,
        "model_version": str(record["deployed"]["version"]),
        "headline": _headline(record, mine, sequence),
        "must_not": list(MUST_NOT),
        "sites": mine["sites"],
        "sequence": [_method(entry, deployed) for entry in sequence],
        "matrix": _matrix(mine),
        "calibration": {
            "error": _around(tables["calibration"]["error"], 4),
            "slope": _recalibrated(tables["calibration"], "slope"),
            "intercept": _recalibrated(tables["calibration"], "intercept", sign=True),
            "hours": f"{tables['hours']['judged']:,}",
            "bins": [
                {"n": f"{b['n']:,}", "risk": percent(b["mean_probability"], 2),
                 "rate": percent(b["rate"], 2),
                 "around": f"{percent(b['lower'], 2)} to {percent(b['upper'], 2)}"}
                for b in tables["calibration"]["bins"]
            ],
            "offsets": [
                {"site": site, "value": fixed(value, 2, sign=True)}
                for site, value in mine["offsets"].items()
            ],
        },
        "ranking": [
            {"site": "all sites" if r["site"] == "all" else r["site"], "hours": r["hours"],
             "auroc": fixed(r["auroc"], 3), "around": _span(r["lower"], r["upper"], 3),
             "auprc": fixed(r["auprc"], 3), "rate": percent(r["rate"], 2)}
            for r in tables["ranking"]
        ],
        "curve": [
            {"threshold": percent(r["threshold"], 1), "benefit": fixed(r["net_benefit"], 5),
             "around": _span(r["lower"], r["upper"], 5), "all": fixed(r["all"], 5),
             "gain": fixed(r["gain"], 5, sign=True)}
            for r in tables["decision_curve"]
        ],
        "alarms": _alarms(alarms),
        "conventions": {"words": CONVENTIONS, "rows": [_convention(r) for r in
                                                       tables["conventions"]]},
        "abstentions": _abstentions(tables["abstentions"]),
        "equity": _equity(tables["equity"]),
        "thresholds_by_site": bool(own),
        "utility": {"words": UTILITY, "rows": [_utility(r) for r in tables["utility"]]},
        "checks": checks_section(tables.get("checks")),
        "horizon": f"{_horizon(record):g}",
        "examples": examples,
        "privacy": privacy_section(sequence),
        "notes": [note for entry in sequence for note in entry.get("notes", ())],
        "data": {
            **problems_section(about.get("notes") or (), first="series"),
            "facts": _facts(about),
        },
        "site_rows": [
            {"site": s["site"], **{k: f"{v:,}" for k, v in s.items() if k != "site"}}
            for s in about.get("sites", ())
        ],
        "repaired": [
            {"source": r["source"], "channel": r["channel"], "unit": r["unit"] or "as expected",
             **{k: f"{r[k]:,}" for k in ("kept", "unusual", "repaired", "invalid")}}
            for r in about.get("repaired", ()) if r["repaired"] or r["invalid"]
        ],
        "reproduce": reproduce_section(record),
        "figures": figures,
    }  # fmt: skip


def _horizon(record: Record) -> float:
    """Hours ahead within which the onset counts; runs from before do not tell it of their own."""
    told = record["tables"].get("horizon")
    return float(told or ((record.get("recipe") or {}).get("model") or {}).get("horizon", 4))


def _recalibrated(found: Record, name: str, sign: bool = False) -> str:
    """A figure of the logistic recalibration; runs from before have no interval of it."""
    text, around = fixed(found[name], 2, sign=sign), found.get(f"{name}_around")
    return text if around is None else f"{text} ({_span(around['lower'], around['upper'], 2)})"


def _headline(record: Record, mine: Record, sequence: Rows) -> dict[str, Any]:
    tables = record["tables"]
    gated = {r["metric"]: r for r in tables["alarms"]["gated"]}
    utility = tables["utility"][-1]
    alarms = tables["alarms"]
    sites = mine["sites"]
    sentences = [
        f"One model was trained at {count(len(sites), 'site')} one after the other "
        f"({listing(sites)}) and keeps {fixed(mine['auroc'][-1][0], 3)} AUROC at the first of "
        f"them (forgetting over all: {fixed(mine['forgetting'], 3)}).",
        f"Tuned to find {percent(record['recipe']['alarms']['target_sensitivity'])} of the septic "
        f"patients, it found {alarms['found']} of {alarms['septic']} patients that nothing was "
        f"learned from, {percent(gated['patient_sensitivity']['value'])}; "
        f"{percent(gated['ppv']['value'])} of its alarms were followed by an onset within "
        f"{alarms['horizon']:g} hours, {percent(1 - (gated['ppv']['value'] or 0))} were not.",
    ]
    if not alarms["feasible"]:
        sentences.append(
            f"No threshold met what was asked ({alarms['target']}): the policy is tuned to the "
            "share of patients found alone, and the rest of the request is not met."
        )
    clock = tables["utility"][0]
    verdict = "more" if utility["margin"] > 0 else "less"
    sentences.append(
        f"Its challenge utility is {fixed(utility['utility'], 3)}, {verdict} than the "
        f"{fixed(clock['utility'], 3)} of a mere clock by "
        f"{fixed(abs(utility['margin']), 3)} ({_span(utility['margin_lower'], utility['margin_upper'], 3)})."  # noqa: E501
    )
    status = tables["abstentions"]["status"]
    silent = [r for r in status if r["status"] in ("invalid_input", "out_of_distribution")]
    well, septic = (sum(r[k] or 0 for r in silent) for k in ("well", "septic"))
    sentences.append(
        f"It gave no score in {percent(well, 1)} of the hours of patients who were well and in "
        f"{percent(septic, 1)} of those that led to an onset."
    )
    warning = checks_warning(tables.get("checks"))
    if warning:
        sentences.append(warning)
    others = [e for e in sequence if e["kind"] == "naive"]
    if others and others[0]["method"] != mine["method"]:
        other = others[0]
        sentences.append(
            f"Plain fine-tuning ends at a mean AUROC of {fixed(other['final_mean'], 3)} and "
            f"forgets {fixed(other['forgetting'], 3)}; {mine['method']} ends at "
            f"{fixed(mine['final_mean'], 3)}."
        )
    tiles = [
        {
            "name": "Septic patients found in time",
            "value": percent(gated["patient_sensitivity"]["value"]),
            "note": _span(
                gated["patient_sensitivity"]["lower"], gated["patient_sensitivity"]["upper"], 2
            ),
        },
        {
            "name": "PPV of alarms",
            "value": percent(gated["ppv"]["value"]),
            "note": _span(gated["ppv"]["lower"], gated["ppv"]["upper"], 2),
        },
        {
            "name": "False alarms per patient-hour",
            "value": number(gated["false_alarms_per_patient_hour"]["value"], 2),
            "note": f"{number(gated['alarms_per_bed_day']['value'], 2)} alarms per bed-day in all",
        },
        {
            "name": "Utility over the clock",
            "value": fixed(utility["margin"], 3, sign=True),
            "note": f"{fixed(utility['utility'], 3)} beside {fixed(clock['utility'], 3)}",
        },
    ]
    return {"sentences": sentences, "tiles": tiles}


def _method(entry: Record, deployed: str) -> dict[str, Any]:
    def spread(key: str, places: int = 3, sign: bool = False) -> str:
        around = entry.get(f"{key}_spread")
        text = fixed(entry[key], places, sign=sign)
        return text if around is None else f"{text} ± {fixed(around, places)}"

    return {
        "method": entry["method"],
        "best": entry["method"] == deployed,
        "keeps": entry["keeps"],
        "at": [fixed(v, 3) for v in entry["auroc"][-1]],
        "final_mean": spread("final_mean"),
        "forgetting": spread("forgetting"),
        "backward": fixed(entry["backward_transfer"], 3, sign=True),
        "forward": fixed(entry["forward_transfer"], 3, sign=True),
        "ppv": percent(entry["ppv"][-1][0], 2),
        "specificity": percent(entry["specificity"][-1][0], 1),
        "seeds": entry["seeds"],
    }


def _matrix(entry: Record) -> list[dict[str, Any]]:
    return [
        {
            "trained_on": site,
            "at": [fixed(v, 3) for v in entry["auroc"][i]],
            "ppv": [percent(v, 2) for v in entry["ppv"][i]],
        }
        for i, site in enumerate(entry["sites"])
    ]


def _alarms(alarms: Record) -> dict[str, Any]:
    plain = {r["metric"]: r for r in alarms["ungated"]}
    rows = []
    for metric in alarms["gated"]:
        if metric["metric"] not in _METRICS:
            continue
        words, kind = _METRICS[metric["metric"]]
        other = plain[metric["metric"]]
        rows.append(
            {
                "name": words,
                "value": _as(metric["value"], kind),
                "around": f"{_as(metric['lower'], kind)} to {_as(metric['upper'], kind)}",
                "plain": _as(other["value"], kind),
                "plain_around": f"{_as(other['lower'], kind)} to {_as(other['upper'], kind)}",
            }
        )
    facts = [
        f"An alarm is true if the onset follows within {alarms['horizon']:g} hours. After an alarm "
        f"the stay is silent for {count(int(alarms['snooze']), 'hour')}. The threshold is "
        f"{number(alarms['threshold'], 3)}"
        + "".join(f", at {k} {number(v, 3)}" for k, v in alarms.get("thresholds", {}).items())
        + ".",
    ]
    # Older runs did not count all of them.
    told = [f"{alarms[k]:,} {words}" for k, words in APART.items() if alarms.get(k)]
    if told:
        facts.append("Counted apart: " + "; ".join(told) + ".")
    return {
        "rows": rows,
        "horizon": f"{alarms['horizon']:g}",
        "facts": facts,
        # Runs from before looked at one window.
        "windows": [_window(row) for row in alarms.get("windows", ())],
    }


def _window(row: Record) -> dict[str, Any]:
    kinds = {
        "patient_sensitivity": "share", "ppv": "share", "false_alarms_per_patient_hour": "rate",
        "lead_median": "hours",
    }  # fmt: skip
    shown = {}
    for name, kind in kinds.items():
        value, low, high = (_as(v, kind) for v in row[name])
        shown[name] = f"{value} ({low} to {high})"
    return {"hours": f"{row['hours']} h", **shown}


def _as(value: Any, kind: str) -> str:
    if value is None:
        return MISSING
    if kind == "share":
        return percent(value, 1)
    if kind == "hours":
        return f"{value:.0f} h"
    return fixed(value, 4) if kind == "rate" else number(value, 3)


def _convention(row: Record) -> dict[str, Any]:
    names = {
        "no gate": "no gate: every hour has a score",
        "excluded": "hours without a score are left out (as published)",
        "negative": "hours without a score count as no alarm (as lived)",
    }
    return {
        "name": names[row["convention"]],
        **{k: f"{row[k]:,}" for k in ("tp", "fp", "fn", "tn")},
        **{k: percent(row[k], 1) for k in ("sensitivity", "specificity", "ppv")},
        "patients": percent(row["patient_sensitivity"], 1),
        "auroc": fixed(row["auroc"], 3),
    }


def _abstentions(found: Record) -> dict[str, Any]:
    return {
        "status": [
            {"name": _STATUS[r["status"]], "hours": f"{r['hours']:,}",
             **{k: percent(r[k], 1) for k in ("share", "well", "septic", "after")}}
            for r in found["status"]
        ],
        "rules": [
            {"name": r["meaning"], "hours": f"{r['hours']:,}", "share": percent(r["share"], 2)}
            for r in found["rules"]
        ],
        "by_site": [
            {"site": r["site"], "at": [percent(r[k], 1) for k in _STATUS]}
            for r in found["by_site"]
        ],
        "names": ["score", "broken", "unlike", "ambiguous"],
    }  # fmt: skip


def _equity(rows: Rows) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        few = row["septic"] < 20
        shown: dict[str, Any] = {
            "kind": _KINDS.get(row["kind"], row["kind"]), "group": row["group"],
            "stays": f"{row['stays']:,}", "septic": f"{row['septic']:,}", "few": few,
            "abstained": percent(row["abstained"], 1),
        }  # fmt: skip
        for key, places in (("patient_sensitivity", 0), ("ppv", 0)):
            value, low, high = row[key]
            shown[key] = percent(value, places)
            shown[f"{key}_around"] = f"{percent(low, places)} to {percent(high, places)}"
        value, low, high = row["false_alarms_per_patient_hour"]
        shown["faph"], shown["faph_around"] = fixed(value, 4), _span(low, high, 4)
        found.append(shown)
    return found


def _utility(row: Record) -> dict[str, Any]:
    clock = row["method"].startswith("clock")
    return {
        "name": row["method"],
        "utility": fixed(row["utility"], 3),
        "around": _span(row["lower"], row["upper"], 3),
        "margin": MISSING if clock else fixed(row["margin"], 3, sign=True),
        "margin_around": "" if clock else _span(row["margin_lower"], row["margin_upper"], 3),
        "worse": not clock and row["margin"] <= 0,
    }


def _example(example: Record) -> dict[str, Any]:
    true = example["kind"] == "true"
    age = MISSING if example["age"] is None else f"{min(example['age'], 90):.0f} years"
    reasons: list[str] = []
    for hour in example["silent"]:
        reasons += [r for r in hour["reasons"] if r not in reasons]
    return {
        "title": f"{'A true alarm' if true else 'A false alarm'}, {example['site']}",
        "about": f"{age}, {example['sex']}; alarm at hour {example['alarm_hour']} with a risk of "
        f"{percent(example['alarm_score'], 1)}"
        + (
            f", {example['onset'] - example['alarm_hour']:.0f} hours before the onset."
            if true
            else "; no onset was recorded."
        ),
        "silent": f"{count(len(example['silent']), 'hour')} without a score: "
        + "; ".join(reasons[:3])
        if example["silent"]
        else "",
        "drivers": [
            {
                "words": d["words"],
                **_driver_value(d),
                "moved": fixed(d["contribution"], 2, sign=True),
            }
            for d in example["drivers"]
        ],
    }


def _driver_value(driver: Record) -> dict[str, str]:
    """A flag is yes or no, and of what was never measured no hours have passed."""
    value, words = driver["value"], str(driver["words"])
    if words.startswith(("whether ", "unit: ")) and value in (0, 1):
        return {"value": "yes" if value else "no", "unit": ""}
    if words.startswith("hours since "):
        return {"value": "never", "unit": ""} if value is None else {
            "value": f"{value:.3g}", "unit": "h"}  # fmt: skip
    return {"value": MISSING if value is None else number(value, 3), "unit": driver["unit"] or ""}


def _facts(about: Record) -> dict[str, str]:
    facts = {
        "source": about.get("source"),
        "stays": f"{about.get('stays', 0):,}",
        "hours": f"{about.get('hours', 0):,}",
        "stays with an onset": f"{about.get('septic', 0):,}",
    }
    return {k: str(v) for k, v in facts.items() if v}


def _around(found: Record, places: int) -> str:
    return f"{fixed(found['estimate'], places)} ({_span(found['lower'], found['upper'], places)})"


def _span(low: Any, high: Any, places: int) -> str:
    if low is None or high is None:
        return MISSING
    return f"{fixed(low, places)} to {fixed(high, places)}"
