"""When to recommend a measurement, and which: rarely, and never what was just done or ordered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.sensing.panels import Panel
from foretell.errors import DataError, ParameterError

CAVEAT = (
    "Judged on records, only tests that clinicians ordered can be revealed: what was not ordered "
    "is not missing at random."
)
"""What every report of a retrospective evaluation says."""


class Gains(Protocol):
    """Something that knows what each panel is expected to tell."""

    @property
    def panels(self) -> Sequence[Panel]:
        """What can be measured."""
        ...

    def gains(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(n, P) gains."""
        ...

    def risk(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        """(n,) risks."""
        ...


@dataclass(frozen=True)
class Recommendation:
    """A measurement worth asking for. Decision support: it is never ordered by itself.

    Attributes:
        panel: its name.
        gain: expected gain, in the unit of the sensing.
        cost: of the panel.
        utility: gain by cost.
        hour: at which it was recommended.
        expected_result_by: hour.
        loinc: codes of the order.
        reason: in words.
        disagreement: standard deviation of the risk over the members of an ensemble; None for a
            single model.
        method: by which the gain was found, in words; empty where the sensing names none.
    """

    panel: str
    gain: float
    cost: float
    utility: float
    hour: float
    expected_result_by: float
    loinc: tuple[str, ...]
    reason: str
    disagreement: float | None = None
    method: str = ""


@dataclass(frozen=True)
class Situation:
    """What is known of a patient beside the measurements.

    Args:
        hour: now.
        since: hours since the last result of a panel, by name; left out where there was none.
        recommended: hours since a panel was last recommended, by name: for its refractory hours it
            is not recommended again, whatever became of it.
        pending: panels that are ordered already.
        unavailable: panels that cannot be had here and now.
        suppressed: why nothing is to be asked, such as comfort care or dialysis; None otherwise.
        certain: whether the prediction set holds one label only: then nothing needs asking.
    """

    hour: float = 0.0
    since: Mapping[str, float] = field(default_factory=dict)
    recommended: Mapping[str, float] = field(default_factory=dict)
    pending: Collection[str] = ()
    unavailable: Collection[str] = ()
    suppressed: str | None = None
    certain: bool = False


@dataclass(frozen=True)
class SensingPolicy:
    """Recommends panels whose gain is worth their cost.

    Args:
        sensing: tells gains, such as :class:`EIGSensing`.
        min_utility: least gain by cost.
        risk_range: risks for which a measurement may matter.
        price: None ranks by ``gain / cost``; a number by ``gain - price * cost``.
    """

    sensing: Gains
    min_utility: float = 0.0
    risk_range: tuple[float, float] = (0.0, 1.0)
    price: float | None = None

    def __post_init__(self) -> None:
        low, high = self.risk_range
        if not 0 <= low < high <= 1:
            raise ParameterError(f"risk_range must ascend within [0, 1], not {self.risk_range}")
        if self.min_utility < 0 or (self.price is not None and self.price < 0):
            raise ParameterError("min_utility and price must not be negative")

    def utilities(self, gains: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, P) what panels are worth, from their gains (n, P)."""
        costs = np.array([panel.cost for panel in self.sensing.panels])
        return gains / costs if self.price is None else gains - self.price * costs

    def recommend(
        self, values: ArrayLike, seen: ArrayLike, situation: Situation | None = None, *, k: int = 1
    ) -> list[Recommendation]:
        """The panels to ask for, best first; often none.

        Args:
            values: (F,) of one patient.
            seen: (F,) bool.
            situation: orders, times and flags.
            k: at most so many.

        Raises:
            DataError: the situation names an unknown panel.
        """
        now = Situation() if situation is None else situation
        names = [panel.name for panel in self.sensing.panels]
        told = {*now.since, *now.recommended, *now.pending, *now.unavailable}
        unknown = told - set(names)
        if unknown:
            raise DataError(f"there is no panel {min(unknown)!r}; known are {', '.join(names)}")
        if now.suppressed is not None or now.certain:
            return []
        X, S = np.asarray(values, np.float64)[None], np.asarray(seen, bool)[None]
        risk = float(self.sensing.risk(X, S)[0])
        if not self.risk_range[0] <= risk <= self.risk_range[1]:
            return []
        gains = self.sensing.gains(X, S)
        worth = self.utilities(gains)[0]
        spread = getattr(self.sensing, "disagreement", None)
        doubt = None if spread is None else spread(X, S)
        method = str(getattr(self.sensing, "method", ""))
        found = []
        for j in np.argsort(-worth, kind="stable"):
            panel = self.sensing.panels[j]
            since = now.since.get(panel.name)
            if not worth[j] > self.min_utility or gains[0, j] <= 0:
                break
            if panel.name in now.pending or panel.name in now.unavailable:
                continue
            asked = now.recommended.get(panel.name)
            if any(t is not None and t <= panel.refractory for t in (since, asked)):
                continue
            last = "never measured" if since is None else f"last measured {since:.0f} h ago"
            found.append(
                Recommendation(
                    panel.name, float(gains[0, j]), panel.cost, float(worth[j]), now.hour,
                    now.hour + panel.turnaround, panel.loinc,
                    f"risk {100 * risk:.1f} %; {panel.name} {last}; "
                    f"expected gain {_digits(gains[0, j])} at cost {panel.cost:g}"
                    + (f", by {method}" if method else ""),
                    None if doubt is None else float(doubt[0]), method,
                )
            )  # fmt: skip
            if len(found) == k:
                break
        return found


def _digits(gain: float) -> str:
    """Two digits that mean something, without an exponent."""
    return np.format_float_positional(gain, precision=2, fractional=False, trim="-")


def reveal(
    order: NDArray[np.int64] | None,
    sensing: Gains,
    values: ArrayLike,
    start: ArrayLike,
    available: ArrayLike,
    *,
    budget: int,
    policy: SensingPolicy | None = None,
    seed: int = 0,
) -> list[NDArray[np.bool_]]:
    """Plays a policy on records: panels are revealed one after the other.

    Only panels that were measured can be revealed (:data:`CAVEAT`).

    Args:
        order: (P,) panels in a fixed order; None for ``policy``, or at random without one.
        sensing: whose panels are revealed.
        values: (n, F), all values.
        start: (n, F) bool, seen at the start.
        available: (n, F) bool, on record.
        budget: panels that each patient gets.
        policy: ranks panels by their utility.
        seed: of the random policy.

    Returns:
        What is seen after 0, 1, ..., ``budget`` panels: masks (n, F).
    """
    X, seen, record = np.asarray(values), np.array(start, bool), np.asarray(available, bool)
    panels = sensing.panels
    rng = np.random.default_rng(seed)
    steps = [seen.copy()]
    for _ in range(budget):
        left = np.stack(
            [
                record[:, list(p.features)].any(1) & ~seen[:, list(p.features)].any(1)
                for p in panels
            ],
            axis=1,
        )
        if order is not None:
            worth = np.broadcast_to(-np.argsort(order).astype(np.float64), left.shape).copy()
        elif policy is not None:
            worth = policy.utilities(sensing.gains(X, seen))
        else:
            worth = rng.random(left.shape)
        worth = np.where(left, worth, -np.inf)
        best = worth.argmax(1)
        for j, panel in enumerate(panels):
            rows = np.flatnonzero((best == j) & np.isfinite(worth[np.arange(len(X)), best]))
            columns = np.array(panel.features)
            seen[np.ix_(rows, columns)] |= record[np.ix_(rows, columns)]
        steps.append(seen.copy())
    return steps
