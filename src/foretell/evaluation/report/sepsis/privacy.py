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
            performed = bool(audit.get("performed"))
            rows.append(
                {
                    "method": entry["method"],
                    "site": site,
                    "release": f"noise of {entry['release']:g} standard deviations"
                    if entry["release"]
                    else "no noise",
                    "figures": _figures(audit),
                    "verdict": ("must not leave" if audit.get("reason") else "not audited")
                    if not performed
                    else ("may leave" if audit.get("passed") else "must not leave"),
                    "bad": not performed or not audit.get("passed"),
                    "reason": ". ".join(str(audit[k]) for k in _WORDS if audit.get(k)),
                }
            )
    if not rows:
        return None
    names = list(dict.fromkeys(n for row in rows for n in row["figures"]))
    for row in rows:
        row["at"] = [row["figures"].get(n, MISSING) for n in names]
    return {"words": REPRESENTATIONS, "names": names, "rows": rows}


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
    return found
