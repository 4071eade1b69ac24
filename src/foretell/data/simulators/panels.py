"""Patients whose next best test is known: a mixture with a posterior in closed form.

``z ~ Bernoulli(0.15)`` is the illness, with one of four subtypes at random. Three vital signs are
always there and point, weakly, at the subtype; of six panels the first four find one subtype each,
the fifth finds all a little at twice the price, and the sixth nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

PREVALENCE = 0.15
COSTS = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 1.0])
"""Of the six panels."""

_CONTEXT = np.array([[2, 0, 0], [0, 2, 0], [0, 0, 2], [-1.2, -1.2, -1.2]])
_PANELS = np.concatenate([2.5 * np.eye(4), np.full((1, 4), 1.2), np.zeros((1, 4))])
_MEANS = np.concatenate([np.zeros((1, 9)), np.concatenate([_CONTEXT.T, _PANELS]).T])
_PRIOR = np.array([1 - PREVALENCE, *[PREVALENCE / 4] * 4])

N_CONTEXT, N_PANELS = 3, 6


class PanelPatients(NamedTuple):
    """Simulated patients.

    Args:
        values: (n, 9) three vital signs and six panels, all of them.
        label: (n,) int8, the illness.
        subtype: (n,) int8, 1 to 4; 0 for the well.
    """

    values: NDArray[np.float64]
    label: NDArray[np.int8]
    subtype: NDArray[np.int8]


def panel_patients(size: int, *, seed: int = 0) -> PanelPatients:
    """Draws patients.

    Args:
        size: number of them.
        seed: of the draw.
    """
    if size < 1:
        raise ParameterError(f"size must be positive, not {size}")
    rng = np.random.default_rng(seed)
    state = rng.choice(5, size=size, p=_PRIOR)
    values = rng.normal(size=(size, 9)) + _MEANS[state]
    return PanelPatients(values, (state > 0).astype(np.int8), state.astype(np.int8))


def context_of(subtype: int) -> NDArray[np.float64]:
    """(3,) the mean vital signs of a subtype, 1 to 4."""
    return np.asarray(_CONTEXT[subtype - 1], np.float64)


def panel_posterior(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, 5) probabilities of being well and of each subtype, given what was seen.

    Args:
        values: (n, 9); what was not seen is not looked at.
        seen: (n, 9) bool.
    """
    gaps = np.where(seen[:, None, :], values[:, None, :] - _MEANS, 0.0)
    log = np.log(_PRIOR) - 0.5 * (gaps**2).sum(-1)
    log -= log.max(1, keepdims=True)
    likely = np.exp(log)
    return np.asarray(likely / likely.sum(1, keepdims=True))


def panel_risk(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) the true probability of the illness, given what was seen."""
    return np.asarray(1 - panel_posterior(values, seen)[:, 0])


def exact_gain(
    values: NDArray[np.float64], seen: NDArray[np.bool_], *, draws: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """(n, 6) expected fall of the entropy of the illness in nats, panel by panel.

    Values of a panel are drawn from their true distribution given what was seen; 0 where the panel
    was seen already.
    """
    rng = np.random.default_rng(seed)
    now = panel_posterior(values, seen)
    states = (rng.random((len(values), draws, 1)) > np.cumsum(now, 1)[:, None, :]).sum(-1)
    noise = rng.normal(size=states.shape)
    gain = np.zeros((len(values), N_PANELS))
    for panel in range(N_PANELS):
        column = N_CONTEXT + panel
        drawn = _MEANS[states, column] + noise
        log = np.log(now)[:, None, :] - 0.5 * (drawn[..., None] - _MEANS[:, column]) ** 2
        log -= log.max(-1, keepdims=True)
        likely = np.exp(log)
        risk = 1 - likely[..., 0] / likely.sum(-1)
        gain[:, panel] = np.where(
            seen[:, column], 0.0, _entropy(risk.mean(1)) - _entropy(risk).mean(1)
        )
    return gain


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log1p(-p)))
