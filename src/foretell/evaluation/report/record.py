"""What every page says of a run: the problems of its data, and how to have its numbers again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from foretell.evaluation.report.toml import to_toml
from foretell.evaluation.report.words import count, number, seconds

_MOST_NOTES = 100


def problems_section(notes: Iterable[Any], first: str) -> dict[str, Any]:
    """What was wrong with the data.

    Args:
        notes: as they stand in ``run.json`` (``kind, message, count`` and a place), as text, or as
            the objects that a panel or a log keeps.
        first: key of a note's place: the first series or the first row concerned.
    """
    found = _notes(notes, first)
    problems = sum(n["count"] for n in found)
    sentence = (
        "No problem was found in the data."
        if not found
        else f"{count(len(found), 'kind')} of problem {'was' if len(found) == 1 else 'were'} found "
        f"and dealt with as the table says ({count(problems, 'case')} in all)."
    )
    return {
        "sentence": sentence,
        "notes": [{**n, "count": f"{n['count']:,}"} for n in found[:_MOST_NOTES]],
        "more_notes": max(0, len(found) - _MOST_NOTES),
        "first": first,
    }


def _notes(given: Iterable[Any], first: str) -> list[dict[str, Any]]:
    found = []
    for note in given:
        if isinstance(note, Mapping):
            kind, message = note.get("kind", ""), note.get("message", "")
            number_of, place = note.get("count", 1), note.get(first)
        elif isinstance(note, str):
            kind, message, number_of, place = "", note, 1, None
        else:
            kind, message = getattr(note, "kind", ""), getattr(note, "message", str(note))
            number_of, place = getattr(note, "count", 1), getattr(note, first, None)
        found.append(
            {
                "kind": str(kind).replace("_", " "),
                "message": str(message),
                "count": int(number_of or 0),
                "place": "" if place is None else str(place),
            }
        )
    return sorted(found, key=lambda n: -n["count"])


def reproduce_section(run: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to have the same numbers again."""
    command = run.get("command")
    if isinstance(command, list | tuple):
        command = " ".join(str(part) for part in command)
    recipe = run.get("recipe")
    seeds = run.get("seeds", run.get("seed"))
    fingerprint = (run.get("data") or {}).get("fingerprint")
    versions = run.get("versions") or {}
    return {
        "command": str(command) if command else "",
        "recipe": to_toml(recipe) if isinstance(recipe, Mapping) else str(recipe or ""),
        "fingerprint": str(fingerprint) if fingerprint else "",
        "seeds": ", ".join(map(str, seeds))
        if isinstance(seeds, list | tuple)
        else str("" if seeds is None else seeds),
        "versions": {str(k): str(v) for k, v in versions.items()},
        "timings": _timings(run.get("timings") or {}),
    }


def _timings(timings: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Durations in seconds, nested ones under joined names."""
    found: dict[str, str] = {}
    for key, value in timings.items():
        name = f"{path} {key}".strip().replace("_", " ").removeprefix("stages ")
        if isinstance(value, Mapping):
            found |= _timings(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name.removesuffix(" seconds")] = (
                seconds(value) if "bytes" not in name and "memory" not in name else number(value, 4)
            )
    return found
