"""A deployment as scorer: its risk model behind its gate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.clinical.schema import Schema
from foretell.decisions.abstention import Gated, GateStream, Status
from foretell.estimators.risk.additive import AdditiveRisk
from foretell.estimators.risk.nearby import what_if
from foretell.serving.deployment import Deployment
from foretell.serving.worker.advice import Adviser, told
from foretell.serving.worker.scorer import OK, TOLD, Memory, Risk

_GATE = "gate_"
_MODEL = "model_"


class _Stream:
    """Features of a stay with the row they are made of behind them: the gate judges the row."""

    def __init__(self, features: Any) -> None:
        self._features = features

    def step(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([self._features.step(row), row])

    def snapshot(self) -> dict[str, NDArray]:
        return dict(self._features.snapshot())

    def restore(self, held: Mapping[str, NDArray]) -> None:
        self._features.restore(held)


class _Builder:
    def __init__(self, builder: Any, plain: bool) -> None:
        self._builder, self.schema, self._plain = builder, builder.schema, plain

    def stream(self, *, scaled: bool, **described: Any) -> _Stream:
        # Features that are never scaled do not ask.
        asked = {} if self._plain else {"scaled": scaled}
        return _Stream(self._builder.stream(**described, **asked))


class DeploymentScorer:
    """The model and the gate of a deployment, hour by hour; equal to :meth:`Deployment.judge`.

    A score that the gate withholds is none: its status is the gate's, its reason what the gate
    says in words.

    Args:
        deployment: as it was saved: its version names it.
        drivers: names of channels told of a risk at most; 0 for none.
        panels: tables of what can be ordered; those of foretell by default.
        site_panels: site -> the same, where it has its own.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        drivers: int = TOLD,
        panels: Mapping[str, Any] | None = None,
        site_panels: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.deployment, self.version = deployment, deployment.version
        self._model, self._most = deployment.model, drivers
        # Where times are censored later, risks are still those of the score's horizon.
        self.horizon = float(
            getattr(deployment.model, "score_horizon", None) or deployment.model.horizon
        )
        features = deployment.model.features_
        # Trees take features as they are.
        self._trees: Any = getattr(deployment.model, "trees_", None)
        self.scaled = self._trees is None
        self.builder: Any = _Builder(features, plain=self._trees is not None)
        self._gate: GateStream = deployment.gate.stream()
        self._size = features.n_features
        self._groups = _groups(features.names)
        self._what_if = what_if(deployment.model)
        self._mean: Any = features.reference() if self.scaled else None
        self._adviser: Adviser | None = None
        if self._trees is None:
            self._adviser = Adviser(
                features.names, self.schema, panels=panels, sensing=deployment.sensing
            )
        self._advisers = {} if self._adviser is None else {
            site: Adviser(features.names, self.schema, panels=own, sensing=deployment.sensing)
            for site, own in (site_panels or {}).items()
        }  # fmt: skip

    @property
    def schema(self) -> Schema:
        """The channels."""
        return self.deployment.gate.schema

    @property
    def panels(self) -> dict[str, frozenset[int]]:
        """Numbers of the channels of each panel that may be offered."""
        return self.panels_at(None)

    def panels_at(self, site: str | None) -> dict[str, frozenset[int]]:
        """The same for a site, which may have panels of its own."""
        adviser = self._adviser_of(site)
        return {} if adviser is None else adviser.channels

    def _adviser_of(self, site: str | None) -> Adviser | None:
        return self._adviser if site is None else self._advisers.get(site, self._adviser)

    def state0(self) -> dict[str, NDArray]:
        """The memories of model and gate before the first hour."""
        memory = {_MODEL + k: np.asarray(v) for k, v in self._model.memory().items()}
        return memory | _plain(self.deployment.gate.stream().snapshot())

    def step(self, state: Memory, features: NDArray[np.float32]) -> tuple[dict[str, NDArray], Risk]:
        """The memories after an hour, and its risk or why there is none."""
        used, row = features[: self._size], features[self._size :]
        memory = _of_model(state)
        value, after = self._model.advance(memory, used)
        self._gate.restore(_snapshot(state))
        gated = self._gate.push(row, value, self.deployment.hidden(used))
        held = {_MODEL + k: np.asarray(v) for k, v in after.items()}
        held |= _plain(self._gate.snapshot())
        # What is not told needs no explanation.
        drivers = self._drivers(memory, used, float(value)) if gated.issued[0] else ()
        return held, self._risk(gated, drivers)

    def advise(
        self,
        state: Memory,
        features: NDArray[np.float32],
        after: Memory,
        *,
        risk: float,
        hour: int,
        ordered: Collection[str] = (),
        asked: Mapping[str, int] | None = None,
        site: str | None = None,
    ) -> list[dict[str, Any]]:
        """Panels worth measuring in an hour.

        Args:
            state: before the hour.
            features: of the hour.
            after: the state after it.
            risk: of the hour.
            hour: of the stay.
            ordered: LOINC codes of pending orders.
            asked: panel -> hour of the stay in which it was offered last.
            site: of the stay.
        """
        adviser = self._adviser_of(site)
        if adviser is None:
            return []
        memory = _of_model(state)
        used, what_if = features[: self._size], self._what_if

        def predict(table: NDArray) -> NDArray[np.float64]:
            return what_if(memory, used, np.asarray(table, np.float32))

        since, known = _times(after)
        return told(
            adviser(predict, used, since, known, risk=risk, hour=hour, ordered=ordered, asked=asked)
        )

    def still(
        self,
        offers: Sequence[Mapping[str, Any]],
        after: Memory,
        *,
        ordered: Collection[str] = (),
        site: str | None = None,
    ) -> list[dict[str, Any]]:
        """What of offers made earlier is neither measured nor ordered meanwhile.

        Args:
            offers: of :meth:`advise`.
            after: the state after the hour as far as it is known.
            ordered: LOINC codes of pending orders.
            site: of the stay.
        """
        adviser = self._adviser_of(site)
        if adviser is None:
            return []
        open_panels = adviser.open(*_times(after), ordered)
        return [dict(o) for o in offers if o["panel"] in open_panels]

    def _risk(self, gated: Gated, drivers: tuple[tuple[str, float], ...]) -> Risk:
        status = Status(int(gated.status[0]))
        why = "; ".join(gated.reasons(0)) or None
        if not gated.issued[0]:
            return Risk(None, status.name.lower(), self.version, why)
        score = float(gated.score[0])
        name = OK if status is Status.OK else status.name.lower()
        return Risk(score, name, self.version, why, drivers, bool(gated.may_alarm[0]))

    def _drivers(
        self, memory: Memory, features: NDArray[np.float32], risk: float
    ) -> tuple[tuple[str, float], ...]:
        """By how much the risk of this hour is higher for each channel being as it is.

        Trees are asked for Shapley values; an additive net for its risk without what the channel
        says; another net for its risk with the channel as it is in the mean hour.
        """
        if not self._most:
            return ()
        if self._trees is not None:
            parts = np.asarray(self._trees.contributions(features[None]))[0][: self._size]
            found = [(name, float(parts[columns].sum())) for name, columns in self._groups]
        elif isinstance(self._model, AdditiveRisk):
            # A mean value, just measured, would not be what is said of one that never was.
            parts = np.zeros(self._size)
            parts[list(self._model.learner_.columns)] = self._model.represent(features[None])[0]
            whole = self._model.decision_function(features[None])[0]
            others = [1 / (1 + np.exp(parts[c].sum() - whole)) for _, c in self._groups]
            found = [(n, risk - float(p)) for (n, _), p in zip(self._groups, others, strict=True)]
        else:
            # A channel at its mean already moves nothing.
            away = np.abs(features - self._mean) > 1e-6
            moved = [(n, c) for n, c in self._groups if away[c].any()]
            table = np.repeat(features[None], len(moved), axis=0)
            for k, (_, columns) in enumerate(moved):
                table[k, columns] = self._mean[columns]
            others = self._what_if(memory, features, table).tolist()
            found = [(n, risk - other) for (n, _), other in zip(moved, others, strict=True)]
        found = [(n, round(d, 6)) for n, d in found if abs(d) >= 1e-6]
        found.sort(key=lambda d: (-abs(d[1]), d[0]))
        return tuple(found[: self._most])


def _times(state: Memory) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(C,) hours since the last value of each channel, and whether there was one."""
    return state[f"{_GATE}since"], ~np.isnan(state[f"{_GATE}last"])


def _of_model(state: Memory) -> dict[str, NDArray]:
    return {k[len(_MODEL) :]: v for k, v in state.items() if k.startswith(_MODEL)}


def _groups(names: Any) -> list[tuple[str, NDArray[np.int64]]]:
    """Columns of features by the channel, or the fact, that they are made of."""
    out: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        of = str(name).partition(":")[0]
        # To be in one unit is not to be in the others: that is one fact.
        out.setdefault("unit" if of.startswith("unit_") else of, []).append(column)
    return [(name, np.array(columns)) for name, columns in out.items()]


def _plain(snapshot: Mapping[str, Any]) -> dict[str, NDArray]:
    """A gate's snapshot as arrays by name."""
    quality = snapshot["quality"]
    last = [np.nan if v is None else v for v in quality["last"]]
    return {
        **{f"{_GATE}features_{k}": np.array(v) for k, v in snapshot["features"].items()},
        f"{_GATE}last": np.array(last, np.float64),
        f"{_GATE}since": np.array(quality["since"], np.int64),
        f"{_GATE}repeats": np.array(quality["repeats"], np.int64),
    }


def _snapshot(state: Memory) -> dict[str, Any]:
    head = f"{_GATE}features_"
    last = [None if v != v else v for v in state[f"{_GATE}last"].tolist()]
    return {
        "features": {k[len(head) :]: v for k, v in state.items() if k.startswith(head)},
        "quality": {
            "last": last,
            "since": state[f"{_GATE}since"].tolist(),
            "repeats": state[f"{_GATE}repeats"].tolist(),
        },
    }
