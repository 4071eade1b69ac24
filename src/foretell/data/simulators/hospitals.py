"""Stays at several hospitals whose true risk is known: for tests, and for what real data hide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.schema import Schema
from foretell.data.clinical.stays import Stays
from foretell.data.panel import Categorical
from foretell.errors import ParameterError

MEMORY, INNOVATION, DRIFT = 0.97, 0.2, 0.3
"""Of the latent severity: u_t = 0.97 u_{t-1} + 0.2 noise + 0.3 once infected."""

ONSET_SHAPE, ONSET_SCALE, LEAD = 1.3, 40.0, 8
"""Weibull time of the onset in hours; the body shows it from 8 hours before on."""

_BEYOND = 12


@dataclass(frozen=True)
class _Channel:
    """``level + effect e + severity u + deviation noise``, of the logarithm where ``log``."""

    level: float
    effect: float
    severity: float
    deviation: float
    rate: float
    log: bool = False


CHANNELS: Mapping[str, _Channel] = {
    "HR": _Channel(82, 22, 5, 6, 1.6),
    "O2Sat": _Channel(94.5, -3, -0.4, 0.9, 1.5),
    "Temp": _Channel(36.9, 1.2, 0.1, 0.35, 0.35),
    "SBP": _Channel(124, -18, -4, 9, 1.4),
    "MAP": _Channel(84, -12, -3, 6, 1.4),
    "Resp": _Channel(17, 7, 1.5, 2.5, 1.3),
    "Lactate": _Channel(np.log(1.4), 0.7, 0.15, 0.25, 0.05, True),
    "WBC": _Channel(9.5, 8, 0.5, 1.6, 0.06),
    "Creatinine": _Channel(np.log(1.0), 0.5, 0.1, 0.2, 0.06, True),
    "Platelets": _Channel(np.log(210), -0.25, -0.03, 0.15, 0.06, True),
    "Bilirubin_total": _Channel(np.log(0.8), 0.4, 0.05, 0.3, 0.03, True),
}
"""Channels: an onset's effect at its height (a factor 1 + effect for creatinine, platelets and
bilirubin), what severity adds, noise, measurements an hour."""

CALIBRATED_HOSPITALS: Mapping[str, Any] = MappingProxyType(
    {"stays": 3000, "sites": 4, "common": 0.2}
)
"""Arguments with which continual learning is judged: ``hospitals(**CALIBRATED_HOSPITALS,
kappa=1.0)``. They were chosen so that the conflict is forgotten by fine-tuning (0.10 of AUROC and
more with ``kappa=1``, 0.02 and less with ``kappa=0``) and the patients of a test part are many
enough for that to show above chance; they stay as they are, so that figures remain comparable."""

_FACTORS = ("Creatinine", "Platelets", "Bilirubin_total")
_LABS = ("Lactate", "WBC", "Creatinine", "Platelets", "Bilirubin_total")
_COLD, _LOW_WHITE = 0.3, 0.3


@dataclass(frozen=True)
class Hospital:
    """What is particular to a hospital.

    Args:
        name: of the hospital.
        age: mean age in years.
        comorbid: share of patients with a comorbidity.
        septic: share of stays with an onset some day.
        attention: k: measurements become 1 + k e times as frequent when the body shows an onset.
        warm: sign of the effect on temperature.
        frequency: factor on all rates of measurement.
        common: factor on the effects on all channels but temperature.
        bias: channel -> what its instruments add.
        units: channel -> unit in which it is sent, where that is not the canonical one.
    """

    name: str
    age: float
    comorbid: float
    septic: float
    attention: float
    warm: float
    frequency: float
    common: float = 1.0
    bias: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class HospitalsTruth:
    """What a simulation knows and a hospital does not.

    Args:
        stays: the stays, as simulated.
        hospitals: their parameters.
        effect: (R,) e_t, from 0 eight hours before the onset to 1 at it.
        severity: (R,) u_t.
        onset: (N,) hour of the onset, also where it lies far beyond the record; +inf for never.
        measured: channel -> (R,) values by the hour of their specimen, canonical units.
        burst: (R,) hours in which nothing was recorded at all.
        delays: channel -> (R,) hours from a specimen to its result.
    """

    stays: Stays
    hospitals: tuple[Hospital, ...]
    effect: NDArray[np.float64]
    severity: NDArray[np.float64]
    onset: NDArray[np.float64]
    measured: Mapping[str, NDArray[np.float32]]
    burst: NDArray[np.bool_]
    delays: Mapping[str, NDArray[np.float64]]

    def risk(self, horizon: int = 4, stays: ArrayLike | None = None) -> NDArray[np.float64]:
        """Exact probability (R,) of the onset within the horizon, given all specimens so far.

        No model can be better calibrated or rank better, other than by chance. For every possible
        hour of the onset, and each of the four ways in which temperature and white cells respond,
        severity given the measurements is Gaussian, so that a Kalman filter gives their likelihood;
        when somebody looked counts as evidence, too. NaN from the onset on, and for stays that are
        not asked for.

        Args:
            horizon: in hours, at most 8.
            stays: numbers of the stays, all by default.

        Raises:
            ParameterError: the horizon is out of range.
        """
        if not 1 <= horizon <= LEAD:
            raise ParameterError(f"the horizon must lie in 1 to {LEAD} hours, not {horizon}")
        found = np.full(self.stays.n_rows, np.nan)
        offsets = self.stays.offsets
        names = self.stays.names("hospital")
        by_name = {h.name: h for h in self.hospitals}
        wanted = np.arange(len(self.stays)) if stays is None else np.asarray(stays, np.int64)
        for i in wanted:
            rows = slice(int(offsets[i]), int(offsets[i + 1]))
            comorbid = bool(self.stays.numbers["comorbidity"][i])
            found[rows] = self._filter(rows, by_name[str(names[i])], comorbid, horizon)
            found[rows][np.arange(1, rows.stop - rows.start + 1) >= self.onset[i]] = np.nan
        return found

    def observations(self) -> pl.DataFrame:
        """All measurements as feeds send them.

        ``id``, ``channel``, ``value`` in the hospital's own ``unit``, ``time`` of the specimen and
        ``arrival`` of the result, in hours since admission.
        """
        schema = self.stays.schema
        names = self.stays.names("hospital")
        stay, hour = self.stays.stay_of_row(), self.stays.hours()
        frames = []
        for channel, values in self.measured.items():
            at = np.flatnonzero(~np.isnan(values))
            variable = schema[channel]
            sent, units = values[at].astype(np.float64), np.full(len(at), variable.unit, object)
            for hospital in self.hospitals:
                unit = hospital.units.get(channel)
                if unit is None:
                    continue
                mine = names[stay[at]] == hospital.name
                rule = variable.units[unit]
                sent[mine] = (sent[mine] - rule.offset) / rule.factor
                units[mine] = unit
            # A specimen of an hour was taken at its middle.
            time = hour[at] - 0.5
            frames.append(
                pl.DataFrame(
                    {
                        "id": self.stays.ids[stay[at]].tolist(),
                        "channel": [channel] * len(at),
                        "value": sent,
                        "unit": units.tolist(),
                        "time": time,
                        "arrival": time + self.delays[channel][at],
                    },
                    schema_overrides={"id": pl.String, "channel": pl.String, "unit": pl.String},
                )
            )
        return pl.concat(frames).sort("arrival", "id", "channel")

    def _filter(
        self, rows: slice, hospital: Hospital, comorbid: bool, horizon: int
    ) -> NDArray[np.float64]:
        hours = rows.stop - rows.start
        latest = hours + LEAD
        onset = np.append(np.arange(1, latest + 1), np.inf)
        share = _share(hospital, comorbid)
        below = 1 - np.exp(-((np.arange(latest + 1) / ONSET_SCALE) ** ONSET_SHAPE))
        prior = share * np.append(np.diff(below), 1 - below[-1])
        prior[-1] += 1 - share
        # Four ways to respond: with fever or cold, with more or fewer white cells.
        cold, low = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
        ways = np.where(cold, _COLD, 1 - _COLD) * np.where(low, _LOW_WHITE, 1 - _LOW_WHITE)
        log = np.log(prior)[:, None] + np.log(ways)
        mean = np.zeros_like(log)
        variance = INNOVATION**2 / (1 - MEMORY**2)
        out = np.full(hours, np.nan)
        for t in range(1, hours + 1):
            row = rows.start + t - 1
            mean = MEMORY * mean + DRIFT * (t >= onset)[:, None]
            variance = MEMORY**2 * variance + INNOVATION**2
            e = np.clip((t - (onset - LEAD)) / LEAD, 0, 1)[:, None]
            if not self.burst[row]:
                for name, channel in CHANNELS.items():
                    intensity = _intensity(channel, hospital, e)
                    value = float(self.measured[name][row])
                    if np.isnan(value):
                        log = log - intensity
                        continue
                    log = log + np.log(-np.expm1(-intensity))
                    expected = _expected(name, channel, hospital, e, cold, low)
                    gap = (np.log(value) if channel.log else value) - expected
                    gap = gap - channel.severity * mean
                    spread = channel.severity**2 * variance + channel.deviation**2
                    log = log - 0.5 * (gap**2 / spread + np.log(spread))
                    gain = variance * channel.severity / spread
                    mean = mean + gain * gap
                    variance = variance * (1 - gain * channel.severity)
            weight = np.exp(log - log.max()).sum(axis=1)
            ahead = onset > t
            out[t - 1] = weight[ahead & (onset <= t + horizon)].sum() / weight[ahead].sum()
        return out


def hospitals(
    *,
    stays: int = 500,
    sites: int = 4,
    hours: tuple[int, int] = (16, 72),
    kappa: float = 0.0,
    common: float = 1.0,
    seed: int = 0,
) -> tuple[Stays, HospitalsTruth]:
    """Stays at several hospitals with sepsis, vital signs and laboratory values.

    Patients have an age, perhaps a comorbidity, a severity that wanders, and perhaps an onset,
    which the body shows from eight hours before. Hospitals differ in patients, in how often they
    measure and how much more when somebody looks ill, in the bias of instruments; the third sends
    creatinine in umol/L and temperature in degrees Fahrenheit. Laboratory results come 30 to 90
    minutes after the specimen, and now and then a feed is silent for hours. In the stays every
    value is in its canonical unit, in the hour of its arrival.

    Args:
        stays: of each hospital.
        sites: number of hospitals.
        hours: least and most hours of a stay.
        kappa: chance that a hospital reverses what the one before it does: sign of the effect on
            temperature, and whether staff measure more or less when the body shows an onset. At 1
            neighbours contradict each other, at 0 all agree.
        common: factor on the effects that all hospitals share, which is all but temperature: the
            smaller, the more a model must rely on what ``kappa`` reverses. See
            :data:`CALIBRATED_HOSPITALS`.
        seed: of everything.

    Returns:
        The stays, categories ``hospital``, ``site`` and ``sex``, numbers ``age`` and
        ``comorbidity``; and the truth.

    Raises:
        ParameterError: a number out of its range.
    """
    if stays < 1 or sites < 1 or not 0 <= kappa <= 1 or not 0 <= common <= 1:
        raise ParameterError(
            "stays and sites must be positive, kappa and common must lie in [0, 1]"
        )
    if not 1 <= hours[0] <= hours[1] <= 24 * 14:
        raise ParameterError(f"hours must ascend within 1 to 336, not {hours}")
    rng = np.random.default_rng(seed)
    drawn = _hospitals(sites, kappa, common, rng)
    site = np.repeat(np.arange(sites), stays)
    size = len(site)
    lengths = rng.integers(hours[0], hours[1] + 1, size)
    age = np.clip(rng.normal(np.array([h.age for h in drawn])[site], 15), 18, 89)
    comorbid = rng.random(size) < np.array([h.comorbid for h in drawn])[site]
    share = np.array([_share(drawn[s], bool(c)) for s, c in zip(site, comorbid, strict=True)])
    time = np.ceil(ONSET_SCALE * rng.weibull(ONSET_SHAPE, size))
    onset = np.where(rng.random(size) < share, np.maximum(time, 1), np.inf)
    cold, low = rng.random(size) < _COLD, rng.random(size) < _LOW_WHITE
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = int(offsets[-1])
    owner = np.repeat(np.arange(size), lengths)
    hour = np.arange(rows) - offsets[owner] + 1
    effect = np.clip((hour - (onset[owner] - LEAD)) / LEAD, 0, 1)
    severity = _severity(hour, onset[owner], rng)
    burst = _bursts(hour, rng)
    measured: dict[str, NDArray[np.float32]] = {}
    delays: dict[str, NDArray[np.float64]] = {}
    for name, channel in CHANNELS.items():
        values = np.full(rows, np.nan, np.float32)
        for s, hospital in enumerate(drawn):
            mine = np.flatnonzero(site[owner] == s)
            e, who = effect[mine], owner[mine]
            intensity = _intensity(channel, hospital, e)
            seen = (rng.random(len(mine)) < -np.expm1(-intensity)) & ~burst[mine]
            y = _expected(name, channel, hospital, e, cold[who], low[who])
            y = y + channel.severity * severity[mine]
            y = y + channel.deviation * rng.standard_normal(len(mine))
            values[mine] = np.where(seen, np.exp(y) if channel.log else y, np.nan)
        measured[name] = values
        # Half of the results come within 50 minutes, nearly all within 30 to 90.
        late = np.exp(rng.normal(np.log(0.85), 0.25, rows)) if name in _LABS else np.zeros(rows)
        delays[name] = late
    schema = Schema.default().channels("p19")
    columns = {
        n: _by_arrival(measured[n], delays[n], hour, lengths[owner])
        if n in measured
        else np.full(rows, np.nan, np.float32)
        for n in schema.names
    }
    names = tuple(h.name for h in drawn)
    ids = np.array([f"{names[s]}/{i}" for i, s in enumerate(site)], object)
    recorded = np.where(onset <= lengths + _BEYOND, onset, np.nan)
    label = (hour >= recorded[owner] - 6).astype(np.int8)
    codes = (site + 1).astype(np.int32)
    made = Stays(
        ids, ids, offsets[:-1].astype(np.int64), lengths.astype(np.int64),
        np.ones(size, np.int64), columns, schema, label, recorded,
        {
            "hospital": Categorical(codes, names),
            "site": Categorical(codes, names),
            "sex": Categorical(rng.integers(1, 3, size).astype(np.int32), ("female", "male")),
        },
        {"age": age, "comorbidity": comorbid.astype(np.float64)},
    )  # fmt: skip
    return made, HospitalsTruth(made, drawn, effect, severity, onset, measured, burst, delays)


def _hospitals(
    sites: int, kappa: float, common: float, rng: np.random.Generator
) -> tuple[Hospital, ...]:
    found = []
    warm, attention = 1.0, 1.0
    for s in range(sites):
        if s and rng.random() < kappa:
            warm, attention = -warm, -attention
        strength = rng.uniform(0.6, 0.9)
        bias = {n: rng.normal(0, 0.3 * c.deviation) for n, c in CHANNELS.items()}
        found.append(
            Hospital(
                name=chr(ord("A") + s) if s < 26 else f"H{s}",
                age=rng.uniform(55, 70),
                comorbid=rng.uniform(0.2, 0.5),
                septic=rng.uniform(0.15, 0.3),
                attention=attention * strength,
                warm=warm,
                frequency=rng.uniform(0.6, 1.2),
                common=common,
                bias=bias,
                units={"Creatinine": "umol/L", "Temp": "[degF]"} if s == 2 else {},
            )
        )
    return tuple(found)


def _share(hospital: Hospital, comorbid: bool) -> float:
    """Chance of an onset some day."""
    return min(0.95, hospital.septic * (1.4 if comorbid else 0.8))


def _intensity(channel: _Channel, hospital: Hospital, e: NDArray) -> NDArray[np.float64]:
    """Expected measurements of an hour."""
    return channel.rate * hospital.frequency * (1 + hospital.attention * e)


def _expected(
    name: str, channel: _Channel, hospital: Hospital, e: NDArray, cold: NDArray, low: NDArray
) -> NDArray[np.float64]:
    """Mean of a measurement (its logarithm where the channel says so), without severity."""
    if name == "Temp":
        effect = hospital.warm * np.where(cold, -0.8, channel.effect) * e
    elif name == "WBC":
        effect = hospital.common * np.where(low, -3.0, channel.effect) * e
    elif name in _FACTORS:
        effect = np.log1p(hospital.common * channel.effect * e)
    else:
        effect = hospital.common * channel.effect * e
    return channel.level + hospital.bias.get(name, 0.0) + effect


def _severity(
    hour: NDArray[np.int64], onset: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    start = INNOVATION / np.sqrt(1 - MEMORY**2)
    noise = rng.standard_normal(len(hour))
    first = rng.standard_normal(len(hour))
    infected = hour >= onset
    found = np.empty(len(hour))
    u = 0.0
    for r in range(len(hour)):
        before = start * first[r] if hour[r] == 1 else u
        u = MEMORY * before + INNOVATION * noise[r] + DRIFT * infected[r]
        found[r] = u
    return found


def _bursts(hour: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Hours in silent stretches of the feed: they begin once in 200 hours and last 2 to 6."""
    begins = rng.random(len(hour)) < 1 / 200
    lasting = rng.integers(2, 7, len(hour))
    silent = np.zeros(len(hour), bool)
    left = 0
    for r in range(len(hour)):
        if hour[r] == 1:
            left = 0
        if begins[r]:
            left = int(lasting[r])
        silent[r] = left > 0
        left = max(left - 1, 0)
    return silent


def _by_arrival(
    values: NDArray[np.float32],
    delay: NDArray[np.float64],
    hour: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Values in the hour of their arrival; of several the last specimen, none after the end."""
    out = np.full(len(values), np.nan, np.float32)
    at = np.flatnonzero(~np.isnan(values))
    arrives = np.ceil(hour[at] - 0.5 + delay[at]).astype(np.int64)
    inside = arrives <= lengths[at]
    at, arrives = at[inside], arrives[inside]
    # Specimens come in order, so that a later one overwrites an earlier one.
    out[at + arrives - hour[at]] = values[at]
    return out
