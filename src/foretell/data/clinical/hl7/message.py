"""HL7 v2 messages as segments and fields (HL7 v2.5.1, chapter 2), tolerant of what feeds send."""

from __future__ import annotations

import re

from foretell.errors import DataError

_CHARSETS = {
    "": "utf-8",
    "ASCII": "utf-8",
    "UTF-8": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UNICODE": "utf-16",
    "UNICODE UTF-16": "utf-16",
    "UNICODE UTF-32": "utf-32",
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc_kr",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "ISO IR14": "shift_jis",
    **{f"8859/{n}": f"iso8859-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "CP1252": "cp1252",
    "WINDOWS-1252": "cp1252",
}
_BREAKS = re.compile(r"\r\n|\r|\n")
# Any sign but those that numbers, times, nulls and names of character sets are made of.
_DELIMITERS = frozenset("!#$%&'()*,:;<=>?@[\\]^`{|}~")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
MAX_SEGMENTS = 20_000


class Hl7Error(DataError):
    """A message that cannot be taken.

    Args:
        problem: in words that hold nothing of the message's content.
        code: of HL7 table 0357 (100 sequence, 101 field missing, 102 data type, 200 message type,
            201 event, 203 version, 207 internal).
        where: segment and field, such as ``"OBX-3"``.
        reject: whether the message itself is refused (AR), not its content (AE).
    """

    def __init__(
        self, problem: str, *, code: int = 100, where: str = "", reject: bool = False
    ) -> None:
        super().__init__(problem, column=where or None)
        self.code, self.where, self.reject = code, where, reject

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.problem, self.code, self.where, self.reject))


def _rebuild(problem: str, code: int, where: str, reject: bool) -> Hl7Error:
    return Hl7Error(problem, code=code, where=where, reject=reject)


class Message:
    """A parsed message.

    Attributes:
        segments: (name, fields) in order; ``fields[n]`` is field n as it was sent (MSH-1 is the
            separator itself).
    """

    __slots__ = ("_escape", "component", "field", "repetition", "segments", "sub")

    def __init__(self, text: str) -> None:
        text = text.lstrip("\ufeff \t\r\n")
        if not text.startswith("MSH") or len(text) < 8:
            raise Hl7Error("the message does not begin with MSH", code=100, where="MSH")
        self.field = text[3]
        marks = _BREAKS.split(text[4:].partition(self.field)[0], maxsplit=1)[0]
        marks = (marks + "^~\\&"[len(marks) :])[:5]
        self.component: str = marks[0]
        self.repetition: str = marks[1]
        self._escape: str = marks[2]
        self.sub: str = marks[3]
        delimiters = self.field + marks[:4]
        if len(set(delimiters)) != 5 or not _DELIMITERS.issuperset(delimiters):
            raise Hl7Error("the delimiters of MSH-1 and MSH-2 are not usable", where="MSH-2")
        self.segments: list[tuple[str, list[str]]] = []
        for line in _BREAKS.split(text):
            if not line.strip("\x00 \t"):
                continue
            parts = line.split(self.field)
            name = parts[0]
            if not _SEGMENT.fullmatch(name):
                raise Hl7Error("a line is no segment", where=f"line {len(self.segments) + 1}")
            if name == "MSH":
                if self.segments:
                    raise Hl7Error("a second MSH stands within one message", where="MSH")
                parts.insert(1, self.field)
            self.segments.append((name, parts))
            if len(self.segments) > MAX_SEGMENTS:
                raise Hl7Error("the message has too many segments", code=207)

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """A message in the character set that its MSH-18 names; UTF-8 where it names none.

        Raises:
            Hl7Error: it is no message, or its text cannot be decoded.
        """
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            charset = "utf-16"
        elif data[:4:2] == b"MS" and data[1:2] == b"\x00":
            charset = "utf-16-le"
        elif data[1:4:2] == b"MS" and data[:1] == b"\x00":
            charset = "utf-16-be"
        else:
            head = data.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\r", 1)[0].split(b"\n", 1)[0]
            named = ""
            if head[:3] == b"MSH" and len(head) > 8:
                fields = head.split(head[3:4])
                if len(fields) > 17:
                    first = fields[17].split(head[5:6], 1)[0] if head[5:6] else fields[17]
                    named = first.decode("latin-1").strip().upper()
            if named not in _CHARSETS:
                raise Hl7Error(
                    "the character set is not known", code=102, where="MSH-18", reject=True
                )
            charset = _CHARSETS[named]
        try:
            return cls(data.decode(charset))
        except UnicodeError:
            raise Hl7Error("the text does not fit its character set", code=102) from None

    def get(self, segment: str) -> list[str]:
        """The fields of the first segment of a name; an empty list where there is none."""
        for name, fields in self.segments:
            if name == segment:
                return fields
        return []

    def part(self, fields: list[str], number: int, component: int = 1, repeat: int = 0) -> str:
        """A component of a field, unescaped; ``""`` where it is absent or the explicit null."""
        if number >= len(fields):
            return ""
        text = fields[number]
        if not text or text == '""':
            return ""
        if self.repetition in text:
            repeats = text.split(self.repetition)
            text = repeats[repeat] if repeat < len(repeats) else ""
        elif repeat:
            return ""
        if self.component in text:
            components = text.split(self.component)
            text = components[component - 1] if component <= len(components) else ""
        elif component > 1:
            return ""
        text = text.partition(self.sub)[0]
        if text == '""':
            return ""
        return self.unescape(text).strip() if self._escape in text else text.strip()

    def repeats(self, fields: list[str], number: int) -> int:
        """How often a field is repeated."""
        return fields[number].count(self.repetition) + 1 if number < len(fields) else 0

    def unescape(self, text: str) -> str:
        r"""Text without escape sequences (\F\ \S\ \T\ \R\ \E\ \Xhh\); others are dropped."""
        known = {"F": self.field, "S": self.component, "T": self.sub}
        known |= {"R": self.repetition, "E": self._escape}
        pieces = text.split(self._escape)
        out = [pieces[0]]
        for i, piece in enumerate(pieces[1:], 1):
            if i % 2 == 0 or i == len(pieces) - 1:
                out.append(piece)
            elif piece in known:
                out.append(known[piece])
            elif piece[:1] == "X":
                try:
                    raw = bytes.fromhex(piece[1:]).decode("utf-8", "replace")
                    out.append("".join(c for c in raw if c >= " "))
                except ValueError:
                    continue
        return "".join(out)

    @property
    def kind(self) -> tuple[str, str]:
        """Message type and trigger event of MSH-9: ``("ORU", "R01")``."""
        head = self.get("MSH")
        return self.part(head, 9, 1).upper(), self.part(head, 9, 2).upper()

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return self.part(self.get("MSH"), 10)

    @property
    def sender(self) -> tuple[str, str]:
        """Sending application and facility, MSH-3 and MSH-4."""
        head = self.get("MSH")
        return self.part(head, 3), self.part(head, 4)
