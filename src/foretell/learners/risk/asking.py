"""What a net says of many rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.learners.contract import Batch
from foretell.learners.risk.examples import encoded

AT_ONCE = 8192
"""Rows that go through a net together."""


def asked(
    learner: torch.nn.Module,
    rows: NDArray[np.float32],
    ask: Callable[[Batch], Tensor],
    encoder: PiecewiseLinearEncoder | None = None,
    *,
    key: str = "x",
) -> NDArray[Any]:
    """(R, ...) what a net says of rows (R, F), so many at once, on the device it is on.

    Args:
        learner: the net.
        rows: features, or representations.
        ask: what it says of a batch; of no row at all, too, so that the answer has its width.
        encoder: of the rows, or None.
        key: the rows' name in the batch.
    """
    device = next(learner.parameters()).device
    with torch.inference_mode():
        parts = [
            ask({key: encoded(rows[at : at + AT_ONCE], encoder).to(device)})
            for at in range(0, max(len(rows), 1), AT_ONCE)
        ]
        return np.concatenate([part.cpu().numpy() for part in parts])
