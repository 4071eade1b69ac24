"""Weights of delayed feedback as published, tilted populations and all.

For comparison with the papers; :mod:`foretell.training.weighting.exact` says what differs. The
notation is the same: ``p``, ``delayed = p_dp``, ``p_rn``.
"""

from __future__ import annotations

from typing import Any

Values = Any
"""A number, numpy array or torch tensor; a function's arguments are all of one kind."""


def fnw(label: Values, p: Values) -> Values:
    """Fake negative weighting (Ktena et al. 2019): ``1 + p`` and ``(1 - p)(1 + p)``."""
    return (label + (1 - label) * (1 - p)) * (1 + p)


def esdfm(label: Values, p_rn: Values, delayed: Values) -> Values:
    """ES-DFM (Yang et al. 2021, eq. 11-12): ``1 + p_dp`` and ``(1 + p_dp) p_rn``."""
    return (label + (1 - label) * p_rn) * (1 + delayed)


def defer(label: Values, p: Values, delayed: Values) -> Values:
    """DEFER (Gu et al. 2021): ``p / (p - p_dp / 2)`` and ``(1 - p) / (1 - p + p_dp / 2)``."""
    half = delayed / 2
    return label * p / (p - half) + (1 - label) * (1 - p) / (1 - p + half)


def defuse(label: Values, copied: Values, p_rn: Values, delayed: Values) -> tuple[Values, Values]:
    """DEFUSE (Chen et al. 2022, eq. 9): masses on ``-log f`` and ``-log(1 - f)``.

    Immediate positives ``1 + p_dp``, copies of delayed ones 1; a negative is, with probability
    ``z = 1 - p_rn``, a fake one: ``z p_dp`` on the positive side, ``(1 - z)(1 + p_dp)`` on the
    negative.
    """
    fake = 1 - p_rn
    immediate = (1 + delayed) * (1 - copied) + copied
    positive = label * immediate + (1 - label) * fake * delayed
    return positive, (1 - label) * (1 - fake) * (1 + delayed)


def bidefuse_after(
    label: Values, copied: Values, fake: Values, delayed: Values
) -> tuple[Values, Values]:
    """Masses of Bi-DEFUSE's second head, which predicts conversions *after* the waiting time.

    Immediate positives are negatives of that head.
    """
    immediate = label * (1 - copied)
    positive = label * copied + (1 - label) * fake * delayed
    negative = (immediate + (1 - label) * (1 - fake)) * (1 + delayed)
    return positive, negative


def ulc(label: Values, p_rn: Values) -> tuple[Values, Values]:
    """ULC (Wang et al. 2023): an unconverted row is positive with probability ``1 - p_rn``."""
    return label + (1 - label) * (1 - p_rn), (1 - label) * p_rn


def ddfm(
    label: Values, second: Values, p_rn: Values, p: Values, delayed: Values
) -> tuple[Values, Values]:
    """DDFM (Dai et al. 2023): masses on ``-log f`` and ``-log(1 - f)``.

    First emissions that look negative are split by ``p_rn``. Second emissions, of the entities
    that looked negative, are split by the share that converts in time, ``p - p_dp``: what they
    add is then proportional to ``(p, 1 - p)`` as well.
    """
    split = second * (p - delayed) + (1 - second) * (1 - p_rn)
    return label + (1 - label) * split, (1 - label) * (1 - split)
