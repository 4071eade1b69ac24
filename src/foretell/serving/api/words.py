"""What texts requests may hold, said so that the description of the service says it, too.

No text that is kept may hold NUL: PostgreSQL cannot keep it. JSON can also spell half characters,
which no store can keep; pydantic refuses them wherever a text has a length or a pattern.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, Field

# What Python strips as white space: a reason of such alone is none.
_BLANK = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WHOLE = r"^[^\u0000]*$"
"""Pattern of a text without NUL."""

TOLD = rf"^[^\u0000]*[^\u0000{_BLANK}][^\u0000]*$"
"""Pattern of a text without NUL that says something."""

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=WHOLE)]
Reason = Annotated[str, Field(min_length=3, max_length=500, pattern=TOLD)]
NameQuery = Annotated[str, Query(min_length=1, max_length=200, pattern=WHOLE)]
MaybeQuery = Annotated[str | None, Query(max_length=200, pattern=WHOLE)]
After = Annotated[
    int, Query(ge=0, le=2**62, description="number of the last one that is known already")
]
Anchor = Annotated[
    str, Query(max_length=64, description="hash that the last row must have, as it was noted")
]
NamePath = Annotated[str, Path(max_length=200, pattern=WHOLE)]


class Wrong(BaseModel):
    """One thing that is wrong with a request: where, the kind of problem, and what is allowed."""

    where: str
    problem: str
    allowed: str | None = None


class Refused(BaseModel):
    """Why a request is not taken; what was sent is not repeated."""

    detail: str | list[Wrong]
