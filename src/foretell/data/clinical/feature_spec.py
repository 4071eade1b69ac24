"""Which features are made of the hours of a stay, and what they are scaled by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

BLOCKS = ("last", "change", "since", "never", "mean", "min", "max", "count")
"""Features of a channel, in the order of the kernel's table of columns."""

SINCE_CAP = 200.0
STANDARD, LOG_SINCE, SHARE, PLAIN = range(4)
"""Kinds of scaling: (x - mean) / std, log(1 + hours), x / std, as it is."""

OLDEST_AGE = 90.0
"""Ages above 89 become 90: they single people out, and some hospitals never record them."""

STATIC = ("age", "sex", "unit", "admission", "hour")


@dataclass(frozen=True)
class FeatureSpec:
    """Which features are made.

    Args:
        blocks: of each channel: ``last`` value (carried forward), ``change`` since the measurement
            before, hours ``since`` the last one, ``never`` measured; ``mean`` over
            ``mean_hours``, ``min`` and ``max`` over ``extreme_hours``, ``count`` of hours with a
            measurement among ``count_hours``. Windows include the present hour.
        ratios: pairs of channels whose last values are divided, by name.
        static: of ``age`` (years, 90 from 90 on), ``sex`` (1 = male), ``unit`` (one flag a unit
            and one for unknown), ``admission`` (hours from hospital to unit), ``hour`` (on the
            unit's clock).
        units: that have a flag.
        numbers: further numbers of a stay, such as comorbidity flags, taken as they are.
        bounded: whether values outside the schema's possible bounds count as not measured.
    """

    blocks: tuple[str, ...] = ("last", "change", "since", "never")
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    static: tuple[str, ...] = STATIC
    units: tuple[str, ...] = ("MICU", "SICU")
    numbers: tuple[str, ...] = ()
    bounded: bool = True
    mean_hours: int = 72
    extreme_hours: int = 6
    count_hours: int = 8

    def __post_init__(self) -> None:
        for kind, given, known in (
            ("block", self.blocks, BLOCKS),
            ("static feature", self.static, STATIC),
        ):
            for name in given:
                if name not in known:
                    raise ParameterError(f"no {kind} is called {name!r}; known are {known}")
            if len(set(given)) != len(given):
                raise ParameterError(f"a {kind} is named twice: {given}")
        for hours in (self.mean_hours, self.extreme_hours, self.count_hours):
            if not 1 <= hours <= 24 * 14:
                raise ParameterError(f"a window must have 1 to 336 hours, not {hours}")

    @classmethod
    def named(cls, name: str) -> FeatureSpec:
        """A published selection.

        ``"p19-v1"``: last, change, since, never and all static features.
        ``"p19-windows-v1"``: these, means, extremes and counts, shock index and BUN / creatinine.
        ``"time-blind-v1"``: last and change, age, sex and unit: nothing that tells the hour or how
        often somebody looked.

        Raises:
            ParameterError: there is none of this name.
        """
        ratios = {"shock_index": ("HR", "SBP"), "bun_creatinine": ("BUN", "Creatinine")}
        known = {
            "p19-v1": cls(),
            "p19-windows-v1": cls(blocks=BLOCKS, ratios=ratios),
            "time-blind-v1": cls(blocks=("last", "change"), static=("age", "sex", "unit")),
        }
        if name not in known:
            raise ParameterError(f"no features are called {name!r}; known are {sorted(known)}")
        return known[name]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and standard deviation (F,) of each feature; ``seen`` is False where none was there.

    What fewer than ten patients had counts as never seen, so that nothing is told of single ones.
    A feature that was never seen has mean 0 and standard deviation 1. Of features that are not
    standardised (flags, hours since, counts) the mean is that of the scaled ones over all hours,
    and they are divided by what is the same for all sites.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    seen: NDArray[np.bool_]

    @property
    def divisor(self) -> NDArray[np.float64]:
        """(F,) what features are divided by: infinite, so that 0 remains, where none was seen.

        A network has random weights for what its training never showed: another hospital's values
        of it, in no unit, would drown all others.
        """
        return np.where(self.seen, self.std, np.inf)
