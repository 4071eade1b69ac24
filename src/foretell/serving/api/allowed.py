"""What a request may hold, in words that the service's own description gives.

Nothing of what was sent is in them: names that the description does not know are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretell.serving.api.words import TOLD, WHOLE

_PATTERNS = {WHOLE: "", TOLD: ", not blank"}
_NAMES = {"integer": "a whole number", "number": "a number"}
_NOTHING: Mapping[str, Any] = {}


class Allowed:
    """Looks up in a description of OpenAPI what is allowed in a place of a request.

    Args:
        described: the whole description.
        path: of the operation, as it is described.
        method: of it, in small letters.
    """

    def __init__(self, described: Mapping[str, Any], path: str, method: str) -> None:
        self._schemas = described.get("components", _NOTHING).get("schemas", _NOTHING)
        operation = described.get("paths", _NOTHING).get(path, _NOTHING).get(method, _NOTHING)
        content = operation.get("requestBody", _NOTHING).get("content", _NOTHING)
        self._body = content.get("application/json", _NOTHING).get("schema", _NOTHING)
        self._parameters = {
            (p["in"], p["name"]): p.get("schema", _NOTHING) for p in operation.get("parameters", ())
        }

    def at(self, place: Sequence[Any]) -> tuple[str, str | None]:
        """The part of a place that is described, and what is allowed there, None if not known.

        Args:
            place: as pydantic tells it: ``("body", "events", 3, "code")``.
        """
        if not place or place[0] != "body":
            found = self._parameters.get(tuple(place[:2]))
            names = [str(p) for p in place[:2]] if found is not None else place[:1]
            return ".".join(map(str, names)), None if found is None else self._words(found)
        known, schema = ["body"], self._body
        for part in place[1:]:
            below = self._below(schema, part)
            if below is None:
                break
            known.append(str(part))
            schema = below
        return ".".join(known), self._words(schema)

    def _deref(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self._schemas.get(schema["$ref"].rpartition("/")[2], _NOTHING)
        return schema

    def _below(self, schema: Mapping[str, Any], part: Any) -> Mapping[str, Any] | None:
        """What is described under a name, a number of a list, or a kind of several."""
        schema = self._deref(schema)
        if isinstance(part, int):
            items: Mapping[str, Any] | None = schema.get("items")
            return items
        if part in schema.get("properties", _NOTHING):
            found: Mapping[str, Any] = schema["properties"][part]
            return found
        mapping = schema.get("discriminator", _NOTHING).get("mapping", _NOTHING)
        if part in mapping:
            return {"$ref": mapping[part]}
        several = _several(schema)
        for one in several:
            if one.get("$ref", "").rpartition("/")[2] == part:
                return one
        return next((f for f in (self._below(one, part) for one in several) if f is not None), None)

    def _words(self, schema: Mapping[str, Any]) -> str | None:
        schema = self._deref(schema)
        if (told := schema.get("discriminator")) is not None:
            return f"{told['propertyName']}: one of {_list(list(told['mapping']))}"
        if several := _several(schema):
            told = [self._words(one) for one in several if one.get("type") != "null"]
            return " or ".join(t for t in told if t) or None
        if "enum" in schema or "const" in schema:
            codes = schema.get("enum", [schema.get("const")])
            return ", ".join(map(str, codes)) if len(codes) == 1 else f"one of {_list(codes)}"
        kind = schema.get("type")
        if kind in _NAMES:
            least, most = schema.get("minimum"), schema.get("maximum")
            return _NAMES[kind] + _range(least, most)
        if kind == "string":
            pattern = schema.get("pattern")
            shown = _PATTERNS.get(pattern, f", as {pattern}") if pattern else ""
            size = _range(schema.get("minLength"), schema.get("maxLength"))
            return f"a text{' of' + size + ' characters' if size else ''}{shown}"
        if kind == "array":
            size = _range(schema.get("minItems"), schema.get("maxItems"))
            return f"a list{' of' + size if size else ''}"
        if kind == "object" and "properties" in schema:
            needed = schema.get("required", ())
            fields = [f"{n} (needed)" if n in needed else n for n in schema["properties"]]
            return f"the fields {_list(fields)}"
        return {"boolean": "true or false", "object": "an object"}.get(str(kind))


def _several(schema: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    # Beside fields of its own ``anyOf`` only says which of them go together.
    if "properties" in schema:
        return ()
    found: Sequence[Mapping[str, Any]] = schema.get("anyOf") or schema.get("oneOf") or ()
    return found


def _list(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names))


def _range(least: float | None, most: float | None) -> str:
    def told(value: float) -> str:
        return f"{value:.0f}" if float(value).is_integer() else str(value)

    if least is not None and most is not None:
        return f" {told(least)} to {told(most)}"
    if least is not None:
        return f" {told(least)} or more"
    return "" if most is None else f" at most {told(most)}"
