"""Devices whose activity goes, or does not go, with what they are about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError


class DeviceTopics(NamedTuple):
    """Examples of many devices.

    Attributes:
        features: ``(N, F)``, float32.
        topics: label of each example ``(N,)``.
        devices: device of each example ``(N,)``.
        test_features: ``(M, F)``.
        test_topics: ``(M,)``.
        test_rare: whether a test example is of a rare topic ``(M,)``.
    """

    features: NDArray[np.float32]
    topics: NDArray[np.int64]
    devices: NDArray[np.int64]
    test_features: NDArray[np.float32]
    test_topics: NDArray[np.int64]
    test_rare: NDArray[np.bool_]


def device_topics(
    devices: int = 1000,
    *,
    kappa: float = 0.0,
    alpha: float = 1.0,
    exponent: float = 1.2,
    largest: int = 500,
    common: int = 7,
    rare: int = 3,
    rare_share: float = 0.02,
    features: int = 50,
    noise: float = 1.6,
    tests: int = 2000,
    seed: int = 0,
) -> DeviceTopics:
    """Devices with Zipf-distributed activity, and topics that may go with it.

    Each device draws its mix of topics from Dir(alpha pi). With ``kappa`` 0, pi is the same for
    all; the 20% of devices with the fewest examples have ``(1 - kappa)`` of it and ``kappa`` of a
    distribution over rare topics only. Choosing active devices then finds common topics sooner and,
    the greater ``kappa``, rare ones later: the truth that a comparison of selections must show.
    An example is its topic's centre plus normal noise, of norm 1.

    Args:
        devices: number of devices.
        kappa: how much light devices are about rare topics, in [0, 1].
        alpha: concentration of mixes.
        exponent: of the Zipf distribution of activity.
        largest: the largest activity.
        common: number of common topics.
        rare: number of rare topics.
        rare_share: share of rare topics in what all devices have in common.
        features: F.
        noise: standard deviation over that of centres.
        tests: test examples of common and of rare topics, each.
        seed: of all draws.

    Raises:
        ParameterError: a value out of its range.
    """
    if not 0 <= kappa <= 1:
        raise ParameterError(f"kappa must lie in [0, 1], not {kappa}")
    if min(devices, common, rare, features, tests, largest) < 1 or not alpha > 0:
        raise ParameterError("counts must be at least 1 and alpha positive")
    if not exponent > 1:
        raise ParameterError(f"the exponent must be above 1, not {exponent}")
    rng = np.random.default_rng(seed)
    topics = common + rare
    shared = np.concatenate(
        [np.full(common, (1 - rare_share) / common), np.full(rare, rare_share / rare)]
    )
    unusual = np.concatenate([np.zeros(common), np.full(rare, 1 / rare)])
    activity = np.clip(rng.zipf(exponent, devices), 1, largest)
    order = np.argsort(activity, kind="stable")
    light = np.zeros(devices, dtype=bool)
    light[order[: devices // 5]] = True
    centres = rng.normal(size=(topics, features))

    def examples(labels: NDArray[np.int64]) -> NDArray[np.float32]:
        values = centres[labels] + noise * rng.normal(size=(len(labels), features))
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)

    labels = []
    for device in range(devices):
        prior = (1 - kappa) * shared + kappa * unusual if light[device] else shared
        mix = rng.dirichlet(alpha * np.maximum(prior, 1e-9))
        labels.append(rng.choice(topics, activity[device], p=mix))
    flat = np.concatenate(labels).astype(np.int64)
    tested = np.concatenate(
        [rng.integers(0, common, tests), rng.integers(common, topics, tests)]
    ).astype(np.int64)
    return DeviceTopics(
        examples(flat), flat, np.repeat(np.arange(devices), activity).astype(np.int64),
        examples(tested), tested, tested >= common,
    )  # fmt: skip
