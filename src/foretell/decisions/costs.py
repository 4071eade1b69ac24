"""What a unit too few and a unit too many cost, and the quantile that balances them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ParameterError


@dataclass(frozen=True)
class UnitCosts:
    """Cost of one unit short and of one unit left over, (M,) each, in money per unit.

    ``relative`` where only their ratio is known (a service level was given: they sum to one).
    """

    underage: NDArray[np.float64]
    overage: NDArray[np.float64]
    relative: bool = False


def critical_fractile(underage: ArrayLike, overage: ArrayLike) -> NDArray[np.float64]:
    """The newsvendor's optimal probability of not running out, ``Cu / (Cu + Co)``.

    0 where a sale does not pay (``Cu <= 0``): the best order is none.

    Args:
        underage: Cu, cost of one unit of unmet demand (lost margin, penalty).
        overage: Co > 0, cost of one unit left over (holding, write-off).

    Raises:
        ParameterError: Co is not positive (leftovers that cost nothing ask for an unlimited order)
            or a cost is not finite.
    """
    short, over = np.asarray(underage, np.float64), np.asarray(overage, np.float64)
    if not (np.isfinite(short).all() and np.isfinite(over).all()):
        raise ParameterError("underage and overage costs must be finite numbers")
    if np.any(over <= 0):
        raise ParameterError(
            f"the overage cost must be positive, not {over[over <= 0].ravel()[0]:g}: leftovers "
            "that cost nothing ask for an unlimited order"
        )
    return np.where(short > 0, short / np.where(short > 0, short + over, 1), 0.0)


def unit_costs(
    *,
    underage: ArrayLike | None = None,
    overage: ArrayLike | None = None,
    service_level: ArrayLike | None = None,
    price: ArrayLike | None = None,
    unit_cost: ArrayLike | None = None,
    salvage: ArrayLike | None = None,
    holding: ArrayLike | None = None,
) -> UnitCosts:
    """Unit costs from one of three ways to state them.

    - ``underage`` and ``overage``: as they are;
    - ``service_level`` a in (0, 1): ``Cu = a``, ``Co = 1 - a``;
    - ``price`` and ``unit_cost``: ``Cu = price - unit_cost``,
      ``Co = unit_cost - salvage + holding`` (salvage and holding 0 unless given).

    Raises:
        ParameterError: none or more than one way is given, or a number is out of range.
    """
    ways = {
        "underage and overage": (underage, overage),
        "service_level": (service_level,),
        "price and unit_cost": (price, unit_cost),
    }
    given = [name for name, parts in ways.items() if any(p is not None for p in parts)]
    if len(given) != 1 or any(p is None for p in ways[given[0]]):
        raise ParameterError(
            f"give exactly one of {', or '.join(ways)} (each whole); given: "
            f"{', '.join(given) or 'none'}"
        )
    if given[0] != "price and unit_cost" and (salvage is not None or holding is not None):
        raise ParameterError("salvage and holding go with price and unit_cost only")
    if service_level is not None:
        level = np.asarray(service_level, np.float64)
        bad = ~((level > 0) & (level < 1))
        if bad.any():
            raise ParameterError(
                f"a service level lies inside (0, 1), not {level[bad].ravel()[0]:g}"
            )
        return UnitCosts(level, 1 - level, relative=True)
    if underage is not None and overage is not None:
        short = np.asarray(underage, np.float64)
        if np.any(short < 0):
            raise ParameterError(
                f"the underage cost must not be negative, not {short[short < 0].ravel()[0]:g}"
            )
        return UnitCosts(short, np.asarray(overage, np.float64))
    cost = np.asarray(unit_cost, np.float64)
    for name, value in (("unit_cost", cost), ("price", np.asarray(price, np.float64))):
        if np.any(value < 0):
            raise ParameterError(f"{name} must not be negative")
    left = cost - (0.0 if salvage is None else np.asarray(salvage, np.float64))
    left = left + (0.0 if holding is None else np.asarray(holding, np.float64))
    return UnitCosts(np.asarray(price, np.float64) - cost, left)
