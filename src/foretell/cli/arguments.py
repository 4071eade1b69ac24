"""Help of arguments, which is lost where typer is older than the click beside it."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from click import Command, Context
from typer.core import TyperGroup
from typer.models import ParameterInfo


class Group(TyperGroup):
    """A group whose commands say what their arguments are.

    Since click 8.5 an argument has a help text of its own, and the one that typer 0.20 gave it
    before is overwritten with none; Flower asks for typer below 0.21.
    """

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The command of that name, with the help of its arguments."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.callback is not None:
            told = _told(inspect.unwrap(command.callback))
            for parameter in command.params:
                if getattr(parameter, "help", "") is None and parameter.name in told:
                    parameter.help = told[parameter.name]  # type: ignore[attr-defined]
        return command


def _told(function: Any) -> dict[str, str]:
    """Help texts by parameter, from the annotations."""
    found = {}
    for name, hint in get_type_hints(function, include_extras=True).items():
        if get_origin(hint) is Annotated:
            for note in get_args(hint)[1:]:
                if isinstance(note, ParameterInfo) and note.help:
                    found[name] = note.help
    return found
