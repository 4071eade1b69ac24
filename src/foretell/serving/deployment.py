"""What goes to work at the bedside: a risk model, the gate before its score, the policy behind it.

One object for tables and for live feeds, saved as one folder of JSON and safetensors: what a run
leaves, ``foretell predict`` applies and a service loads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.repair import UnitRepair
from foretell.data.clinical.stays import Stays
from foretell.decisions.abstention import DriftMonitor, Gate, Gated, GateStream, Status
from foretell.decisions.alarms import (
    Alarm,
    AlarmPolicy,
    Alarms,
    AlarmState,
    places_of,
    run_policy,
)
from foretell.errors import ArtefactError, ForetellError
from foretell.learners.artefact import read_kind

if TYPE_CHECKING:
    from foretell.decisions.sensing.hourly import HourlySensing

FORMAT = 1
FILE = "deployment.json"
_WHEN = "gate/calibration.json"
_MODELS = {
    "FeedForwardRisk": "foretell.estimators.risk",
    "AdditiveRisk": "foretell.estimators.risk",
    "DeepAISE": "foretell.estimators.risk",
    "WeibullCox": "foretell.estimators.risk",
    "BoostedRisk": "foretell.learners.risk.boosted",
}


class Judged(NamedTuple):
    """What is said of R hours of stays.

    Args:
        stays: as they were judged: in canonical units.
        risk: (R,) of the model, also where no score is given; for evaluation only.
        gated: status, score and reasons.
        alarms: of the policy.
    """

    stays: Stays
    risk: NDArray[np.float64]
    gated: Gated
    alarms: Alarms


class Hour(NamedTuple):
    """What is said of one hour of a live stay.

    Args:
        hour: on the unit's clock.
        status: of the gate.
        score: None where none is given.
        reasons: why none is given, or what else is worth knowing.
        alarm: that this hour raises, or None.
    """

    hour: int
    status: Status
    score: float | None
    reasons: tuple[str, ...]
    alarm: Alarm | None


@dataclass(frozen=True, eq=False)
class Deployment:
    """A risk model behind a gate and before an alarm policy.

    Args:
        model: fitted, with ``predict_proba(stays)`` and ``stream``.
        gate: fitted.
        policy: its threshold tuned.
        repair: of units that are not stated; None takes values as they come.
        source: category of stays that names the source of units, such as ``"hospital"``.
        version: identifies model, gate, policy and sensing; made from their bytes when they are
            saved.
        monitor: how inputs and scores were where the model was validated; None where that is not
            known. It changes nothing of what is said, and no version.
        sensing: ranks panels by their expected information gain, without patients' rows; None
            where there is none, and uncertainty is propagated through the model instead.
    """

    model: Any
    gate: Gate
    policy: AlarmPolicy
    repair: UnitRepair | None = None
    source: str = "hospital"
    version: str = ""
    monitor: DriftMonitor | None = None
    sensing: HourlySensing | None = None

    def judge(self, stays: Stays) -> Judged:
        """Judges all hours of stays.

        Raises:
            DataError: the stays have other channels.
        """
        fixed = self._repaired(stays)
        risk = np.asarray(self.model.predict_proba(fixed), np.float64)[:, 1]
        hidden = None
        if self.gate.hidden is not None:
            hidden = self.model.represent(fixed, layer="last")
        gated = self.gate.judge(fixed, risk, hidden)
        scores = np.nan_to_num(gated.score, nan=0.0)
        alarms = run_policy(
            self.policy, scores, fixed.lengths, issued=gated.may_alarm,
            units=places_of(self.policy.tiers, fixed),
        )  # fmt: skip
        return Judged(fixed, risk, gated, alarms)

    def predict(self, stays: Stays) -> pl.DataFrame:
        """One row an hour.

        Returns:
            ``id``, ``hour``, ``status``, ``score`` (null where none is given), ``reasons``,
            ``p_well`` and ``p_septic`` (conformity with either class), ``alarm``, ``tier``.
        """
        told = self.judge(stays)
        names = [status.name.lower() for status in Status]
        tiers = [tier.name for tier in self.policy.tiers]
        status = told.gated.status
        reasons = [told.gated.reasons(r) if status[r] else [] for r in range(len(status))]
        return pl.DataFrame(
            {
                "id": np.repeat(stays.ids, stays.lengths).astype(str),
                "hour": stays.hours(),
                "status": [names[s] for s in status],
                "score": told.gated.score,
                "reasons": reasons,
                "p_well": told.gated.p_values[:, 0],
                "p_septic": told.gated.p_values[:, 1],
                "alarm": told.alarms.raised,
                "tier": [tiers[t] if t >= 0 else None for t in told.alarms.tier],
            },
            schema_overrides={"reasons": pl.List(pl.String), "tier": pl.String},
        ).with_columns(pl.col("score").fill_nan(None))

    def stream(
        self, *, site: str | None = None, source: str = "", **described: Any
    ) -> DeploymentStream:
        """The same for one live stay, hour by hour.

        Args:
            site: as :meth:`CausalFeatureBuilder.stream` takes it, and for thresholds of its own,
                which hold where the unit has none.
            source: who sends the values, for their units.
            described: age, sex, unit, ... of the stay.
        """
        risks = self.model.stream(site=site, **described)
        return DeploymentStream(self, risks, source, site, described.get("unit"))

    def hidden(self, features: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """(D,) layer of an hour's scaled features (F,) that the gate tests; None if it does not."""
        if self.gate.hidden is None:
            return None
        return np.asarray(self.model.represent(features[None], layer="last"), np.float32)[0]

    def _repaired(self, stays: Stays) -> Stays:
        if self.repair is None:
            return stays
        by = self.source if self.source in stays.categories else None
        names = {""} if by is None else set(stays.names(by).tolist())
        # A source that is not known is taken at its word: nothing is learned from few stays.
        new: dict[str, dict[str, str]] = {str(n): {} for n in names if n not in self.repair.sources}
        repair = replace(self.repair, sources={**self.repair.sources, **new})
        return repair.stays(stays, by=by)[0]

    def save(self, folder: str | Path) -> Deployment:
        """Writes ``deployment.json``, ``model/``, ``gate/``; ``monitor/`` and ``sensing/`` if any.

        Returns:
            The same, with its version.
        """
        folder = Path(folder)
        self.model.save(folder / "model")
        self.gate.save(folder / "gate")
        if self.monitor is not None:
            self.monitor.save(folder / "monitor")
        if self.sensing is not None:
            self.sensing.save(folder / "sensing")
        kind = type(self.model).__name__
        policy, repair = self.policy.to_json(), None
        if self.repair is not None:
            repair = {
                "medians": dict(self.repair.medians),
                "sources": {s: dict(u) for s, u in self.repair.sources.items()},
                "min_values": self.repair.min_values,
            }
        digest = _digest(folder, policy, repair, self.sensing is not None)
        version = f"{kind}-{digest[:12]}"
        document = {
            "format": FORMAT, "model": kind, "version": version, "policy": policy,
            "repair": repair, "source": self.source,
            "monitor": None if self.monitor is None else self.monitor.version,
            "sensing": self.sensing is not None,
        }  # fmt: skip
        partial = folder / f".{FILE}.partial"
        partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
        os.replace(partial, folder / FILE)
        return replace(self, version=version)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote, such as the folder of a run.

        Raises:
            ArtefactError: something is missing, damaged, newer, or not what was saved together.
        """
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise ArtefactError(
                f"{folder} holds no {FILE}: it must be the folder of a finished run of early "
                "warning (such as foretell run sepsis-simulated), or of Deployment.save"
            )
        try:
            told = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if int(told["format"]) > FORMAT:
                raise ArtefactError(
                    f"{folder / FILE} has format {told['format']}, this foretell reads up to "
                    f"{FORMAT}: install a newer one"
                )
            kind, version = str(told["model"]), str(told["version"])
            if kind not in _MODELS or read_kind(folder / "model") != kind:
                raise ArtefactError(f"{folder} holds no model that can be deployed: {kind!r}")
            sensed = bool(told.get("sensing", False))
            digest = _digest(folder, told["policy"], told["repair"], sensed)
            if version != f"{kind}-{digest[:12]}":
                raise ArtefactError(
                    f"{folder}: model, gate, policy or sensing are not those that were saved "
                    "together"
                )
            model = getattr(import_module(_MODELS[kind]), kind).load(folder / "model")
            gate = Gate.load(folder / "gate")
            policy = AlarmPolicy.from_json(told["policy"])
            repair = None
            if told["repair"] is not None:
                repair = UnitRepair(gate.schema, **told["repair"])
            monitor = None
            if told.get("monitor") is not None:
                monitor = DriftMonitor.load(folder / "monitor")
                if monitor.version != told["monitor"] or monitor.channels != gate.schema.names:
                    raise ArtefactError(f"{folder}: the monitor is not that which was saved")
            sensing = None
            if sensed:
                from foretell.decisions.sensing.hourly import HourlySensing

                sensing = HourlySensing.load(folder / "sensing")
            return cls(model, gate, policy, repair, str(told["source"]), version, monitor, sensing)
        except ArtefactError:
            raise
        except (OSError, ValueError, KeyError, TypeError, ForetellError) as error:
            raise ArtefactError(f"{folder} holds no readable deployment: {error}") from error


class DeploymentStream:
    """Follows one stay; made by :meth:`Deployment.stream`. Equal to :meth:`Deployment.judge`.

    Args:
        deployment: whose model, gate and policy hold.
        risks: the model's stream.
        source: who sends the values.
        site: of the stay, for thresholds of its own.
        unit: of the stay, likewise.
    """

    def __init__(
        self, deployment: Deployment, risks: Any, source: str, site: str | None = None,
        unit: str | None = None,
    ) -> None:  # fmt: skip
        self._deployment, self._risks, self._source = deployment, risks, source
        self._policy, self._unit = deployment.policy.at(site), unit
        self._gate: GateStream = deployment.gate.stream()
        self.alarm_state: AlarmState = deployment.policy.start()

    def step(self, row: ArrayLike) -> Hour:
        """What is said of the next hour.

        Args:
            row: (C,) values of the channels, NaN where nothing was measured.
        """
        values = self._repaired(np.asarray(row, np.float32))
        risk = self._risks.step(values)
        gated = self._gate.push(values, risk, self._deployment.hidden(self._risks.features))
        score = float(gated.score[0]) if gated.issued[0] else None
        hour = int(self._risks.hour)
        may = bool(gated.may_alarm[0])
        self.alarm_state, alarm = self._policy.step(
            self.alarm_state, hour, score if may else None, unit=self._unit
        )
        return Hour(hour, Status(int(gated.status[0])), score, tuple(gated.reasons(0)), alarm)

    def _repaired(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        repair = self._deployment.repair
        if repair is None:
            return row
        fixed = row.copy()
        for i in np.flatnonzero(~np.isnan(row)):
            name = repair.schema.names[i]
            fixed[i] = repair.values(name, row[i : i + 1], source=self._source).values[0]
        return fixed

    def snapshot(self) -> dict[str, Any]:
        """The state of closed hours: arrays of the model, and plain values."""
        return {
            "risks": self._risks.snapshot(),
            "gate": self._gate.snapshot(),
            "alarms": self.alarm_state.to_json(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> Self:
        """Goes on from a snapshot of a stream of the same deployment and stay."""
        self._risks.restore(snapshot["risks"])
        self._gate.restore(snapshot["gate"])
        self.alarm_state = AlarmState.from_json(snapshot["alarms"])
        return self


def _digest(folder: Path, policy: Any, repair: Any, sensing: bool) -> str:
    """Of all files of model, gate and sensing, and of what stands beside them."""
    digest = hashlib.sha256(json.dumps([policy, repair], sort_keys=True).encode())
    for part in ("model", "gate", "sensing") if sensing else ("model", "gate"):
        for file in sorted(f for f in (folder / part).rglob("*") if f.is_file()):
            name = file.relative_to(folder).as_posix()
            if name == _WHEN:
                # When the gate was calibrated changes nothing of what it says.
                continue
            digest.update(name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
