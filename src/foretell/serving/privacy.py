"""Pseudonyms: what logs, metrics and errors may say of a patient."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from foretell.errors import DataError


class Pseudonyms:
    """Keyed names of patients: the same for the same patient and key, of no use without it.

    Args:
        key: at least 16 bytes; drawn anew where None, and then good for one process only.
    """

    def __init__(self, key: bytes | None = None) -> None:
        if key is not None and len(key) < 16:
            raise DataError("the key of the pseudonyms has fewer than 16 bytes")
        self._key = secrets.token_bytes(32) if key is None else key

    @classmethod
    def from_file(cls, file: str | Path) -> Pseudonyms:
        """With the key of a file, which is made, readable for its owner alone, where absent."""
        path = Path(file)
        try:
            if not path.exists():
                path.touch(mode=0o600, exist_ok=False)
                path.write_text(secrets.token_hex(32), "ascii")
            return cls(path.read_text("ascii").strip().encode())
        except (OSError, UnicodeError) as error:
            raise DataError(f"the key cannot be read: {error}", file=str(path)) from None

    def __call__(self, site: str, patient: str) -> str:
        """The name of a patient: 16 hexadecimal digits."""
        told = f"{site}|{patient}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, told, hashlib.sha256).hexdigest()[:16]
