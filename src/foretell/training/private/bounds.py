"""The clipping bound: fixed, automatic, or following a noisy quantile of the norms."""

from __future__ import annotations

import math
from typing import Literal

from foretell.errors import ParameterError

MaxGradNorm = float | Literal["automatic", "quantile"]


class Bound:
    """How far one example may move the sum of gradients, at the start.

    Args:
        max_grad_norm: the bound C; ``"automatic"`` divides each gradient by its norm plus 0.01
            (Bu et al. 2023, AUTO-S), which makes C 1; ``"quantile"`` starts at 1 and follows
            the median of the norms, whose noisy count costs a little of the budget (Andrew et al.
            2021), see :class:`~foretell.training.private.layers.Layers`.

    Attributes:
        value: C.
        kind: ``"fixed"``, ``"automatic"`` or ``"quantile"``.

    Raises:
        ParameterError: a bound that is not positive.
    """

    def __init__(self, max_grad_norm: MaxGradNorm) -> None:
        if isinstance(max_grad_norm, str):
            if max_grad_norm not in ("automatic", "quantile"):
                raise ParameterError(
                    "max_grad_norm must be a positive number, 'automatic' or 'quantile', not "
                    f"{max_grad_norm!r}"
                )
            self.value = 1.0
        elif math.isfinite(max_grad_norm) and max_grad_norm > 0:
            self.value = float(max_grad_norm)
        else:
            raise ParameterError(f"max_grad_norm must be positive, not {max_grad_norm}")
        self.kind = max_grad_norm if isinstance(max_grad_norm, str) else "fixed"
