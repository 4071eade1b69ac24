"""The mean of clients' updates, clipped and noisy (McMahan et al. 2018, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord

from foretell.training.federated.accounting import ClientPrivacy


def private_mean(
    current: ArrayRecord,
    trained: Sequence[ArrayRecord],
    privacy: ClientPrivacy,
    clients_per_round: int,
    rng: np.random.Generator,
) -> ArrayRecord:
    """The current arrays plus the private mean update.

    Each update ``trained - current`` is scaled to norm ``clip`` at most over all arrays together,
    and counts 1. Normal noise of deviation ``noise_multiplier * clip`` goes on every number of the
    sum, also when nobody took part, and the sum is divided by the constant ``clients_per_round``.
    An update that is not finite counts as none.

    Args:
        current: arrays before the round.
        trained: each client's arrays.
        privacy: bound and noise.
        clients_per_round: the public K.
        rng: of the noise.
    """
    start = {name: array.numpy() for name, array in current.items()}
    sums = {name: np.zeros(value.shape, dtype=np.float64) for name, value in start.items()}
    for arrays in trained:
        update = {
            name: arrays[name].numpy().astype(np.float64) - value for name, value in start.items()
        }
        norm = float(np.sqrt(sum(float(np.vdot(u, u)) for u in update.values())))
        if not np.isfinite(norm):
            continue
        factor = min(1.0, privacy.clip / norm) if norm > 0 else 1.0
        for name, value in update.items():
            sums[name] += factor * value
    deviation = privacy.noise_multiplier * privacy.clip
    result = ArrayRecord()
    for name, value in start.items():
        noisy = sums[name] + rng.normal(0.0, deviation, value.shape) if deviation else sums[name]
        result[name] = Array(np.asarray(value + noisy / clients_per_round, dtype=value.dtype))
    return result
