"""Why alarms are silenced and cards overridden: codes, so that no name gets into a record."""

from __future__ import annotations

from typing import Literal

ReasonCode = Literal[
    "already-treated",
    "other-cause",
    "comfort-care",
    "being-assessed",
    "awaiting-results",
    "wrong-data",
    "other",
]
REASONS: dict[ReasonCode, str] = {
    "already-treated": "Sepsis is known and treated",
    "other-cause": "Another cause explains it",
    "comfort-care": "Comfort care only",
    "being-assessed": "Somebody is assessing the patient",
    "awaiting-results": "Results are awaited",
    "wrong-data": "The data are wrong",
    "other": "Another reason",
}
"""Code -> what it says; free text is not taken, since it may name people."""
