"""Which calibration a gate stands on: its version, when it was made, and of how many patients."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

FILE = "calibration.json"
_FORMAT = 1


class Calibration(NamedTuple):
    """A calibration of a gate.

    Args:
        version: twelve digits of a hash of the calibration scores: the same for the same scores.
        time: when it was made, in seconds since 1970; None where that was not kept.
        patients: whose hours it was made of; None where that was not kept.
        hours: that it was made of; None where that was not kept.
    """

    version: str
    time: float | None = None
    patients: int | None = None
    hours: int | None = None

    @property
    def words(self) -> str:
        """The same for people."""
        told = f"calibration {self.version}"
        if self.time is not None:
            told += f" of {datetime.fromtimestamp(self.time, UTC):%Y-%m-%d %H:%M} UTC"
        if self.patients is not None:
            told += f", {self.patients:,} patients"
        return told

    def save(self, folder: Path) -> None:
        """Writes a file of its own: when a gate was calibrated is no part of what it says."""
        partial = folder / f".{FILE}.partial"
        partial.write_text(json.dumps({"format": _FORMAT, **self._asdict()}), encoding="utf-8")
        os.replace(partial, folder / FILE)

    @classmethod
    def load(cls, folder: Path, version: str) -> Self:
        """What was kept of a calibration; only its version where nothing was.

        Args:
            folder: of the gate.
            version: of the scores that the gate has.

        Raises:
            ValueError: the file is damaged, newer, or of another calibration.
        """
        if not (folder / FILE).is_file():
            return cls(version)
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if not isinstance(told, dict) or told.pop("format", _FORMAT + 1) > _FORMAT:
            raise ValueError(f"{FILE} is damaged, or of a newer foretell")
        found = cls(**told)
        if found.version != version:
            raise ValueError(f"{FILE} is of calibration {found.version}, the gate has {version}")
        for value in found[1:]:
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{FILE} holds {value!r}, which is no time and no number")
        return found


def version_of(arrays: Mapping[str, NDArray]) -> str:
    """Twelve digits of a hash of arrays by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()[:12]
