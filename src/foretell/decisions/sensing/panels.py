"""What can be measured next: panels of features, what they cost, and when not to ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError


@dataclass(frozen=True)
class Panel:
    """A group of features that one order brings.

    Args:
        name: of the order.
        features: numbers of its columns.
        cost: in any common unit (money, blood, delay); must be positive.
        turnaround: hours from the order to the result.
        refractory: hours after a result in which the panel is not asked for again.
        loinc: codes of the order.
    """

    name: str
    features: tuple[int, ...]
    cost: float
    turnaround: float = 1.0
    refractory: float = 4.0
    loinc: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(int(i) for i in self.features))
        if not self.features or len(set(self.features)) != len(self.features):
            raise ParameterError(f"panel {self.name!r} needs features, each once")
        if not (np.isfinite(self.cost) and self.cost > 0):
            raise ParameterError(
                f"panel {self.name!r} costs {self.cost}: a positive number is needed"
            )
        if self.turnaround < 0 or self.refractory < 0:
            raise ParameterError(f"hours of panel {self.name!r} must not be negative")


def check_panels(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """Panels whose names and features do not collide.

    Raises:
        ParameterError: none, or a name or a feature is there twice.
    """
    if not panels:
        raise ParameterError("there is no panel to choose from")
    names = [panel.name for panel in panels]
    features = [i for panel in panels for i in panel.features]
    if len(set(names)) != len(names) or len(set(features)) != len(features):
        raise ParameterError("panels must have names of their own and share no feature")
    return tuple(panels)


def measured(panels: Sequence[Panel], seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n, P) whether any feature of each panel was seen, from (n, F)."""
    return np.stack([seen[:, list(panel.features)].any(1) for panel in panels], axis=1)
