"""What a supplier allows: smallest and largest orders, whole batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-6  # of a batch: a target of 12.0000001 does not open a second case


@dataclass(frozen=True)
class OrderRules:
    """Limits on an order, (M,) each: ``batch`` 0 is any quantity, ``maximum`` may be infinite."""

    minimum: NDArray[np.float64]
    batch: NDArray[np.float64]
    maximum: NDArray[np.float64]

    def impossible(self) -> NDArray[np.bool_]:
        """Where no positive order satisfies all limits (M,)."""
        smallest = np.maximum(self._up(self.minimum), self.batch)
        return np.asarray(self._largest() < smallest)

    def apply(
        self, need: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """The order for a need (M,).

        Returns:
            The order (M,) and where it was raised to the minimum, rounded up to whole batches and
            held at the maximum.
        """
        need = np.maximum(need, 0.0)
        wanted = np.where(need > _TOLERANCE * np.maximum(self.batch, 1e-6), need, 0.0)
        raised = (wanted > 0) & (wanted < self.minimum)
        floor = np.where(raised, self.minimum, wanted)
        batched = self._up(floor)
        largest = self._largest()
        capped = batched > largest
        order = np.where(capped, largest, batched)
        rounded = (batched > floor * (1 + 1e-9)) & ~capped
        return order, raised, rounded, capped

    def _up(self, quantity: NDArray[np.float64]) -> NDArray[np.float64]:
        batch = np.where(self.batch > 0, self.batch, 1.0)
        whole = np.ceil(quantity / batch - _TOLERANCE) * batch
        return np.where(self.batch > 0, np.maximum(whole, 0.0), quantity)

    def _largest(self) -> NDArray[np.float64]:
        batch = np.where(self.batch > 0, self.batch, 1.0)
        finite = np.where(np.isfinite(self.maximum), self.maximum, 0.0)
        whole = np.floor(finite / batch + _TOLERANCE) * batch
        whole = np.where(self.batch > 0, whole, finite)
        return np.where(np.isfinite(self.maximum), whole, np.inf)
