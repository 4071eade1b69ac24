"""Constraints on segments of the rows, which only the mixed-integer programme can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foretell.decisions.thresholds.holdout import HoldOut
from foretell.errors import ParameterError


@dataclass(frozen=True)
class SegmentConstraints:
    """What must hold in segments (regions, channels, groups of people).

    Args:
        precision: least precision of each segment: one number for all, or one for some by name.
        recall_parity: greatest difference between the recalls of any two segments.
    """

    precision: float | Mapping[str, float] | None = None
    recall_parity: float | None = None

    def __bool__(self) -> bool:
        return self.precision is not None or self.recall_parity is not None

    def precisions(self, rows: HoldOut) -> dict[int, float]:
        """Least precision by code of the segment."""
        if self.precision is None:
            return {}
        if isinstance(self.precision, Mapping):
            return {rows.segment_names.index(str(n)): p for n, p in self.precision.items()}
        return dict.fromkeys(range(len(rows.segment_names)), self.precision)

    def check(self, rows: HoldOut, method: str) -> None:
        """Raises ParameterError where the constraints cannot be held."""
        if not self:
            return
        if method != "milp":
            raise ParameterError(
                f'method={method!r} cannot hold constraints on segments: use "milp"'
            )
        if rows.segment is None:
            raise ParameterError("constraints on segments need segments=, one name a row")
        if isinstance(self.precision, Mapping):
            unknown = {str(name) for name in self.precision} - set(rows.segment_names)
            if unknown:
                raise ParameterError(
                    f"segment_precision names {sorted(unknown)}; the segments are "
                    f"{', '.join(rows.segment_names)}"
                )
        for value in self.precisions(rows).values():
            if not 0 < value < 1:
                raise ParameterError(f"segment_precision={value!r}: must lie between 0 and 1")
        if self.recall_parity is not None and not 0 <= self.recall_parity <= 1:
            raise ParameterError(f"recall_parity={self.recall_parity!r}: must lie within [0, 1]")
