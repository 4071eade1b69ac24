"""What all risk nets share: their guarantee, patients kept apart, weights read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.data.clinical.splits import held_out_patients
from foretell.data.clinical.stays import Stays
from foretell.errors import ArtefactError, ForetellError
from foretell.training.private import PrivacyStatement

_STATISTICS = (
    "means, standard deviations and knots of the features are public, although they were read off "
    "the training part"
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


def restored(kind: Callable[[Any], Any], shape: Any, arrays: Mapping[str, NDArray]) -> Any:
    """A learner of a shape with saved weights, in evaluation mode.

    Raises:
        ValueError: an array is missing or has another size.
    """
    # Sizes first, without memory: a wrong file must not have gigabytes allocated.
    with torch.device("meta"):
        expected = kind(shape).state_dict()
    for name, tensor in expected.items():
        if arrays[name].shape != tuple(tensor.shape):
            raise ValueError(f"{name} has shape {arrays[name].shape}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} is not finite")
    with torch.random.fork_rng(devices=[]):
        learner = kind(shape)
    learner.load_state_dict({n: torch.from_numpy(arrays[n].copy()) for n in expected})
    return learner.eval()


@contextmanager
def readable(folder: str | Path, name: str) -> Iterator[None]:
    """Whatever is wrong with saved values is an :class:`ArtefactError` that names the folder."""
    try:
        yield
    except (
        LookupError,
        RuntimeError,
        TypeError,
        AttributeError,
        ValueError,
        ForetellError,
    ) as error:
        raise ArtefactError(f"{folder} is not a readable {name}: {error}") from error
