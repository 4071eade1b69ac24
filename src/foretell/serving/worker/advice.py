"""Which measurement would tell most about a live stay: an offer to clinicians, never an order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.schema import Schema
from foretell.decisions.sensing import (
    EIGSensing,
    Panel,
    Recommendation,
    SensingPolicy,
    Situation,
    UncertaintyPropagationSensing,
    panel_tables,
    panels_of,
)
from foretell.errors import ForetellError, ParameterError
from foretell.serving.worker.state import STANDS

if TYPE_CHECKING:
    from foretell.decisions.sensing import HourlySensing

_ROUNDING = 1e-9
_SPREAD = 1.0
"""Features are standardised: what a measurement may show lies about one deviation around."""


def site_panels(
    file: str | Path | None,
    terms: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    key: str = "sensing.panels",
) -> dict[str, Any]:
    """The tables of a site's own file of panels, checked; those of foretell for None.

    Args:
        file: of the site.
        terms: panel -> what holds instead of what the file says: ``cost``, ``turnaround``, ...
        key: of the configuration, for errors.

    Raises:
        ParameterError: the file cannot be read, says something that cannot be, names a channel
            that no model knows, or leaves no panel that can be ordered; or terms are of a panel
            that there is not.
    """
    if file is None and not terms:
        return panel_tables()
    names = Schema.default().names
    try:
        tables = panel_tables(file)
        for panel, told in (terms or {}).items():
            if panel not in tables:
                close = get_close_matches(panel, list(tables), n=1)
                meant = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(tables)}"
                raise ParameterError(f"costs name {panel!r}, which is no panel there; {meant}")
            if isinstance(tables[panel], dict):
                tables[panel] = {**tables[panel], **told}
        found = panels_of(tables, {c: i for i, c in enumerate(names)}, name=str(file))
        for panel, told in tables.items():
            for channel in told["channels"]:
                if channel not in names:
                    close = get_close_matches(channel, names, n=1)
                    meant = f"; did you mean {close[0]!r}?" if close else ""
                    raise ParameterError(
                        f"panel {panel!r} names {channel!r}, which is no variable{meant}"
                    )
        if not found:
            raise ParameterError("there is no panel that can be ordered")
    except ForetellError as error:
        raise ParameterError(f"{key}, {file or 'panels.toml of foretell'}: {error}") from None
    return tables


class _Gains(UncertaintyPropagationSensing):
    def __init__(
        self,
        predict: Callable[[NDArray], NDArray],
        risk: float,
        panels: Sequence[Panel],
        size: int,
    ):
        super().__init__(self._slopes, panels, np.full(size, _SPREAD))
        self._predict, self._risk = predict, risk
        self._used = np.array([i for p in panels for i in p.features], np.int64)

    def risk(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        return np.full(len(np.asarray(values)), self._risk)

    def _slopes(self, values: NDArray, seen: NDArray) -> NDArray[np.float64]:
        out = np.zeros(values.shape)
        for row, x in enumerate(values):
            table = np.repeat(x[None], 2 * len(self._used), axis=0)
            for k, column in enumerate(self._used):
                table[2 * k, column] += 0.5
                table[2 * k + 1, column] -= 0.5
            p = self._predict(table).reshape(-1, 2)
            out[row, self._used] = p[:, 0] - p[:, 1]
        return out


class _Informed:
    """Expected information gain, beside the risk that the deployed model told."""

    def __init__(self, sensing: EIGSensing, risk: float) -> None:
        self.panels, self.gains, self.method = sensing.panels, sensing.gains, sensing.method
        self._risk = risk

    def risk(self, values: ArrayLike, seen: ArrayLike) -> NDArray[np.float64]:
        return np.full(len(np.asarray(values)), self._risk)


class Adviser:
    """Panels whose missing or old values leave the risk uncertain.

    By their expected information gain where the deployment brings what that needs
    (:class:`~foretell.decisions.sensing.HourlySensing`); by first-order propagation of uncertainty
    through the deployed model where it does not. Recommendations say which.

    Args:
        names: (F,) of the model's standardised features.
        schema: of the channels.
        fresh: hours for which a value counts as known, and a panel is not offered again, where the
            panel does not tell its own (``refractory``).
        least: smallest standard deviation of the risk that a panel must account for. Of information
            it is what such a deviation is worth at a risk r: ``least^2 / (2 r (1 - r))`` nats.
        panels: tables of the panels (:func:`site_panels`); those of foretell by default.
        sensing: of the deployment, if it has any.
    """

    def __init__(
        self,
        names: Sequence[str],
        schema: Schema,
        *,
        fresh: int = 6,
        least: float = 0.005,
        panels: Mapping[str, Any] | None = None,
        sensing: HourlySensing | None = None,
    ) -> None:
        place = {str(n): i for i, n in enumerate(names)}
        self._channels: dict[str, list[int]] = {}
        self._panels: list[Panel] = []
        self._codes: dict[str, set[str]] = {}
        columns = {c: place[f"{c}:last"] for c in schema.names if f"{c}:last" in place}
        of_column = {column: c for c, column in columns.items()}
        tables = site_panels(None) if panels is None else panels
        for panel in panels_of(tables, columns, refractory=float(fresh)):
            known = [of_column[column] for column in panel.features]
            codes = tuple(schema[c].loinc[0] for c in known if schema[c].loinc)
            self._panels.append(replace(panel, loinc=panel.loinc or codes))
            self._channels[panel.name] = [schema.names.index(c) for c in known]
            self._codes[panel.name] = {code for c in known for code in schema[c].loinc}
            self._codes[panel.name] |= set(panel.loinc)
        self._size, self._least = len(names), least
        self._names, self._sensing = [str(n) for n in names], sensing
        self._gain: EIGSensing | None = None
        if sensing is not None:
            self._places = [schema.names.index(c) for c in sensing.channels]
            if panels_known := self._known(sensing, schema):
                self._gain = sensing.gain(panels_known)

    def _known(self, sensing: HourlySensing, schema: Schema) -> list[Panel]:
        """The panels by the sensing's own features, without those that nobody had."""
        place = {schema.names.index(c): i for i, c in enumerate(sensing.channels)}
        out = []
        for panel in self._panels:
            features = tuple(place[c] for c in self._channels[panel.name] if c in place)
            if features and sensing.sampler.knows(features):
                out.append(replace(panel, features=features))
        return out

    def _last(self, since: NDArray[np.int64], known: NDArray[np.bool_]) -> dict[str, float]:
        """Panel -> hours since the last value that it brings; left out where there was none."""
        out: dict[str, float] = {}
        for name, mine in self._channels.items():
            there = [float(since[c]) for c in mine if known[c]]
            if there:
                out[name] = min(there)
        return out

    def _pending(self, ordered: Collection[str]) -> list[str]:
        return [p.name for p in self._panels if self._codes[p.name].intersection(ordered)]

    def _fresh(self, since: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(F,) whether a feature is a value that counts as known."""
        seen = np.zeros(self._size, bool)
        for panel in self._panels:
            for column, c in zip(panel.features, self._channels[panel.name], strict=True):
                seen[column] = bool(known[c] and since[c] < panel.refractory)
        return seen

    def open(
        self, since: NDArray[np.int64], known: NDArray[np.bool_], ordered: Collection[str] = ()
    ) -> set[str]:
        """Panels that are neither ordered nor measured within their refractory hours.

        Args:
            since: (C,) hours since the last value of each channel.
            known: (C,) whether there was one.
            ordered: LOINC codes of pending orders.
        """
        last, pending = self._last(since, known), self._pending(ordered)
        return {
            p.name for p in self._panels
            if p.name not in pending and last.get(p.name, np.inf) > p.refractory
        }  # fmt: skip

    @property
    def channels(self) -> dict[str, frozenset[int]]:
        """Numbers of the channels that each panel brings."""
        return {name: frozenset(mine) for name, mine in self._channels.items()}

    def __call__(
        self,
        predict: Callable[[NDArray], NDArray],
        features: NDArray[np.float32],
        since: NDArray[np.int64],
        known: NDArray[np.bool_],
        *,
        risk: float,
        hour: int,
        ordered: Collection[str] = (),
        asked: Mapping[str, int] | None = None,
        k: int = 2,
    ) -> list[Recommendation]:
        """At most k panels, the best first; often none.

        A panel that was offered stands when the next hour closes, with the hour by which its
        result was expected, and is then not offered again for its refractory hours. Until then,
        or until it is ordered or measured, it counts among the ``k``: what nobody wants is not
        followed by everything else.

        Args:
            predict: (n, F) features to (n,) risks.
            features: (F,) of the hour.
            since: (C,) hours since the last value of each channel.
            known: (C,) whether there was one.
            risk: of the hour.
            hour: of the stay.
            ordered: LOINC codes of pending orders.
            asked: panel -> hour of the stay in which it was offered last.
            k: at most so many.
        """
        if not self._panels:
            return []
        last = self._last(since, known)
        pending = self._pending(ordered)
        held = {name: hour - made for name, made in (asked or {}).items() if name in self._codes}
        situation = Situation(
            hour=float(hour), since=last, pending=pending,
            recommended={name: float(gone) for name, gone in held.items() if gone > STANDS},
        )  # fmt: skip
        refractory = {p.name: p.refractory for p in self._panels}
        unanswered = sum(
            STANDS < gone <= min(refractory[name], last.get(name, np.inf)) and name not in pending
            for name, gone in held.items()
        )
        if unanswered >= k:
            return []
        if self._gain is not None and self._sensing is not None:
            values, new = self._sensing.inputs(
                self._names, features[None], since[None, self._places], known[None, self._places]
            )
            given, mask = values[0], new[0]
            policy = SensingPolicy(
                _Informed(self._gain, risk),
                min_utility=self._least**2 / (2 * max(risk * (1 - risk), _ROUNDING)),
            )
            situation = _among(situation, {panel.name for panel in self._gain.panels})
        else:
            given, mask = features, self._fresh(since, known)
            policy = SensingPolicy(
                _Gains(predict, risk, self._panels, self._size), min_utility=self._least**2
            )
        found = policy.recommend(given, mask, situation, k=k - unanswered)
        return [
            replace(r, expected_result_by=r.expected_result_by - held[r.panel])
            if 0 < held.get(r.panel, 0) <= STANDS else r
            for r in found
        ]  # fmt: skip


def _among(situation: Situation, names: Collection[str]) -> Situation:
    """What of a situation concerns some panels."""
    return replace(
        situation,
        since={n: t for n, t in situation.since.items() if n in names},
        recommended={n: t for n, t in situation.recommended.items() if n in names},
        pending=[n for n in situation.pending if n in names],
    )


def told(found: Sequence[Recommendation]) -> list[dict[str, Any]]:
    """Recommendations as JSON."""
    return [
        {
            "cost": r.cost, "gain": round(r.gain, 8), "loinc": list(r.loinc), "method": r.method,
            "panel": r.panel, "reason": r.reason, "result_by": r.expected_result_by,
        }
        for r in found
    ]  # fmt: skip
