"""What the recipes of all tasks share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from foretell.errors import RecipeError

Name = Annotated[str, Field(pattern=r"^\w[\w .+-]*$")]
"""Names of models and protocols, which also name folders."""


class Section(BaseModel):
    """A table of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class BaseRecipe(Section):
    """What every recipe has, whatever its task."""

    closed: ClassVar[tuple[str, ...]] = ()
    """Tables of named sections to which ``--set`` adds no name: a new one is a misspelt one."""

    task: str
    title: str = ""
    description: str = ""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    threads: int | None = Field(default=1, ge=1)

    @classmethod
    def with_source(cls, data: Mapping[str, Any], source: str) -> dict[str, Any]:
        """The data section when another source takes the place of the recipe's own."""
        return {"source": source}

    def only(self, names: Sequence[str]) -> Self:
        """The recipe with the named models only.

        Raises:
            RecipeError: it has no such model.
        """
        raise RecipeError(f"recipes of the task {self.task!r} have no models to choose from")


def nearest(name: str | None, known: Iterable[str]) -> str:
    """The end of an error message: the known name that is most like a wrong one, or all."""
    known = list(known)
    close = difflib.get_close_matches(name or "", known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""
