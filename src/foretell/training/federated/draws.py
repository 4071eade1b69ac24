"""Drawing clients with given chances, and how likely each is to be in a draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

Draw = Literal["systematic_pps", "plackett_luce", "poisson", "multinomial"]
DRAWS: tuple[str, ...] = ("systematic_pps", "plackett_luce", "poisson", "multinomial")
_SIMULATIONS = 2000
_CELLS = 4_000_000

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Drawn:
    """The clients of one draw.

    Attributes:
        clients: positions ``(m,)``, ascending, each once.
        multiplicity: how often each was drawn ``(m,)``; more than 1 only with replacement.
        inclusion: chance of each to be in the draw at all ``(m,)``.
        expected: how often each is drawn on average ``(m,)``; without replacement the inclusion.
    """

    clients: NDArray[np.int64]
    multiplicity: NDArray[np.int64]
    inclusion: Array
    expected: Array


def capped_inclusion(chances: Array, k: int, cap: float = 1.0) -> Array:
    """Inclusion ``min(cap, c p)`` ``(N,)`` that sums to ``k``, or to all that the cap allows.

    Args:
        chances: non-negative ``p`` ``(N,)``.
        k: clients a draw.
        cap: the largest inclusion, in (0, 1].
    """
    able = np.flatnonzero(chances > 0)
    inclusion = np.zeros(len(chances))
    if len(able) * cap <= k:
        inclusion[able] = cap
        return inclusion
    order = able[np.argsort(-chances[able], kind="stable")]
    p = chances[order]
    rest = np.cumsum(p[::-1])[::-1]
    # With the j largest at the cap, the others share k - j cap; the first j that keeps them below.
    factor = (k - cap * np.arange(len(p))) / rest
    first = int(np.argmax(factor * p <= cap))
    inclusion[order[:first]] = cap
    inclusion[order[first:]] = np.minimum(cap, factor[first] * p[first:])
    return inclusion


def inclusion_probabilities(
    chances: Array,
    k: int,
    draw: Draw = "systematic_pps",
    *,
    cap: float = 1.0,
    simulations: int = _SIMULATIONS,
    seed: int = 0,
) -> Array:
    """Chance of each client to be in a draw ``(N,)``.

    Exact, except for ``plackett_luce``: choosing one after the other without replacement has no
    closed form, and ``k p`` is wrong. There it is simulated, not by counting but as the mean of
    ``1 - exp(-p t)``, where ``t`` is the moment at which the ``k``-th of the *others* arrives when
    client ``i`` arrives after an exponential time of rate ``p_i``: unbiased, of small variance, and
    never 0.

    Args:
        chances: normalised ``p`` ``(N,)``.
        k: clients a draw.
        draw: how they are drawn.
        cap: the largest inclusion (``systematic_pps`` and ``poisson``).
        simulations: of ``plackett_luce``.
        seed: of the simulation.
    """
    if draw in ("systematic_pps", "poisson"):
        return capped_inclusion(chances, k, cap)
    if draw == "multinomial":
        return -np.expm1(k * np.log1p(-np.minimum(chances, 1 - 1e-16)))
    able = np.flatnonzero(chances > 0)
    inclusion = np.zeros(len(chances))
    if len(able) <= k:
        inclusion[able] = 1
        return inclusion
    p = chances[able]
    rng = np.random.default_rng(seed)
    total, done = np.zeros(len(p)), 0
    block = max(1, _CELLS // len(p))
    while done < simulations:
        size = min(block, simulations - done)
        arrivals = rng.exponential(size=(size, len(p))) / p
        nearest = np.partition(arrivals, (k - 1, k), axis=1)[:, k - 1 : k + 1]
        moment = np.where(arrivals <= nearest[:, :1], nearest[:, 1:], nearest[:, :1])
        total += -np.expm1(-p * moment).sum(0)
        done += size
    inclusion[able] = total / simulations
    return inclusion


def draw_clients(
    rng: np.random.Generator,
    chances: Array,
    k: int,
    draw: Draw = "systematic_pps",
    *,
    cap: float = 1.0,
    inclusion: Array | None = None,
) -> Drawn:
    """Draws clients.

    Args:
        rng: source of randomness.
        chances: normalised ``p`` ``(N,)``.
        k: clients a draw; ``poisson`` draws as many on average.
        draw: ``systematic_pps`` (exactly ``k``, inclusion exactly ``min(1, c p)``; Madow 1949),
            ``plackett_luce`` (one after the other without replacement, by Gumbel noise),
            ``poisson`` (each by itself), or ``multinomial`` (with replacement).
        cap: the largest inclusion (``systematic_pps`` and ``poisson``).
        inclusion: what :func:`inclusion_probabilities` gave, to save computing it again.

    Raises:
        ParameterError: another draw.
    """
    if draw not in DRAWS:
        raise ParameterError(f"draw must be one of {', '.join(DRAWS)}, not {draw!r}")
    if inclusion is None:
        inclusion = inclusion_probabilities(chances, k, draw, cap=cap)
    able = np.flatnonzero(chances > 0)
    multiplicity: NDArray[np.int64] | None = None
    if draw == "multinomial":
        counts = rng.multinomial(k, chances / chances.sum())
        chosen = np.flatnonzero(counts)
        multiplicity = counts[chosen].astype(np.int64)
    elif draw == "poisson":
        chosen = np.flatnonzero(rng.random(len(chances)) < inclusion)
    elif len(able) <= k and cap >= 1:
        chosen = able
    elif draw == "plackett_luce":
        keys = np.log(chances[able]) + rng.gumbel(size=len(able))
        chosen = able[np.argpartition(-keys, k - 1)[:k]]
    else:
        chosen = _systematic(rng, able, inclusion[able])
    chosen = np.sort(chosen).astype(np.int64)
    expected = k * chances[chosen] if draw == "multinomial" else inclusion[chosen]
    if multiplicity is None:
        multiplicity = np.ones(len(chosen), dtype=np.int64)
    return Drawn(chosen, multiplicity, inclusion[chosen], expected)


def _systematic(
    rng: np.random.Generator, able: NDArray[np.int64], inclusion: Array
) -> NDArray[np.int64]:
    """Equidistant points over the cumulated inclusions, in random order."""
    order = rng.permutation(len(able))
    ends = np.cumsum(inclusion[order])
    whole = round(float(ends[-1]))
    if abs(ends[-1] - whole) < 1e-6 * max(whole, 1):
        # Rounding must not lose the last point.
        ends *= whole / ends[-1]
        ends[-1] = whole
    steps = np.floor(ends - rng.random())
    hit = np.diff(steps, prepend=-1.0) > 0.5
    return able[order[hit]]
