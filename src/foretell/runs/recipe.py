"""Reading recipes: small TOML files that say what a run does, checked before anything is loaded."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from foretell.errors import RecipeError
from foretell.runs import tasks
from foretell.runs.section import BaseRecipe, nearest

_SHIPPED = resources.files("foretell.runs") / "recipes"
DEFAULT_TASK = "demand"


def shipped() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(
        f.name.removesuffix(".toml") for f in _SHIPPED.iterdir() if f.name[-5:] == ".toml"
    )


def load(
    source: str | Path, *, data: str | None = None, settings: Iterable[str] = ()
) -> BaseRecipe:
    """Reads a shipped recipe by name or a TOML file, with changes.

    Args:
        source: ``"demand"``, ``"offers"``, ... or a path.
        data: replaces the data's source; what the recipe said of columns and options is dropped,
            and so are its title and description; what belongs to the question rather than to the
            data (the horizon of a forecast) stays.
        settings: ``key=value`` with dotted keys and TOML values, e.g.
            ``models.mq_cnn.max_steps=200``; a value that is no TOML is taken as text.

    Raises:
        RecipeError: the file cannot be read, or a key is unknown (names the nearest one) or has a
            wrong value.
    """
    document = _read(source)
    kind = tasks.find(document.get("task", DEFAULT_TASK)).recipe
    if data is not None:
        document["data"] = kind.with_source(document.get("data", {}), data)
        for key in ("title", "description"):  # they speak of other data
            document.pop(key, None)
    for setting in settings:
        _apply(document, setting, kind)
    return parse(document, where=str(source))


def parse(document: Mapping[str, Any], where: str = "recipe") -> BaseRecipe:
    """A recipe from plain values; one without a ``task`` is about demand.

    Raises:
        RecipeError: see :func:`load`.
    """
    kind = tasks.find(document.get("task", DEFAULT_TASK)).recipe
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(_explain(dict(e), document, kind) for e in error.errors())
        raise RecipeError(f"{where}: {problems}") from None


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix != ".toml" and str(source) in shipped():
        return tomllib.loads((_SHIPPED / f"{source}.toml").read_text(encoding="utf-8"))
    if not path.is_file():
        names = shipped()
        raise RecipeError(
            f"there is no recipe {str(source)!r}{nearest(str(source), names)}; "
            f"shipped are {', '.join(names)}, or give the path of a .toml file"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not readable as TOML: {error}") from None


def _apply(document: dict[str, Any], setting: str, kind: type[BaseRecipe]) -> None:
    key, found, text = setting.partition("=")
    if not found or not key.strip():
        raise RecipeError(f"--set needs key=value, not {setting!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    if len(parents) > 1 and parents[0] in kind.closed and parents[0] in document:
        present = document[parents[0]]
        if parents[1] not in present:
            raise RecipeError(
                f"--set {setting}: there is no {parents[0].removesuffix('s')} {parents[1]!r}"
                + nearest(parents[1], present)
            )
    place = document
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise RecipeError(f"--set {setting}: {parent!r} is a value, not a section")
    place[last] = value


def _explain(error: dict[str, Any], document: Mapping[str, Any], kind: type[BaseRecipe]) -> str:
    place = [str(p) for p in error["loc"]]
    if error["type"] == "missing" and len(place) == 3 and place[-1] == "kind":
        table, name = place[:2]
        others = [
            other
            for other, section in document[table].items()
            if other != name and isinstance(section, Mapping) and "kind" in section
        ]
        return f"{table}.{name} has no kind" + nearest(name, others)
    if error["type"] == "extra_forbidden":
        section: Any = kind
        for part in place[:-1]:
            section = _inner(section, part)
        known = list(section.model_fields) if hasattr(section, "model_fields") else []
        inside = f" in [{'.'.join(place[:-1])}]" if place[:-1] else ""
        return f"unknown key {place[-1]!r}{inside}" + nearest(place[-1], known)
    message = error["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}: {message}" if place else message


def _inner(section: Any, part: str) -> Any:
    """The class of a section's field; for tables of sections the class of their entries."""
    fields = getattr(section, "model_fields", {})
    if part not in fields:
        return section
    annotation = fields[part].annotation
    options = [annotation, *getattr(annotation, "__args__", ())]
    classes = [o for o in options if inspect.isclass(o) and issubclass(o, BaseModel)]
    return classes[-1] if classes else section
