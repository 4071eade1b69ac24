"""COMPOSER's weighting module: a value counts for less the longer ago it was measured.

Shashikumar, Wardi, Malhotra and Nemati, npj Digital Medicine 4:134 (2021). How long ago and how
often something was measured says what staff thought, and that differs between hospitals; weighed
in this way, the age of a value can only take it away, and never speaks for itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretell.data.clinical.feature_spec import SINCE_CAP
from foretell.errors import ParameterError

_SCALE = math.log1p(SINCE_CAP)
"""Hours are scaled as log(1 + hours) over its value at the cap."""


@dataclass(frozen=True)
class AgingColumns:
    """Which inputs grow old, JSON-able.

    Args:
        pairs: (column of a standardised value, column of the hours since it was measured, as
            :class:`~foretell.data.clinical.CausalFeatureBuilder` scales them).
        left_out: columns that the net does not see, such as those hours themselves.
    """

    pairs: tuple[tuple[int, int], ...] = ()
    left_out: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple((int(a), int(b)) for a, b in self.pairs))
        object.__setattr__(self, "left_out", tuple(int(i) for i in self.left_out))
        values = [value for value, _ in self.pairs]
        if len(set(values)) != len(values):
            raise ParameterError("a value is weighed twice")
        if set(values) & set(self.left_out):
            raise ParameterError("a value that is left out cannot be weighed")


def age_weight(hours: Tensor, rate: Tensor) -> Tensor:
    """``w = 2 (1 - sigmoid(rate * hours))``: 1 for a new value, falling towards 0.

    Args:
        hours: since the measurement, at least 0.
        rate: at least 0, per hour; 0 for values that never grow old.
    """
    return 2 * torch.sigmoid(-rate * hours)


def hours_of(scaled: Tensor) -> Tensor:
    """Hours since measurements, from what the feature builder makes of them."""
    return torch.expm1(_SCALE * scaled).clamp(min=0)


class WeightedInputs(nn.Module):
    """Weighs each last value by its age, with a learned rate for each channel.

    Values are standardised, so that an old one goes to 0, the mean of the population.

    Args:
        columns: which.
        inputs: number of columns F that come in.
        half_life: hours after which a value counts half, before training.
    """

    def __init__(self, columns: AgingColumns, inputs: int, *, half_life: float = 24.0) -> None:
        super().__init__()
        used = [i for pair in columns.pairs for i in pair] + list(columns.left_out)
        if any(not 0 <= i < inputs for i in used):
            raise ParameterError(f"columns must lie in 0 to {inputs - 1}, not {sorted(used)[-1]}")
        kept = [i for i in range(inputs) if i not in set(columns.left_out)]
        if not kept:
            raise ParameterError("all columns are left out")
        # w is one half where rate * hours = log 3.
        start = math.log(math.expm1(math.log(3) / half_life))
        self.aging = nn.Parameter(torch.full((len(columns.pairs),), start))
        numbers = {"value": [p[0] for p in columns.pairs], "hours": [p[1] for p in columns.pairs]}
        for name, some in {**numbers, "kept": kept}.items():
            buffer = torch.tensor(some, dtype=torch.long)
            self.register_buffer(f"_{name}", buffer, persistent=False)

    @property
    def n_outputs(self) -> int:
        """Columns that the net sees."""
        return len(self._kept)  # type: ignore[arg-type]

    @property
    def rates(self) -> Tensor:
        """``(C,)`` per hour, ``softplus(a)``: never negative."""
        return F.softplus(self.aging)

    def forward(self, x: Tensor) -> Tensor:
        """Weighed inputs ``(B, ..., K)`` from scaled features ``(B, ..., F)``."""
        if self.aging.numel():
            hours = hours_of(x[..., self._hours])  # type: ignore[index]
            weighed = x[..., self._value] * age_weight(hours, self.rates)  # type: ignore[index]
            x = x.index_copy(-1, self._value, weighed)  # type: ignore[arg-type]
        return x[..., self._kept]  # type: ignore[index]
