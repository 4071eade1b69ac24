"""Which answers a stream of HL7 v2 messages asks for, told without the code that gives them.

A message may stay unanswered only where it asks for that: HL7 table 0155 in MSH-15 and MSH-16,
``NE`` always, ``ER`` of a message that is taken, ``SU`` of one that is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from foretell.data.clinical.hl7 import Hl7Error, Message

_TABLE = {
    "AL": (True, True), "NE": (False, False), "ER": (False, True), "SU": (True, False),
    "": (False, False),
}  # fmt: skip


def contents_of(stream: bytes) -> list[bytes]:
    """What stands in the frames of a whole stream; of frames within frames the innermost."""
    parts = stream.split(b"\x1c\r")[:-1]
    return [part.rpartition(b"\x0b")[2] for part in parts if b"\x0b" in part]


def asked(message: Message | None) -> tuple[str, str]:
    """MSH-15 and MSH-16, empty in original mode: without them, or where either is none of 0155."""
    if message is None:
        return "", ""
    head = message.get("MSH")
    accept, application = message.part(head, 15).upper(), message.part(head, 16).upper()
    known = accept in _TABLE and application in _TABLE
    return (accept, application) if known else ("", "")


def expected(message: Message | None, good: bool) -> tuple[str, ...]:
    """The answers by their first letters, ``A`` and ``C``, to what is taken or refused."""
    accept, application = asked(message)
    if not (accept or application):
        return ("A",)
    row = 0 if good else 1
    return ("C",) * _TABLE[accept][row] + ("A",) * _TABLE[application][row]


def match(contents: Sequence[bytes], letters: Sequence[str]) -> tuple[Counter[str], int | None]:
    """Whether answers in order can be those to messages in order.

    Args:
        contents: of the frames.
        letters: of the answers, such as ``"AA"``.

    Returns:
        How many messages stayed unanswered, by what they asked for; and the first message to which
        the answers do not fit, None where all do.
    """
    # Of a message that was refused or taken nothing is said but by its answers: all ways in which
    # they can be told apart are followed.
    ways: dict[int, Counter[str]] = {0: Counter()}
    for number, content in enumerate(contents):
        try:
            message: Message | None = Message.from_bytes(content)
        except Hl7Error:
            message = None
        after: dict[int, Counter[str]] = {}
        for at, silent in ways.items():
            for good in (True, False) if message is not None else (False,):
                wanted = expected(message, good)
                given = letters[at : at + len(wanted)]
                fits = len(given) == len(wanted) and all(
                    g[0] == w and (g[1] == "A") == good for g, w in zip(given, wanted, strict=True)
                )
                if fits and at + len(wanted) not in after:
                    told = silent.copy()
                    if not wanted:
                        told["MSH-15 {} MSH-16 {}".format(*(a or "-" for a in asked(message)))] += 1
                    after[at + len(wanted)] = told
        if not after:
            return Counter(), number
        ways = after
    if len(letters) not in ways:
        return Counter(), len(contents)
    return ways[len(letters)], None
