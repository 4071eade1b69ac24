"""What all risk nets share: their guarantee, and patients kept apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from foretell.data.clinical.splits import held_out_patients
from foretell.data.clinical.stays import Stays
from foretell.training.private import PrivacyStatement

_STATISTICS = (
    "means, standard deviations and quantiles (knots) of the features are public, although they "
    "were read off the training part"
)


def stated(told: PrivacyStatement, unit: Literal["row", "stay"]) -> PrivacyStatement:
    """A guarantee, with what one record is in the training of risk models."""
    record = {"row": "hour of a stay", "stay": "stay"}[unit]
    plain = {
        "row": "a stay of k hours has k records: its own guarantee is k times weaker or worse",
        "stay": "a patient with k stays has k records",
    }[unit]
    kept = tuple(a for a in told.assumptions if not a.startswith("one person's data"))
    return replace(told, unit=record, assumptions=(*kept, plain, _STATISTICS))


def held_out(stays: Stays, share: float) -> tuple[Stays, Stays | None]:
    """The stays to train on and those to stop by; none where they would hold one class only."""
    train, held = held_out_patients(stays, share)
    has = np.isfinite(held.onset)
    usable = has.any() and len(held) > 1 and np.isfinite(train.onset).any()
    return (train, held) if usable else (stays, None)
