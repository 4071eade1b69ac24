"""From a panel to tensors: causal inputs of the encoder, and what each fork knows of its future."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.panel import Categorical, Panel
from foretell.errors import DataError
from foretell.learners.demand.forecast import Span
from foretell.learners.demand.neural.calendar import calendar_features
from foretell.learners.demand.neural.profiles import GroupProfile
from foretell.learners.demand.neural.scaling import causal_mean_scale, trailing_mean

Moments = dict[str, tuple[float, float]]
_SAMPLE = 5_000_000


@dataclass(frozen=True)
class SequenceSpec:
    """What a model reads of a panel, and the statistics it learned from the training part.

    Args:
        horizon: number of periods K.
        seasons: season lengths whose lags are references; may be empty.
        scale_window: number of observed values in the causal scale.
        past: past covariates -> (mean, standard deviation).
        known: known covariates -> (mean, standard deviation); (0, 1) for 0/1 indicators.
        static_real: static numbers -> (mean, standard deviation).
        static_categorical: static categories -> vocabulary.
        groups: static categories -> vocabulary, whose groups' seasonal profiles are references.
        events: the names in ``known`` that are events.
        event_distance: periods within which the distance to an event is a feature; 0 for none.
        spans: sums of periods that are forecast too.
        calendar: groups of calendar features; see :mod:`.calendar`.
        log_scale: whether the logarithm of the scale is an input. It breaks scale equivariance.
        guard: whether a second copy of the target, with event periods replaced by the local level,
            is read.
        floor: smallest scale.
        default_scale: scale of a series without any observation.
        log_scale_moments: mean and standard deviation of the logarithm of the scale.
    """

    horizon: int
    seasons: tuple[int, ...] = ()
    scale_window: int = 13
    past: Moments = field(default_factory=dict)
    known: Moments = field(default_factory=dict)
    static_real: Moments = field(default_factory=dict)
    static_categorical: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    event_distance: int = 0
    spans: tuple[Span, ...] = ()
    calendar: tuple[str, ...] = ()
    log_scale: bool = True
    guard: bool = False
    floor: float = 1e-6
    default_scale: float = 1.0
    log_scale_moments: tuple[float, float] = (0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """The specification as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SequenceSpec:
        """The inverse of :meth:`to_dict`."""
        values = dict(values)
        for name in ("past", "known", "static_real"):
            values[name] = {k: (float(a), float(b)) for k, (a, b) in values[name].items()}
        for name in ("static_categorical", "groups"):
            values[name] = {k: tuple(v) for k, v in values[name].items()}
        values["spans"] = tuple(Span(**s) for s in values["spans"])
        for name in ("seasons", "events", "log_scale_moments", "calendar"):
            values[name] = tuple(values[name])
        return cls(**values)


def learn_spec(
    panel: Panel,
    horizon: int,
    *,
    seasons: Sequence[int],
    scale_window: int,
    past: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
    static: Sequence[str] | None = None,
    groups: Sequence[str] = (),
    **options: Any,
) -> SequenceSpec:
    """Reads the statistics of a training panel.

    Args:
        panel: the training part.
        horizon: number of periods K.
        seasons: season lengths.
        scale_window: observed values in the scale.
        past: names of past covariates; all of the panel when ``None``.
        known: names of known covariates; all when ``None``.
        static: names of static attributes; all when ``None``.
        groups: names of static categories whose groups' profiles are references.
        options: other arguments of :class:`SequenceSpec`.

    Raises:
        DataError: a name is not in the panel, or nothing was observed.
    """
    past = list(panel.past) if past is None else list(past)
    known = list(panel.known) if known is None else list(known)
    attributes = [*panel.static_categorical, *panel.static_real]
    static = attributes if static is None else list(static)
    for kind, names, have in (
        ("past covariate", past, list(panel.past)),
        ("known covariate", known, list(panel.known)),
        ("static attribute", static, attributes),
        ("static category", groups, list(panel.static_categorical)),
    ):
        for name in names:
            if name not in have:
                raise DataError(
                    f"the panel has no {kind} of that name",
                    column=name,
                    hint=f"It has {', '.join(have) or 'none'}",
                )
    scales = _series_scales(panel)
    positive = scales[scales > 0]
    if not np.isfinite(scales).any():
        raise DataError(
            "no series has an observed value", column="y", hint="At least one value is needed"
        )
    typical = float(np.median(positive)) if positive.size else 1.0
    logs = np.log(positive) if positive.size else np.zeros(1)
    return SequenceSpec(
        horizon=horizon,
        seasons=tuple(int(m) for m in seasons),
        scale_window=scale_window,
        past={n: _moments(_visible(panel, panel.past[n], panel.begins)) for n in past},
        known={n: _moments(_visible(panel, panel.known[n], panel.known_begins)) for n in known},
        static_real={n: _moments(panel.static_real[n]) for n in static if n in panel.static_real},
        static_categorical={
            n: panel.static_categorical[n].vocabulary
            for n in static
            if n in panel.static_categorical
        },
        groups={n: panel.static_categorical[n].vocabulary for n in groups} if seasons else {},
        events=tuple(n for n in panel.events if n in known),
        floor=1e-3 * typical,
        default_scale=typical,
        log_scale_moments=(float(logs.mean()), float(max(logs.std(), 1e-3))),
        **options,
    )


def _series_scales(panel: Panel) -> NDArray[np.float64]:
    """Mean |y| of (a sample of) the series, NaN where nothing was observed."""
    rows = np.arange(len(panel))
    if len(rows) > 20_000:
        rows = np.random.default_rng(0).choice(rows, 20_000, replace=False)
    result = np.full(len(rows), np.nan)
    for j, i in enumerate(rows):
        y = panel.series(int(i))
        y = y[~np.isnan(y)]
        if y.size:
            result[j] = float(np.abs(y).mean(dtype=np.float64))
    return result


def _visible(panel: Panel, flat: NDArray, begins: NDArray) -> NDArray:
    """Values of the panel's own steps: the flat array also holds what a cut has hidden."""
    series = int(np.searchsorted(np.cumsum(panel.lengths), _SAMPLE)) + 1
    spans = zip(begins[:series], panel.lengths[:series], strict=True)
    return np.concatenate([flat[begin : begin + length] for begin, length in spans])


def _moments(values: NDArray) -> tuple[float, float]:
    sample = np.asarray(values[:_SAMPLE], np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0 or np.isin(sample, (0.0, 1.0)).all():
        return 0.0, 1.0
    return float(sample.mean()), float(sample.std()) or 1.0


def squash(values: NDArray) -> NDArray:
    """Sign times ``log(1 + |x|)``: scaled values of any size as inputs of a network."""
    return np.sign(values) * np.log1p(np.abs(values))


class SequenceReader:
    """Cuts windows from a panel and lays out what a :class:`SequenceSpec` names.

    Windows begin at a series' first observed step or later and are padded on the right, which a
    causal encoder never sees; so leading padding of a series cannot change any output.

    Args:
        panel: the series; covariates are looked up by name.
        spec: what is read.
        profiles: of the specification's groups, from the training panel; periods that they lack
            are taken from this panel.

    Raises:
        DataError: a covariate or attribute of the specification is missing.
    """

    def __init__(
        self,
        panel: Panel,
        spec: SequenceSpec,
        profiles: Mapping[str, GroupProfile] | None = None,
    ) -> None:
        self.panel, self.spec = panel, spec
        for kind, names, have in (
            ("past covariate", spec.past, panel.past),
            ("known covariate", spec.known, panel.known),
            ("static attribute", spec.static_real, panel.static_real),
            ("static attribute", spec.static_categorical, panel.static_categorical),
            ("static attribute", spec.groups, panel.static_categorical),
        ):
            for name in names:
                if name not in have:
                    raise DataError(
                        f"the model was fitted with a {kind} that this panel does not have",
                        column=name,
                        hint="Give the same columns as in fit",
                    )
        self._codes = {
            name: Categorical(np.zeros(0, np.int32), vocabulary)
            .encode([None, *panel.static_categorical[name].vocabulary])
            .codes
            for name, vocabulary in {**spec.static_categorical, **spec.groups}.items()
        }
        self.profiles: dict[str, GroupProfile] = {}
        for name, vocabulary in spec.groups.items():
            own = GroupProfile.of(panel, name, vocabulary, spec.scale_window, spec.floor)
            known = (profiles or {}).get(name)
            self.profiles[name] = own if known is None else known.continued(own)
        self._first_period = int(panel.starts.min(initial=0))
        last = int((panel.starts + np.maximum(panel.lengths, 1)).max(initial=0)) + spec.horizon
        periods = np.arange(self._first_period, last + 1)
        self._calendar = calendar_features(panel.frequency, periods, spec.calendar)[0]
        self.first_observed = _first_observed(panel)

    @property
    def sequence_channels(self) -> int:
        """Channels C of ``sequence``."""
        spec = self.spec
        own = 2 + spec.log_scale + 3 * len(spec.seasons)
        return own + len(spec.past) * 2 + self.known_channels

    @property
    def known_channels(self) -> int:
        """Known features of one period: calendar, covariates, distances to events."""
        spec = self.spec
        events = len(spec.events) if spec.event_distance else 0
        return self._calendar.shape[1] + len(spec.known) + events

    @property
    def future_channels(self) -> int:
        """Features of one target period: known then, and known at each seasonal reference."""
        return self.known_channels * (1 + len(self.spec.seasons))

    @property
    def reference_channels(self) -> int:
        """Scaled lags and whether they are there."""
        return (7 + 3 * len(self.spec.groups)) * len(self.spec.seasons)

    @property
    def candidates(self) -> int:
        """Candidates of the additive skip: the level, four a season, two a season and group."""
        return 1 + (4 + 2 * len(self.spec.groups)) * len(self.spec.seasons)

    def read(
        self,
        rows: NDArray[np.int64],
        begins: NDArray[np.int64],
        forks: NDArray[np.int64],
        length: int,
    ) -> dict[str, Tensor]:
        """One batch.

        Args:
            rows: (B,) series.
            begins: (B,) step at which each window begins.
            forks: (B, F) positions in the window; everything up to and including that step is
                known to the fork. A negative one stands before the first step: the encoder has
                nothing for it, but what is known ahead is that of its own dates.
            length: steps T that are encoded; more than the last fork needs is never looked at.

        Returns:
            Tensors: ``sequence (B, T, C)``, ``guard (B, T, C)`` if asked for, ``forks (B, F)``,
            ``scale (B, F)``, ``future (B, F, K, Cf)``, ``reference (B, F, K, R)``, ``candidates
            (B, F, K, J)`` and ``available (B, F, K, J)``, ``static_categorical (B, Ns)``,
            ``static_real (B, Nr)``, ``target (B, F, K)`` with 0 where not ``observed (B, F, K)``,
            and ``censored (B, F, K)`` where the panel has the flag.
        """
        spec, panel, k = self.spec, self.panel, self.spec.horizon
        # Windows reach to the left of their beginning only where a fork stands there.
        lead = max(0, -1 - int(forks.min()))
        total = lead + length + k
        stops = begins + length + k
        y = panel.windows(rows, stops, total)
        seen = ~np.isnan(y)
        seen[:, :lead] = False
        y = np.where(seen, y, 0).astype(np.float32)
        known = self._known(rows, stops, total)
        event = self._event_mask(rows, stops, total)
        scaled_on = seen & ~event if spec.guard else seen
        scale = causal_mean_scale(
            y[:, : lead + length],
            scaled_on[:, : lead + length],
            spec.scale_window,
            spec.floor,
            spec.default_scale,
        )
        result = self._encoder_inputs(
            rows, stops, y[:, lead:], seen[:, lead:], known[:, lead:], event[:, lead:],
            scale[:, lead:],
        )  # fmt: skip
        result["forks"] = forks
        forks = forks + lead
        index = np.maximum(forks, 0)
        batch = np.arange(len(rows))[:, None]
        fork_scale = np.where(forks >= 0, scale[batch, index], spec.default_scale)
        targets = forks[:, :, None] + np.arange(1, k + 1)
        rows_ = batch[:, :, None]
        result["scale"] = fork_scale.astype(np.float32)
        result["target"] = y[rows_, targets]
        result["observed"] = seen[rows_, targets]
        if panel.censored is not None:
            result["censored"] = panel.censored_windows(rows, stops, total)[rows_, targets]
        offsets = panel.starts[rows] + begins - lead
        result |= self._references(rows, offsets, lead, y, seen, scale, known, forks, targets)
        codes = [self._groups(name, rows) for name in spec.static_categorical]
        result["static_categorical"] = (
            np.stack(codes, 1).astype(np.int64) if codes else np.zeros((len(rows), 0), np.int64)
        )
        reals = [
            np.nan_to_num((panel.static_real[n][rows] - mean) / sd)
            for n, (mean, sd) in spec.static_real.items()
        ]
        result["static_real"] = (
            np.stack(reals, 1).astype(np.float32) if reals else np.zeros((len(rows), 0), np.float32)
        )
        return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in result.items()}

    def _encoder_inputs(
        self,
        rows: NDArray,
        stops: NDArray,
        y: NDArray,
        seen: NDArray,
        known: NDArray,
        event: NDArray,
        scale: NDArray,
    ) -> dict[str, NDArray]:
        spec, length = self.spec, scale.shape[1]
        present = y[:, :length] / scale
        observed = seen[:, :length].astype(np.float32)
        channels = [squash(present), observed]
        if spec.log_scale:
            mean, sd = spec.log_scale_moments
            channels.append((np.log(scale) - mean) / sd)
        for season in spec.seasons:
            lagged, there, before = np.zeros_like(y[:, :length]), observed * 0, scale
            if season < length:
                lagged = np.concatenate([lagged[:, :season], y[:, : length - season]], 1)
                there = np.concatenate([there[:, :season], observed[:, :-season]], 1)
                before = np.concatenate([scale[:, :season], scale[:, :-season]], 1)
            channels += [squash(lagged / scale), there, np.clip(np.log(scale / before), -3, 3)]
        for name, (mean, sd) in spec.past.items():
            values = self.panel.past_windows(name, rows, stops, y.shape[1])[:, :length]
            given = np.isfinite(values)
            scaled: NDArray = np.where(given, (values - mean) / sd, 0)
            # Deviations from the recent past: the level of a price index or a temperature names
            # the date, and at prediction lies outside of what was trained on.
            scaled = scaled - trailing_mean(scaled, given, spec.scale_window)[0]
            channels += [np.where(given, np.clip(scaled, -5, 5), 0), given]
        stacked = np.stack(channels, -1).astype(np.float32)
        result = {"sequence": np.concatenate([stacked, known[:, :length]], -1)}
        if spec.guard:
            calm = np.where(event[:, :length], np.float32(np.log1p(1.0)), channels[0])
            result["guard"] = np.stack([calm, observed], -1).astype(np.float32)
        return result

    def _references(
        self,
        rows: NDArray,
        offsets: NDArray,
        lead: int,
        y: NDArray,
        seen: NDArray,
        scale: NDArray,
        known: NDArray,
        forks: NDArray,
        targets: NDArray,
    ) -> dict[str, NDArray]:
        """The past at the targets' place in the season, in the fork's unit."""
        spec, k = self.spec, self.spec.horizon
        batch = np.arange(len(y))[:, None, None]
        fork = forks[:, :, None]
        unit = np.where(forks >= 0, scale[batch[:, :, 0], np.maximum(forks, 0)], spec.default_scale)
        unit = unit[:, :, None]
        future = [known[batch, targets]]
        lags: list[NDArray] = []
        candidates: list[NDArray] = [np.ones(targets.shape, np.float32)]
        available = [np.ones(targets.shape, bool)]
        for season in spec.seasons:
            # Horizons beyond a season look back whole seasons until the past is reached.
            back = -(-np.arange(1, k + 1) // season) * season
            at = np.broadcast_to(targets - back, targets.shape)
            values, there = [], []
            for shift in (0, -1, 1):
                place = at + shift
                inside = (place >= lead) & (place <= fork)
                place = np.where(inside, place, 0)
                have = inside & seen[batch, place]
                there.append(have)
                values.append(np.where(have, y[batch, place] / unit, 0))
            # The same season's scale as that of the fork, so that a ratio is free of the season.
            then = fork - back
            comparable = then >= lead
            before = np.where(comparable, scale[batch, np.maximum(then, 0)], unit)
            growth = np.clip(unit / before, 0.2, 5.0)
            lags += [squash(v) for v in values]
            lags += [*there, np.log(growth)]
            around = np.where(there[1] & there[2], (values[1] + values[2]) / 2, 0)
            candidates += [values[0], values[0] * growth, around, around * growth]
            neighbours = there[1] & there[2]
            available += [there[0], there[0] & comparable, neighbours, neighbours & comparable]
            for name, profile in self.profiles.items():
                group = self._groups(name, rows)[:, None, None]
                offset = offsets[:, None, None]
                mean, has_mean = profile.value_at(group, at + offset)
                then_scale, has_then = profile.scale_at(group, then + offset)
                now_scale, has_now = profile.scale_at(group, fork + offset)
                shaped = has_mean & has_then & (then_scale > 0)
                shape = np.where(shaped, mean / np.where(shaped, then_scale, 1), 0)
                shape = np.clip(shape, -50, 50)
                grown = has_now & has_then & (then_scale > 0) & (now_scale > 0)
                ratio = np.where(grown, now_scale / np.where(grown, then_scale, 1), 1)
                ratio = np.clip(np.where(grown, ratio, 1), 0.2, 5.0)
                lags += [squash(shape), shaped, np.log(ratio)]
                candidates += [shape, values[0] * ratio]
                available += [shaped, there[0] & grown]
            inside = (at >= lead) & (at <= fork)
            future.append(np.where(inside[..., None], known[batch, np.where(inside, at, 0)], 0))
        none = np.zeros((*targets.shape, 0), np.float32)
        return {
            "future": np.concatenate(future, -1),
            "reference": np.stack(lags, -1).astype(np.float32) if lags else none,
            "candidates": np.stack(candidates, -1).astype(np.float32),
            "available": np.stack(available, -1),
        }

    def _groups(self, name: str, rows: NDArray) -> NDArray[np.int64]:
        """Codes ``(B,)`` of a static category under the training vocabulary."""
        codes = self.panel.static_categorical[name].codes[rows]
        return self._codes[name][codes].astype(np.int64)

    def _known(self, rows: NDArray, stops: NDArray, total: int) -> NDArray[np.float32]:
        """Known features ``(B, total, Cf)``, 0 where not given."""
        spec, panel = self.spec, self.panel
        periods = panel.period_windows(rows, stops, total) - self._first_period
        parts = [self._calendar[np.clip(periods, 0, len(self._calendar) - 1)]]
        for name, (mean, sd) in spec.known.items():
            values = panel.known_windows(name, rows, stops, total)
            parts.append(np.nan_to_num((values - mean) / sd)[..., None])
        if spec.event_distance:
            reach = spec.event_distance
            for name in spec.events:
                wide = panel.known_windows(name, rows, stops + reach, total + 2 * reach)
                parts.append(_signed_nearness(np.nan_to_num(wide) != 0, reach)[..., None])
        return np.concatenate(parts, -1).astype(np.float32)

    def _event_mask(self, rows: NDArray, stops: NDArray, total: int) -> NDArray[np.bool_]:
        mask = np.zeros((len(rows), total), bool)
        if self.spec.guard:
            for name in self.spec.events:
                mask |= np.nan_to_num(self.panel.known_windows(name, rows, stops, total)) != 0
        return mask


def _signed_nearness(event: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """``(1 - |d| / (reach + 1)) sign(d)`` for the distance d to the nearest event in reach.

    ``event (B, T + 2 reach)`` gives ``(B, T)``; positive before an event, 0 on it and out of reach.
    """
    length = event.shape[1] - 2 * reach
    result = np.zeros((len(event), length), np.float32)
    for distance in range(reach, 0, -1):
        weight = np.float32(1 - distance / (reach + 1))
        after = event[:, reach - distance : reach - distance + length]
        before = event[:, reach + distance : reach + distance + length]
        result = np.where(after, -weight, result)
        result = np.where(before, weight, result)
    return np.where(event[:, reach : reach + length], np.float32(0), result)


def _first_observed(panel: Panel) -> NDArray[np.int64]:
    """Step of each series' first observation; its length where there is none."""
    first = np.zeros(len(panel), np.int64)
    pending = np.flatnonzero(panel.lengths > 0)
    while pending.size:
        missing = np.isnan(panel.target[panel.begins[pending] + first[pending]])
        pending = pending[missing]
        first[pending] += 1
        pending = pending[first[pending] < panel.lengths[pending]]
    return first
