"""What leaves a site, and what could be read off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretell.evaluation.report.sepsis.words import REPRESENTATIONS
from foretell.evaluation.report.words import MISSING, fixed

_WORDS = ("reason", "remedy")


def privacy_section(sequence: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One row a method and site with a bundle; None where no method makes one."""
    rows = []
    for entry in sequence:
        for site, audit in (entry.get("audits") or {}).items():
            performed, passed = bool(audit.get("performed")), bool(audit.get("passed"))
            secret = entry.get("noise_seed") is None
            rows.append(
                {
                    "method": entry["method"],
                    "site": site,
                    "release": f"noise of {entry['release']:g} standard deviations"
                    if entry["release"]
                    else "no noise",
                    "figures": _figures(audit),
                    "verdict": _verdict(audit, secret),
                    "bad": not (performed and passed and secret),
                    "reason": ". ".join(str(audit[k]) for k in _WORDS if audit.get(k)),
                }
            )
    if not rows:
        return None
    names = list(dict.fromkeys(n for row in rows for n in row["figures"]))
    for row in rows:
        row["at"] = [row["figures"].get(n, MISSING) for n in names]
    return {"words": REPRESENTATIONS, "names": names, "rows": rows}


def _verdict(audit: Mapping[str, Any], secret: bool) -> str:
    if not audit.get("performed"):
        return "must not leave" if audit.get("reason") else "not audited"
    if not audit.get("passed"):
        return "must not leave"
    return "may leave" if secret else "for judging only"


def _figures(audit: Mapping[str, Any]) -> dict[str, str]:
    """What the attacks found, by the name of a column."""
    best = (audit.get("inversion") or {}).get("best") or {}
    found = {f"R² of {name}": fixed(value, 2) for name, value in best.items()}
    named = {
        "linkage": "linked to its patient",
        "linkage_by_chance": "by chance",
        "membership_auc": "membership AUC",
    }
    found |= {words: fixed(audit[k], 3) for k, words in named.items() if audit.get(k) is not None}
    of_patients = audit.get("of_patients") or {}
    if of_patients.get("vector") is not None:
        found["found by all their hours"] = fixed(of_patients["vector"], 3)
    return found
