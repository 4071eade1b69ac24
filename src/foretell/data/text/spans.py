"""Spans of tagged tokens, read as CoNLL's evaluation script reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Tagged(NamedTuple):
    """A span of tokens.

    Attributes:
        kind: what it is (``"artist"``).
        begin: its first token.
        end: one after its last token.
    """

    kind: str
    begin: int
    end: int


def spans_of(tags: Sequence[str]) -> list[Tagged]:
    """Spans of one utterance's tags ``O``, ``B-kind`` and ``I-kind``.

    ``I-kind`` goes on with a span of the same kind and begins one otherwise, as in ``conlleval``
    (Tjong Kim Sang and De Meulder 2003).

    Raises:
        ValueError: a tag of another form.
    """
    found: list[Tagged] = []
    kind, begin = "", 0
    for position, tag in enumerate(tags):
        prefix, _, own = tag.partition("-")
        if tag != "O" and (prefix not in ("B", "I") or not own):
            raise ValueError(f"tag {tag!r} at token {position} is not O, B-kind or I-kind")
        if prefix == "I" and own == kind:
            continue
        if kind:
            found.append(Tagged(kind, begin, position))
        kind, begin = own, position
    if kind:
        found.append(Tagged(kind, begin, len(tags)))
    return found


def repair_tags(tags: Sequence[str]) -> list[str]:
    """Tags in which every span begins with ``B-``: of a cut-out piece, or of a model.

    ``I-kind`` that goes on with nothing becomes ``B-kind``; the spans stay what they are.
    """
    repaired: list[str] = []
    before = ""
    for tag in tags:
        kind = tag[2:]
        repaired.append(f"B-{kind}" if tag.startswith("I-") and kind != before else tag)
        before = kind
    return repaired
