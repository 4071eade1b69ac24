"""Rules that need no model: measurements that contradict each other, stand still, or are missing.

The first line of a gate. Each rule reads only what was known by the hour, in tables and streams
alike (one compiled step), and names itself, so that whoever is told "no score" is told why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.decisions.abstention.kernels import clear, judge, judge_stays
from foretell.errors import DataError, ParameterError

if TYPE_CHECKING:
    from foretell.decisions.abstention.conformal import MondrianConformal
    from foretell.decisions.abstention.gate import Gate

RULES: Mapping[str, str] = {
    "no_data": "nothing was measured yet",
    "no_vitals": "no vital sign was measured for hours",
    "pressure_order": "the systolic pressure is not above the diastolic",
    "mean_pressure": "the mean pressure lies outside systolic and diastolic",
    "stuck_sensor": "a sensor repeats the same value",
    "jump": "a value jumped further than the body can within two hours",
    "impossible_value": "a value no patient can have was left out",
    "not_a_number": "a value is endless and was left out",
    "saturation_gap": "the saturations of finger and blood differ: a venous sample, or a bad probe",
}
"""Rules in the order of their flags, and what they say."""

_BLOCKING = ("no_data", "no_vitals", "pressure_order", "stuck_sensor", "not_a_number")
# On 1.5 million hours of the 2019 challenge each limit is passed in fewer than one in a thousand.
_REPEATS = {"HR": 24, "SBP": 5, "MAP": 7, "DBP": 7, "Temp": 16, "O2Sat": 6}
_REPEATS_BELOW = {"O2Sat": 90.0}
_JUMPS = {"HR": 130.0, "SBP": 170.0, "DBP": 150.0, "MAP": 170.0, "Temp": 6.0, "Resp": 60.0}
_JUMP_HOURS, _PRESSURE_TOLERANCE, _SATURATION_GAP = 2, 20.0, 25.0


class Quality(NamedTuple):
    """What the rules say of R hours.

    Args:
        flags: (R, 9) bool in the order of :data:`RULES`.
        invalid: (R,) bool, hours that a score should not be given for.
    """

    flags: NDArray[np.bool_]
    invalid: NDArray[np.bool_]

    def reasons(self, row: int) -> list[str]:
        """Names of the rules that spoke in an hour."""
        return [name for name, flag in zip(RULES, self.flags[row], strict=True) if flag]

    def to_polars(self) -> pl.DataFrame:
        """``rule``, ``meaning``, ``hours``, ``share``: how often each rule spoke."""
        counts = self.flags.sum(0)
        return pl.DataFrame(
            {
                "rule": list(RULES),
                "meaning": list(RULES.values()),
                "hours": counts,
                "share": counts / max(len(self.flags), 1),
            }
        )


class QualityMonitor:
    """Judges hours of stays by rules.

    Args:
        schema: the channels of the stays.
        blocking: rules on which no score is given; the others are told beside it.
        max_repeats: channel -> equal values in a row from which its sensor counts as stuck.
        max_jump: channel -> largest believable change within two hours.
        max_silence: hours without any vital sign.

    Raises:
        ParameterError: an unknown rule, or a limit that is not positive.
    """

    def __init__(
        self,
        schema: Schema | None = None,
        *,
        blocking: Sequence[str] = _BLOCKING,
        max_repeats: Mapping[str, int] | None = None,
        max_jump: Mapping[str, float] | None = None,
        max_silence: int = 12,
    ) -> None:
        self.schema = Schema.default().channels("p19") if schema is None else schema
        unknown = [name for name in blocking if name not in RULES]
        if unknown:
            raise ParameterError(f"unknown rule {unknown[0]!r}; known are {', '.join(RULES)}")
        if max_silence < 1:
            raise ParameterError(f"max_silence must be at least 1 hour, not {max_silence}")
        self.blocking = tuple(blocking)
        self._blocks = np.array([name in blocking for name in RULES])
        self.max_repeats = dict(_REPEATS if max_repeats is None else max_repeats)
        self.max_jump = dict(_JUMPS if max_jump is None else max_jump)
        self.max_silence = max_silence
        names = self.schema.names

        def limits(given: Mapping[str, float], otherwise: float) -> NDArray[np.float64]:
            values = np.array([given.get(name, otherwise) for name in names], np.float64)
            if not (values > 0).all():
                raise ParameterError(f"limits must be positive: {dict(given)}")
            return values

        bounds = np.array([v.possible for v in self.schema.variables]).reshape(-1, 2)
        self._rules: tuple[Any, ...] = (
            np.array([v.kind == "vital" for v in self.schema.variables]),
            bounds[:, 0].copy(),
            bounds[:, 1].copy(),
            limits({k: float(n) for k, n in self.max_repeats.items()}, np.inf),
            limits(_REPEATS_BELOW, np.inf),
            limits(self.max_jump, np.inf),
            _JUMP_HOURS,
            tuple(names.index(n) if n in names else -1 for n in ("SBP", "MAP", "DBP")),
            _PRESSURE_TOLERANCE,
            tuple(names.index(n) if n in names else -1 for n in ("O2Sat", "SaO2")),
            _SATURATION_GAP,
            max_silence,
        )

    def then(self, conformal: MondrianConformal, **settings: Any) -> Gate:
        """A gate of these rules and a conformal test; ``settings`` as :class:`Gate` takes them."""
        from foretell.decisions.abstention.gate import Gate

        return Gate(self, conformal, **settings)

    def limits(self) -> dict[str, Any]:
        """Plain values that make another monitor of the same schema and limits."""
        return {
            "blocking": list(self.blocking),
            "max_repeats": self.max_repeats,
            "max_jump": self.max_jump,
            "max_silence": self.max_silence,
        }

    def check(self, stays: Stays) -> Quality:
        """Judges all hours of stays.

        Raises:
            DataError: the stays have other channels.
        """
        if stays.schema.names != self.schema.names:
            raise DataError("the stays have other channels than the monitor")
        values = stays.matrix().astype(np.float64)
        flags = judge_stays(values, stays.lengths, *self._rules)
        return Quality(flags, (flags & self._blocks).any(1))

    def stream(self) -> QualityStream:
        """A monitor of one stay, hour by hour."""
        return QualityStream(self)


class QualityStream:
    """Follows one stay; its state is plain JSON.

    Args:
        monitor: whose rules are applied.
        state: what :meth:`state` gave, to go on from there.
    """

    def __init__(self, monitor: QualityMonitor, state: Mapping[str, Any] | None = None) -> None:
        self.monitor = monitor
        size = len(monitor.schema)
        self._last, self._since = np.empty(size), np.empty(size, np.int64)
        self._repeats = np.empty(size, np.int64)
        clear(self._last, self._since, self._repeats)
        if state is not None:
            last = [np.nan if v is None else v for v in state["last"]]
            self._last[:], self._since[:] = last, state["since"]
            self._repeats[:] = state["repeats"]

    def push(self, values: ArrayLike) -> Quality:
        """Judges the next hour.

        Args:
            values: (C,) of the channels, NaN where nothing was measured.

        Raises:
            DataError: there is not one value a channel.
        """
        row = np.asarray(values, np.float64)
        if row.shape != self._last.shape:
            raise DataError(f"an hour has {len(self._last)} values, not {row.shape}")
        flags = np.zeros((1, len(RULES)), bool)
        state = (self._last, self._since, self._repeats)
        judge(*(row, *state, *self.monitor._rules, flags[0]))
        return Quality(flags, (flags & self.monitor._blocks).any(1))

    def state(self) -> dict[str, Any]:
        """All that is remembered of the stay."""
        return {
            "last": [None if np.isnan(v) else v for v in self._last.tolist()],
            "since": self._since.tolist(),
            "repeats": self._repeats.tolist(),
        }
