"""Objects from the tables of a recipe."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from foretell.errors import ForetellError, RecipeError
from foretell.runs.section import nearest


def parameters_of(kind: Callable[..., Any], without: Sequence[str] = ()) -> list[str]:
    """Names of the arguments that a recipe may set."""
    return [name for name in inspect.signature(kind).parameters if name not in without]


def check_keys(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Checks the keys of a section.

    Raises:
        RecipeError: one is not known; names the nearest.
    """
    for key in given:
        if key not in known:
            raise RecipeError(f"{where} has no key {key!r}" + nearest(key, known))


def check_type(place: str, hint: Any, value: Any) -> None:
    """Refuses plain values of a wrong type; tables are the class's own to judge.

    Raises:
        RecipeError: names the place and the types that are right.
    """
    if hint is None or isinstance(value, dict):
        return
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True))
    except (PydanticSchemaGenerationError, TypeError):  # an object, or a type with its own setup
        return
    try:
        adapter.validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        problems = list(dict.fromkeys(e["msg"] for e in error.errors()))
        raise RecipeError(f"{place}: {' or '.join(problems)}, not {value!r}") from None


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """Types of a class's arguments, as far as they can be resolved."""
    try:
        return get_type_hints(kind.__init__)
    except (NameError, TypeError):  # a type that is imported for checkers only
        return {}


def check_arguments(
    where: str, function: Callable[..., Any], given: Mapping[str, Any], without: Sequence[str] = ()
) -> None:
    """Checks what a section gives to a function: its names, and the types of plain values.

    Raises:
        RecipeError: one is not known or of a wrong type.
    """
    check_keys(where, given, parameters_of(function, without))
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):  # a type that is imported for checkers only
        return
    for key, value in given.items():
        check_type(f"{where}.{key}", hints.get(key), value)


def make(where: str, kind: Callable[..., Any], given: Mapping[str, Any], **own: Any) -> Any:
    """An object of a class, from what a recipe's section gives and what the run sets itself.

    Args:
        where: the section, for messages.
        kind: the class.
        given: keys of the section.
        own: arguments that the run sets; those that the class does not have are left out.

    Raises:
        RecipeError: a key is not known, or the class refuses a value.
    """
    known = parameters_of(kind)
    settable = [name for name in known if name not in own]
    check_keys(where, given, settable)
    for key, value in given.items():
        check_type(f"{where}.{key}", hints_of(kind).get(key), value)
    kept = {name: value for name, value in own.items() if name in known}
    try:
        return kind(**{**given, **kept})
    except (TypeError, ValueError, ForetellError) as error:
        kind_of = "" if isinstance(error, ForetellError) else f"{type(error).__name__}: "
        raise RecipeError(f"{where}: {kind_of}{error}") from error
