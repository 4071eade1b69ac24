"""What is fixed of a log before any event arrives: clock, window, kinds and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from foretell.data.events.clock import checked_unit
from foretell.data.events.event_log import EventLog
from foretell.data.panel import Categorical
from foretell.errors import ParameterError


@dataclass(frozen=True)
class EventSchema:
    """The frame of a log, which a live stream shares with the log its model was trained on.

    Args:
        window: attribution window W in the unit.
        unit: of all times, None for plain numbers.
        calendar: whether times are dates.
        conversion: the kind of outcome that is the label.
        revocation: the kind that takes it back.
        ids: ``"integer"`` or ``"text"``.
        features: name -> vocabulary of a category, or the type of a number: ``"float64"``,
            ``"float32"``. A category that is not in the vocabulary becomes code 0, unknown.
        kinds: of outcomes, the conversion first; others may still arrive.
    """

    window: float
    unit: str | None = None
    calendar: bool = False
    conversion: str = "conversion"
    revocation: str | None = None
    ids: Literal["integer", "text"] = "text"
    features: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.window < float("inf"):
            raise ParameterError(f"the attribution window must be positive, not {self.window}")
        if self.ids not in ("integer", "text"):
            raise ParameterError(f"ids must be 'integer' or 'text', not {self.ids!r}")
        if checked_unit(self.unit) != self.unit or (self.calendar and self.unit is None):
            raise ParameterError(f"the unit {self.unit!r} is not a short name, or is missing")
        for name, kind in self.features.items():
            if isinstance(kind, str) and kind not in ("float64", "float32"):
                raise ParameterError(f"feature {name!r} must be numbers or name its categories")
        others = tuple(k for k in self.kinds if k != self.conversion)
        object.__setattr__(self, "kinds", (self.conversion, *others))

    @classmethod
    def of(cls, log: EventLog) -> EventSchema:
        """The schema of a log."""
        import pyarrow as pa

        features = {
            name: v.vocabulary if isinstance(v, Categorical) else str(v.dtype)
            for name, v in log._columns.features.items()
        }
        return cls(
            log.window,
            log.unit,
            log.calendar,
            log.conversion,
            log.revocation,
            "integer" if pa.types.is_integer(log._columns.ids.type) else "text",
            features,
            log.kinds,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        features = {k: v if isinstance(v, str) else list(v) for k, v in self.features.items()}
        return {**vars(self), "features": features, "kinds": list(self.kinds)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EventSchema:
        """From :meth:`to_dict`."""
        features = {
            str(k): v if isinstance(v, str) else tuple(map(str, v))
            for k, v in content["features"].items()
        }
        return cls(**{**content, "features": features, "kinds": tuple(content["kinds"])})
