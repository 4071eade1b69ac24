"""Choosing the clients of a round by their activity (Dupuy et al. 2022)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError
from foretell.training.federated.draws import (
    DRAWS,
    Draw,
    Drawn,
    draw_clients,
    inclusion_probabilities,
)
from foretell.training.federated.rules import Rule, TopK, make_rule

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ActivitySelection:
    """Chooses clients by how many examples they have, which the server knows at no cost.

    "Learnings from federated learning in the real world", Dupuy, Roosta, Long, Chung, Gupta and
    Avestimehr, ICASSP 2022. Clients without an example are never chosen.

    Args:
        rule: ``"uniform"``, ``"log"``, ``"sqrt"``, ``"proportional"``, ``"power:0.7"``,
            ``"softmax"``, ``"threshold:10"``, ``"top_k"``, or a rule of one's own.
        draw: ``"systematic_pps"``, ``"plackett_luce"``, ``"poisson"`` or ``"multinomial"``; see
            :func:`foretell.training.federated.draws.draw_clients`.
        floor: share of the chances that is spread evenly over all clients with examples, so that
            each has a chance.
        q_max: the largest chance of a client to be in a round (``systematic_pps``, ``poisson``).
            What an active client's privacy costs grows with it.
        cap: see :class:`foretell.training.federated.activity.ActivityLog`.

    Raises:
        ParameterError: a value out of its range, or no such rule or draw.
    """

    rule: str | Rule = "log"
    draw_by: Draw = field(default="systematic_pps")
    floor: float = 0.0
    q_max: float | None = None
    cap: float | None = 0.999

    def __init__(
        self,
        rule: str | Rule = "log",
        draw: Draw = "systematic_pps",
        floor: float = 0.0,
        q_max: float | None = None,
        cap: float | None = 0.999,
    ) -> None:
        # ``draw`` names both the argument and the verb; the field keeps the argument.
        for name, value in (
            ("rule", rule), ("draw_by", draw), ("floor", floor), ("q_max", q_max), ("cap", cap),
        ):  # fmt: skip
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_rule", make_rule(rule))
        if draw not in DRAWS:
            raise ParameterError(f"draw must be one of {', '.join(DRAWS)}, not {draw!r}")
        if not 0 <= floor <= 1:
            raise ParameterError(f"floor must lie in [0, 1], not {floor}")
        if q_max is not None:
            if not 0 < q_max <= 1:
                raise ParameterError(f"q_max must lie in (0, 1], not {q_max}")
            if draw not in ("systematic_pps", "poisson"):
                raise ParameterError(
                    f"q_max cannot be held with draw {draw!r}: take 'poisson' or 'systematic_pps'"
                )

    @property
    def made_rule(self) -> Rule:
        """The rule as an object."""
        rule: Rule = self._rule  # type: ignore[attr-defined]
        return rule

    @property
    def name(self) -> str:
        """Name of the rule."""
        return self.made_rule.name

    def probabilities(self, activity: Any, k: int = 1) -> Array:
        """Chances ``p`` ``(N,)`` that sum to 1.

        Args:
            activity: number of examples of each client ``(N,)``.
            k: clients a round; only ``top_k`` asks for it.

        Raises:
            DataError: a number is negative or not finite (names the client), or all are 0.
        """
        n = check_activity(activity)
        able = np.flatnonzero(n > 0)
        chances = np.zeros(len(n))
        shares = self.made_rule.shares(n[able], k)
        if not shares.sum() > 0:
            if self.floor == 0:
                raise DataError(f"the rule {self.name!r} leaves no client to choose")
            shares = np.ones(len(able))
        chances[able] = (1 - self.floor) * shares / shares.sum() + self.floor / len(able)
        return chances

    def inclusion(self, activity: Any, k: int) -> Array:
        """Chance of each client to be in a round ``(N,)``."""
        return inclusion_probabilities(
            self.probabilities(activity, k), k, self.draw_by, cap=self._cap
        )

    def draw(
        self, rng: np.random.Generator, k: int, activity: Any, *, inclusion: Array | None = None
    ) -> Drawn:
        """Draws the clients of a round.

        Args:
            rng: source of randomness.
            k: clients a round; all that can be chosen are taken, with a warning, if they are fewer.
            activity: number of examples of each client ``(N,)``.
            inclusion: what :meth:`inclusion` gave, to save computing it again.

        Raises:
            ParameterError: ``k`` is not positive.
            DataError: see :meth:`probabilities`.
        """
        if k < 1:
            raise ParameterError(f"at least one client must be drawn, not {k}")
        chances = self.probabilities(activity, k)
        able = int((chances > 0).sum())
        fixed = self.draw_by in ("systematic_pps", "plackett_luce")
        if able < k and fixed and not isinstance(self.made_rule, TopK):
            warnings.warn(
                f"{k} clients a round were asked for, but only {able} can be chosen: all of them "
                "are taken",
                stacklevel=2,
            )
        return draw_clients(rng, chances, k, self.draw_by, cap=self._cap, inclusion=inclusion)

    @property
    def _cap(self) -> float:
        return 1.0 if self.q_max is None else self.q_max


def check_activity(activity: Any) -> Array:
    """Numbers of examples ``(N,)`` as floats.

    Raises:
        DataError: a number is negative or not finite, or all are 0.
    """
    n = np.asarray(activity, dtype=float)
    if n.ndim != 1 or not len(n):
        raise DataError(f"activity must be a number for each client, not of shape {n.shape}")
    wrong = ~np.isfinite(n) | (n < 0)
    if wrong.any():
        client = int(wrong.argmax())
        raise DataError(
            f"client {client} has {n[client]:g} examples", hint="It must be a number from 0 on"
        )
    if not n.any():
        raise DataError("no client has any example")
    return n
