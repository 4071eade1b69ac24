"""The router: expert rules, kept as a table, that say which models a series is given."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.errors import ParameterError
from foretell.learners.demand.legacy.history import seasonal_strength

Condition = tuple[str, str, float]
Rule = tuple[str, tuple[Condition, ...]]

FEATURES = ("observed", "seasons", "nonzero", "adi", "cv2", "seasonal_strength")
OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

DEFAULT_RULES: tuple[Rule, ...] = (
    ("new", (("observed", "<", 8),)),
    ("new", (("observed", "<", 26), ("seasons", "<", 0.5))),
    ("lumpy", (("adi", ">", 1.32), ("cv2", ">", 0.49))),
    ("intermittent", (("adi", ">", 1.32),)),
    ("seasonal", (("seasonal_strength", ">", 0.4),)),
    ("regular", ()),
)
"""First rule whose conditions all hold. Thresholds of ADI and CV^2: Syntetos, Boylan & Croston
2005, "On the categorization of demand patterns"."""


class Router(BaseEstimator):
    """Sends each series to a route by the first rule of a table that it meets.

    Features of a series at an origin: ``observed`` (number of observed periods), ``seasons``
    (the same in seasons), ``nonzero``, ``adi`` (average demand interval: observed periods per
    nonzero one), ``cv2`` (squared coefficient of variation of the nonzero sizes) and
    ``seasonal_strength`` (see :func:`~foretell.learners.demand.legacy.history.seasonal_strength`).

    Args:
        rules: ``(route, ((feature, operator, threshold), ...))`` in order of precedence; the last
            one must have no condition.
    """

    def __init__(self, rules: Sequence[Rule] = DEFAULT_RULES) -> None:
        self.rules = rules

    @property
    def routes(self) -> tuple[str, ...]:
        """Names of the routes, in the order of the rules."""
        return tuple(dict.fromkeys(route for route, _ in self.rules))

    def features(self, values: NDArray, season: int) -> dict[str, NDArray[np.float64]]:
        """The features of each row of a history (N, T)."""
        seen = np.isfinite(values)
        observed = seen.sum(axis=1).astype(np.float64)
        positive = seen & (values != 0)
        nonzero = positive.sum(axis=1).astype(np.float64)
        sizes = np.where(positive, np.abs(values), 0.0)
        mean = sizes.sum(axis=1) / np.maximum(nonzero, 1)
        variance = np.where(positive, (sizes - mean[:, None]) ** 2, 0.0).sum(axis=1)
        variance /= np.maximum(nonzero, 1)
        return {
            "observed": observed,
            "seasons": observed / max(season, 1),
            "nonzero": nonzero,
            "adi": np.where(nonzero > 0, observed / np.maximum(nonzero, 1), np.inf),
            "cv2": np.where(nonzero > 0, variance / np.maximum(mean, 1e-12) ** 2, 0.0),
            "seasonal_strength": seasonal_strength(values, season),
        }

    def route(
        self, values: NDArray, season: int
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]], NDArray[np.int64]]:
        """Routes each row of a history (N, T).

        Returns:
            The position of its route in :attr:`routes` (N,), the features, and the position of
            the rule that decided (N,).
        """
        self.check()
        features = self.features(values, season)
        decided = np.full(len(values), -1, np.int64)
        for i, (_, conditions) in enumerate(self.rules):
            holds = np.ones(len(values), bool)
            for feature, symbol, threshold in conditions:
                holds &= OPERATORS[symbol](features[feature], threshold)
            decided[(decided < 0) & holds] = i
        names = self.routes
        of_rule = np.array([names.index(route) for route, _ in self.rules], np.int64)
        return of_rule[decided], features, decided

    def reasons(
        self, features: dict[str, NDArray[np.float64]], decided: NDArray[np.int64]
    ) -> list[str]:
        """Why each row got its route, in words: ``"adi 2.1 > 1.32"``."""
        texts = []
        for row, rule in enumerate(decided):
            conditions = self.rules[rule][1]
            parts = [f"{f} {features[f][row]:.3g} {o} {t:g}" for f, o, t in conditions]
            texts.append(" and ".join(parts) or "no other rule applies")
        return texts

    def check(self) -> None:
        """Raises ParameterError where the table of rules cannot be used."""
        if not self.rules or self.rules[-1][1]:
            raise ParameterError("the router's last rule must have no condition")
        for route, conditions in self.rules:
            for feature, symbol, _ in conditions:
                if feature not in FEATURES:
                    raise ParameterError(
                        f"rule for {route!r}: feature {feature!r} is not known; "
                        f"known are {', '.join(FEATURES)}"
                    )
                if symbol not in OPERATORS:
                    raise ParameterError(
                        f"rule for {route!r}: operator {symbol!r} is not one of "
                        f"{', '.join(OPERATORS)}"
                    )

    @classmethod
    def from_json(cls, parameters: dict[str, Any]) -> Router:
        """The router of stored parameters."""
        return cls(
            tuple((r, tuple((f, o, float(t)) for f, o, t in c)) for r, c in parameters["rules"])
        )
