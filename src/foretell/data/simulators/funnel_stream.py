"""A stream of events with engagement, late conversions and drift, whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import special

from foretell.data.events import EventLog
from foretell.errors import ParameterError

FloatArray = NDArray[np.float64]

_PRIOR = {"a0": 0.25, "a1": 0.25, "b0": 0.36, "b1": 0.36, "h": 0.09, "g": 0.16}


@dataclass(frozen=True)
class FunnelStream:
    """Settings of :func:`funnel_stream`; times in hours.

    Args:
        days: length of the stream.
        rate: events an hour.
        features: number of features d.
        window: attribution window W.
        waiting_time: the time e before the first emission that the stream is meant for.
        engagement_delay: mean delay of an engagement at average features.
        conversion_delay: mean further delay of the conversion.
        period: of the drift.
    """

    days: float = 30.0
    rate: float = 100.0
    features: int = 8
    window: float = 96.0
    waiting_time: float = 6.0
    engagement_delay: float = 3.0
    conversion_delay: float = 30.0
    period: float = 480.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ParameterError(f"{name} must be positive, not {value}")


FUNNEL_STREAMS = {
    "default": FunnelStream(),
    "short_window": FunnelStream(
        window=24.0,
        waiting_time=1.0,
        engagement_delay=1.0,
        conversion_delay=8.0,
        period=1440.0,
    ),
}
"""The two regimes: conversions within days under fast drift, and within hours under slow drift."""


@dataclass(frozen=True, eq=False)
class FunnelTruth:
    """The generator behind a stream.

    Args:
        settings: of the stream.
        a0: (d,) effects on engagement; ``a1`` (d,) their drift.
        a1: see ``a0``.
        b0: (d,) effects on conversion given engagement; ``b1`` (d,) their drift.
        b1: see ``b0``.
        h: (d,) log effects on the engagement delay.
        g: (d,) log effects on the further delay of the conversion.
        X: (n, d) features of the stream's events.
        t: (n,) their times.
    """

    settings: FunnelStream
    a0: FloatArray
    a1: FloatArray
    b0: FloatArray
    b1: FloatArray
    h: FloatArray
    g: FloatArray
    X: FloatArray
    t: FloatArray

    def engages(self, X: FloatArray | None = None, t: ArrayLike | None = None) -> FloatArray:
        """P(E | x, t) (n,), however late."""
        X, wave, _ = self._at(X, t)
        return special.expit(0.5 * wave + X @ self.a0 + wave * (X @ self.a1))

    def converts(self, X: FloatArray | None = None, t: ArrayLike | None = None) -> FloatArray:
        """P(Y | E, x, t) (n,), however late."""
        X, wave, phase = self._at(X, t)
        return special.expit(-1 + 0.7 * np.sin(phase + 1) + X @ self.b0 + wave * (X @ self.b1))

    def engagement(
        self,
        X: FloatArray | None = None,
        t: ArrayLike | None = None,
        within: float | None = None,
    ) -> FloatArray:
        """P(engaged within a time | x, t) (n,); within W where none is named."""
        X, _, _ = self._at(X, t)
        return self.engages(X, t) * -np.expm1(-self._within(within) / self.delay_means(X)[0])

    def conversion(
        self,
        X: FloatArray | None = None,
        t: ArrayLike | None = None,
        within: float | None = None,
    ) -> FloatArray:
        """P(converted within a time | x, t) (n,); within W where none is named: the truth."""
        X, _, _ = self._at(X, t)
        return self.engages(X, t) * self.converts(X, t) * self.delay_cdf(X, self._within(within))

    def delay_cdf(self, X: FloatArray, within: ArrayLike) -> FloatArray:
        """P(D <= s) (n,) of the conversion delay of those that convert, however late.

        D is the sum of two exponentials of different means, a hypoexponential.
        """
        means = np.stack(self.delay_means(X))
        slow, fast = 1 / means.max(0), 1 / means.min(0)
        s = np.asarray(within, np.float64)
        gap = (fast - slow) * s
        ratio = np.where(gap > 0, -np.expm1(-gap) / np.where(gap > 0, gap, 1.0), 1.0)
        return -np.expm1(-fast * s) - fast * s * np.exp(-slow * s) * ratio

    def delay_means(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean delay (n,) of the engagement, and mean further delay of the conversion."""
        s = self.settings
        return s.engagement_delay * np.exp(X @ self.h), s.conversion_delay * np.exp(X @ self.g)

    def _within(self, within: float | None) -> float:
        return self.settings.window if within is None else within

    def _at(
        self, X: FloatArray | None, t: ArrayLike | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        X = self.X if X is None else X
        phase = 2 * np.pi * np.asarray(self.t if t is None else t) / self.settings.period
        return X, np.sin(phase), phase


def funnel_stream(
    stream: str | FunnelStream = "default", *, seed: int = 0, **settings: Any
) -> tuple[EventLog, FunnelTruth]:
    """Events at uniform times, some engage (``view``), some of those convert, all of it late.

    With phase ``phi = 2 pi t / period``::

        x ~ N(0, I)        P(E | x, t) = s(.5 sin phi + x.(a0 + sin(phi) a1))
                           P(Y | E, x, t) = s(-1 + .7 sin(phi + 1) + x.(b0 + sin(phi) b1))
        D_E ~ Exp(mean engagement_delay exp(x.h))
        D = D_E + Exp(mean conversion_delay exp(x.g))

    Outcomes after the window are removed. Effects are normal with variances .25 (a), .36 (b),
    .09 (h), .16 (g).

    Args:
        stream: ``"default"``, ``"short_window"``, or settings.
        seed: the same seed gives the same stream.
        **settings: of :class:`FunnelStream`, instead of the stream's own.

    Returns:
        The log, in hours, with features ``x0``, ``x1``, ... and integer ids in order of time, and
        the truth for its events: ``truth.conversion()`` is P(Y within W | x, t), row for row.
    """
    if not isinstance(stream, FunnelStream):
        if stream not in FUNNEL_STREAMS:
            raise ParameterError(f"the stream {stream!r} is not one of {', '.join(FUNNEL_STREAMS)}")
        stream = FUNNEL_STREAMS[stream]
    try:
        stream = replace(stream, **settings)
    except TypeError as error:
        raise ParameterError(f"no such setting: {error}") from error
    rng = np.random.default_rng(seed)
    d = int(stream.features)
    effects = {name: rng.normal(0, np.sqrt(v), d) for name, v in _PRIOR.items()}
    n = round(stream.days * 24 * stream.rate)
    t = np.sort(rng.uniform(0, stream.days * 24, n))
    X = rng.normal(size=(n, d))
    truth = FunnelTruth(stream, X=X, t=t, **effects)
    engaged = rng.random(n) < truth.engages()
    converted = engaged & (rng.random(n) < truth.converts())
    first, further = truth.delay_means(X)
    view = rng.exponential(first)
    conversion = view + rng.exponential(further)
    engaged &= view <= stream.window
    converted &= conversion <= stream.window
    ids = np.arange(n)
    entities = pl.DataFrame({"id": ids, "t": t, **{f"x{j}": X[:, j] for j in range(d)}})
    parts = [("view", engaged, view), ("conversion", converted, conversion)]
    outcomes = pl.concat(
        pl.DataFrame({"id": ids[k], "t_outcome": t[k] + delay[k]}).with_columns(
            pl.lit(kind).alias("kind")
        )
        for kind, k, delay in parts
    )
    log = EventLog.from_frames(
        entities, outcomes, attribution_window=stream.window, unit="h", source="funnel_stream"
    )
    return log, truth
