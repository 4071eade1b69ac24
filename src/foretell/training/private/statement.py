"""A privacy guarantee, said whole: an epsilon alone means nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PrivacyStatement:
    """What was guaranteed, for whom, by what and under which assumptions.

    Attributes:
        epsilon: of (epsilon, delta) differential privacy.
        delta: of the same.
        adjacency: which data sets cannot be told apart: ``"add_remove_example"`` or
            ``"add_remove_microbatch"`` (a group of examples that was fixed in advance).
        unit: what one record is: ``"example"`` or ``"microbatch"``.
        sampling: how a step's examples were chosen, e.g. ``"poisson(0.01)"``.
        accountant: ``"pld"`` or ``"rdp"``.
        clipping: how the sensitivity was bounded.
        sensitivity_factor: sensitivity of the noisy sum in units of the clipping bound.
        noise_multipliers: noise over sensitivity, by kind of step.
        steps: number of steps by kind.
        assumptions: what else must be true.
        dp_event: the accountant's event tree, as text.
    """

    epsilon: float
    delta: float
    adjacency: str
    unit: str
    sampling: str
    accountant: str
    clipping: str
    sensitivity_factor: float
    noise_multipliers: tuple[float, ...]
    steps: tuple[int, ...]
    assumptions: tuple[str, ...]
    dp_event: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values; an infinite epsilon is None."""
        values = asdict(self)
        return {**values, "epsilon": self.epsilon if math.isfinite(self.epsilon) else None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrivacyStatement:
        """The inverse of :meth:`to_dict`, from JSON too."""
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        epsilon = math.inf if values["epsilon"] is None else values["epsilon"]
        return cls(**{**values, **tuples, "epsilon": epsilon})

    def __str__(self) -> str:
        noise = ", ".join(
            f"{s} steps at {m:.4g}" for m, s in zip(self.noise_multipliers, self.steps, strict=True)
        )
        guarantee = (
            "no differential privacy (epsilon is infinite)"
            if math.isinf(self.epsilon)
            else f"(epsilon {self.epsilon:.4g}, delta {self.delta:.3g}) differential privacy"
        )
        return "\n".join(
            [
                f"{guarantee} of one "
                f"{self.unit} ({self.adjacency}), {self.accountant.upper()} accountant",
                f"  sampling {self.sampling}; clipping {self.clipping}, sensitivity "
                f"{self.sensitivity_factor:g} times the bound",
                f"  noise multiplier: {noise or 'no step was made'}",
                *(f"  assumes: {assumption}" for assumption in self.assumptions),
            ]
        )
