"""How likely each client is to be chosen, given how many examples it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ParameterError

Array = NDArray[np.float64]


class Rule(Protocol):
    """Chances of clients by their activity."""

    @property
    def name(self) -> str:
        """How logs and tables call it."""
        ...

    def shares(self, activity: Array, k: int) -> Array:
        """Unnormalised chances ``(N,)`` of clients with ``activity`` ``(N,)`` examples, all > 0."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Every client alike."""

    name = "uniform"

    def shares(self, activity: Array, k: int) -> Array:
        """Ones."""
        return np.ones(len(activity))


@dataclass(frozen=True)
class Power:
    """In proportion to ``n ** beta``: 1 is proportional, 0.5 the square root, 0 uniform."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.beta):
            raise ParameterError(f"beta must be a number, not {self.beta}")

    @property
    def name(self) -> str:
        """``proportional``, ``sqrt`` or the power."""
        return {1.0: "proportional", 0.5: "sqrt"}.get(self.beta, f"power:{self.beta:g}")

    def shares(self, activity: Array, k: int) -> Array:
        """``n ** beta``, scaled so that the largest is 1."""
        logs = self.beta * np.log(activity)
        return np.exp(logs - logs.max(initial=-np.inf))


@dataclass(frozen=True)
class Log:
    """In proportion to ``log(1 + n)``."""

    name = "log"

    def shares(self, activity: Array, k: int) -> Array:
        """``log(1 + n)``."""
        return np.log1p(activity)


@dataclass(frozen=True)
class Softmax:
    """In proportion to ``exp(n / tau)``; tau is the standard deviation of ``n`` when None."""

    tau: float | None = None

    def __post_init__(self) -> None:
        if self.tau is not None and not self.tau > 0:
            raise ParameterError(f"tau must be positive, not {self.tau}")

    @property
    def name(self) -> str:
        """``softmax``, with its temperature if one is set."""
        return "softmax" if self.tau is None else f"softmax:{self.tau:g}"

    def shares(self, activity: Array, k: int) -> Array:
        """``exp((n - max n) / tau)``; uniform when all ``n`` are equal."""
        tau = float(np.std(activity)) if self.tau is None else self.tau
        if tau == 0:
            return np.ones(len(activity))
        return np.exp((activity - activity.max(initial=-np.inf)) / tau)


@dataclass(frozen=True)
class Threshold:
    """Uniform among clients with at least ``minimum`` examples."""

    minimum: float = 1

    @property
    def name(self) -> str:
        """``threshold`` and the minimum."""
        return f"threshold:{self.minimum:g}"

    def shares(self, activity: Array, k: int) -> Array:
        """1 at or above the minimum, else 0."""
        return (activity >= self.minimum).astype(float)


@dataclass(frozen=True)
class TopK:
    """The ``k`` most active clients, always the same: a baseline that shows what goes wrong."""

    name = "top_k"

    def shares(self, activity: Array, k: int) -> Array:
        """1 for the ``k`` largest, ties by position, else 0."""
        chosen = np.zeros(len(activity))
        chosen[np.argsort(-activity, kind="stable")[:k]] = 1
        return chosen


_NAMED: dict[str, Callable[..., Rule]] = {
    "uniform": Uniform,
    "sqrt": lambda: Power(0.5),
    "proportional": lambda: Power(1.0),
    "power": Power,
    "log": Log,
    "softmax": Softmax,
    "threshold": Threshold,
    "top_k": TopK,
}


def make_rule(rule: str | Rule) -> Rule:
    """A rule by its name, such as ``"log"``, ``"power:0.7"`` or ``"threshold:10"``.

    Raises:
        ParameterError: there is none of that name, or its number is none.
    """
    if not isinstance(rule, str):
        return rule
    name, colon, value = rule.partition(":")
    if name not in _NAMED or (colon and name not in ("power", "softmax", "threshold")):
        raise ParameterError(
            f"there is no selection rule {rule!r}: they are {', '.join(_NAMED)} (power, softmax "
            "and threshold take a number, as in 'power:0.7')"
        )
    try:
        return _NAMED[name](*([float(value)] if colon else []))
    except ValueError as error:
        raise ParameterError(f"selection rule {rule!r}: {error}") from None
