"""Keyed names of patients, and the keys they are made with."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foretell.errors import DataError

_NAME = re.compile(r"[a-z0-9]{1,12}")
_CODE = re.compile(r"([a-z0-9]{1,12})-([0-9a-f]{24})([0-9a-f]{8})")
_LEAST = 16


class Pseudonyms:
    """Keyed names of patients: the same for the same patient and key, of no use without it.

    Args:
        key: at least 16 bytes; drawn anew where None, and then good for one process only.
        digits: hexadecimal digits of a name.
    """

    def __init__(self, key: bytes | None = None, *, digits: int = 16) -> None:
        if key is not None and len(key) < _LEAST:
            raise DataError("the key of the pseudonyms has fewer than 16 bytes")
        self._key = secrets.token_bytes(32) if key is None else key
        self._digits = digits

    @classmethod
    def from_file(cls, file: str | Path) -> Pseudonyms:
        """With the key of a file, which is made, readable for its owner alone, where absent.

        Processes that start at once make one key: the file is there whole or not at all.

        Raises:
            DataError: the file can be neither read nor made, or its key is too short.
        """
        path = Path(file)
        try:
            if not path.exists():
                _make(path)
            text = path.read_text("ascii").strip()
        except (OSError, UnicodeError) as error:
            raise DataError(f"the key cannot be read: {error}", file=str(path)) from None
        if text.startswith("{"):
            ring = KeyRing.from_file(path)
            return cls(ring.keys[ring.current])
        return cls(text.encode())

    def __call__(self, site: str, patient: str) -> str:
        """The name of a patient: HMAC-SHA256 of ``site|patient``, 16 hexadecimal digits."""
        return _digest(self._key, site, patient).hex()[: self._digits]


@dataclass(frozen=True)
class KeyRing:
    """Keys by name, one of which is in use; older ones still tell their own codes from others'.

    A code is ``NAME-`` and 32 hexadecimal digits. The last eight attest to the others, so that a
    code is known as one, and is not coded again.

    Args:
        keys: name -> at least 16 bytes.
        current: the key that codes are made with.

    Raises:
        DataError: no such key, a name or a key that cannot be used.
    """

    keys: Mapping[str, bytes] = field(repr=False)
    current: str

    def __post_init__(self) -> None:
        if self.current not in self.keys:
            raise DataError(f"there is no key {self.current!r} among them")
        for name, key in self.keys.items():
            if not _NAME.fullmatch(name):
                raise DataError("names of keys are 1 to 12 small letters and digits")
            if len(key) < _LEAST:
                raise DataError(f"the key {name!r} has fewer than 16 bytes")

    @classmethod
    def new(cls) -> KeyRing:
        """One key from the operating system's randomness, ``"k1"``."""
        return cls({"k1": secrets.token_bytes(32)}, "k1")

    def rotated(self) -> KeyRing:
        """With a further key, which is in use from now on: later codes do not join earlier ones."""
        number = 1 + max(
            (int(n[1:]) for n in self.keys if n[:1] == "k" and n[1:].isdigit()), default=0
        )
        name = f"k{number}"
        return KeyRing({**self.keys, name: secrets.token_bytes(32)}, name)

    @classmethod
    def from_file(cls, file: str | Path) -> KeyRing:
        """The keys of a file.

        Raises:
            DataError: it cannot be read, or holds no keys.
        """
        path = Path(file)
        try:
            told = json.loads(path.read_text("ascii"))
            keys = {str(n): bytes.fromhex(k) for n, k in told["keys"].items()}
            return cls(keys, str(told["current"]))
        except DataError:
            raise
        except OSError as error:
            raise DataError(f"the keys cannot be read: {error.strerror}", file=str(path)) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # What the file holds is a secret, whatever is wrong with it.
            raise DataError("this file holds no keys", file=str(path)) from None

    def save(self, file: str | Path) -> None:
        """Writes the keys, readable for their owner alone; whole or not at all."""
        path = Path(file)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        told = {"current": self.current, "keys": {n: k.hex() for n, k in self.keys.items()}}
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            json.dump(told, opened)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, path)

    def code(self, kind: str, site: str, identity: str) -> str:
        """The code of a patient (HMAC-SHA256 of ``site|identity``), or of another kind of thing."""
        key = self._of(self.current, "" if kind == "patient" else kind)
        body = _digest(key, site, identity).hex()[:24]
        return f"{self.current}-{body}{self._attests(self.current, body)}"

    def is_code(self, text: str) -> bool:
        """Whether a text is a code that one of these keys made."""
        found = _CODE.fullmatch(text)
        if found is None or found[1] not in self.keys:
            return False
        return hmac.compare_digest(self._attests(found[1], found[2]), found[3])

    def days(self, site: str, patient: str, most: int) -> int:
        """Days by which a patient's dates are moved: within ``most`` either way, never 0."""
        drawn = int.from_bytes(_digest(self._of(self.current, "days"), site, patient)[:16], "big")
        place = drawn % (2 * most)
        return place - most if place < most else place - most + 1

    def _of(self, name: str, purpose: str) -> bytes:
        key = self.keys[name]
        told = f"foretell {purpose}".encode()
        return hmac.new(key, told, hashlib.sha256).digest() if purpose else key

    def _attests(self, name: str, body: str) -> str:
        return hmac.new(self._of(name, "code"), body.encode(), hashlib.sha256).hexdigest()[:8]


def _make(path: Path) -> None:
    """A new key under a name that is still free; one that somebody made meanwhile stays."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(secrets.token_hex(32))
            opened.flush()
            os.fsync(opened.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()


def _digest(key: bytes, site: str, identity: str) -> bytes:
    # A bar within a site's name would make two pairs one.
    place = site.replace("\\", "\\\\").replace("|", "\\|")
    told = f"{place}|{identity}".encode("utf-8", "surrogatepass")
    return hmac.new(key, told, hashlib.sha256).digest()
