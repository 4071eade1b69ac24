"""Hand-crafted features of the boosted anchor: scores, ratios, trends, what was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.binning import Observation
from foretell.data.clinical.feature_stream import FeatureStream
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.schema import Schema
from foretell.data.clinical.sofa import sofa_components
from foretell.data.clinical.stays import Stays
from foretell.errors import ParameterError
from foretell.learners.risk.scores import news2, qsofa, sirs

VITALS = ("HR", "O2Sat", "Temp", "SBP", "MAP", "DBP", "Resp")
TRACKS = ("HR", "Resp", "Temp", "MAP", "SBP", "O2Sat", "shock_index", "sofa", "bun_creatinine")
"""Series whose trends are features."""

TRENDS = ("mean_gap_24h", "spread_12h", "slope_12h", "above_lowest_24h", "below_highest_24h")
SIGNATURE = tuple(
    "signature_" + "_".join(word)
    for depth in (1, 2, 3)
    for word in product(("lead", "lag"), repeat=depth)
)
POINTS = ("sofa", "coagulation", "liver", "cardiovascular", "renal", "news2", "sirs", "qsofa")
RATIOS = ("pulse_pressure", "saturation_to_oxygen", "age_shock_index")
LOOKS = ("labs_now", "labs_8h", "vitals_8h", "labs_known", "hours_since_lab")
"""What was looked at, which tells of the staff's suspicion: left out where time is hidden."""

_WIDTH = 24


class AnchorFeatures:
    """Features of each hour for boosted trees; batch and stream share their code.

    To the last values of all channels, hours since they were measured and how often in 8 hours,
    and mean and extremes of the vital signs come: points of partial SOFA (what of it the channels
    hold), NEWS2, SIRS and qSOFA; ratios; how many laboratory values are there; trends over 12 and
    24 hours of :data:`TRACKS`, the deterioration of SOFA in 24 hours among them; and, if wanted,
    path signatures: Morrill et al., Utilization of the signature method to identify the early
    onset of sepsis from multivariate physiological time series in critical care monitoring,
    Critical Care Medicine 48(10), 2020.

    Args:
        kind: ``"full"``; ``"vitals"``: last values of six vital signs alone; ``"time-blind"``:
            nothing that tells the hour or how often somebody looked.
        signature_hours: look-back of the signatures (lead-lag, depth 3); 0 for none.
        schema: the channels, the 34 of the 2019 challenge by default.

    Attributes:
        names: (F,) names of the features.
    """

    def __init__(
        self, kind: str = "full", *, signature_hours: int = 0, schema: Schema | None = None
    ) -> None:
        if kind not in ("full", "vitals", "time-blind"):
            raise ParameterError(f"kind must be 'full', 'vitals' or 'time-blind', not {kind!r}")
        if not 0 <= signature_hours <= _WIDTH:
            raise ParameterError(
                f"signature_hours must lie in 0 to {_WIDTH}, not {signature_hours}"
            )
        self.kind, self.signature_hours = kind, signature_hours
        name = "p19-v1" if kind == "vitals" else "p19-windows-v1"
        self.builder = CausalFeatureBuilder(name, schema=schema)
        self._place = {n: i for i, n in enumerate(self.builder.names)}
        missing = [v for v in VITALS if v not in self.builder.schema.names]
        if missing:
            raise ParameterError(f"the anchor needs the channels {', '.join(missing)}")
        base = [n for n in self.builder.names if self._wanted(n)]
        self._columns = np.array([self._place[n] for n in base], np.int64)
        self._labs = [v.name for v in self.builder.schema.variables if v.kind == "lab"]
        self.names: tuple[str, ...] = (*base, *self._extra_names())

    @property
    def n_features(self) -> int:
        """Number F of features."""
        return len(self.names)

    @property
    def schema(self) -> Schema:
        """The channels."""
        return self.builder.schema

    def raw(self, stays: Stays, rows: ArrayLike | None = None) -> NDArray[np.float32]:
        """(R, F) features, NaN where not known.

        Args:
            stays: any stays whose channels are the features'.
            rows: (R,) mask of the rows that are kept.
        """
        wanted = None if rows is None else np.asarray(rows, bool)
        size = stays.n_rows if wanted is None else int(wanted.sum())
        out = np.empty((size, self.n_features), np.float32)
        read = written = 0
        for chunk in stays.chunks(50_000):
            ring, clock = self.memory()
            base = self.builder.raw(chunk)
            part = self._assemble(base, chunk.lengths.astype(np.int64), True, ring, clock)
            if wanted is not None:
                part = part[wanted[read : read + len(part)]]
            out[written : written + len(part)] = part
            read += chunk.n_rows
            written += len(part)
        return out

    def stream(self, **described: Any) -> AnchorStream:
        """The live form; see :meth:`CausalFeatureBuilder.stream` for the arguments."""
        return AnchorStream(self, self.builder.stream(**described, scaled=False))

    def to_dict(self) -> dict[str, Any]:
        """All that determines the features, as JSON can hold it."""
        return {
            "kind": self.kind,
            "signature_hours": self.signature_hours,
            "builder": self.builder.to_dict(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The features of :meth:`to_dict`.

        Raises:
            ParameterError: something is missing or out of range.
        """
        try:
            builder = CausalFeatureBuilder.from_dict(told["builder"])
            features = cls(
                str(told["kind"]), signature_hours=int(told["signature_hours"]),
                schema=builder.schema,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"these are no features: {type(error).__name__} {error}"
            ) from error
        if features.builder.names != builder.names:
            raise ParameterError("these are features of another version")
        return features

    def memory(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Ring and clock before the first hour."""
        return np.full((_WIDTH, len(TRACKS)), np.nan), np.zeros(1, np.int64)

    def _wanted(self, name: str) -> bool:
        channel, colon, block = name.partition(":")
        vital = channel in VITALS
        if self.kind == "vitals":
            return block == "last" and vital and channel != "MAP"
        if not colon:
            return self.kind == "full" or name not in ("hour", "admission")
        if self.kind == "time-blind":
            return block in ("last", "change") or (vital and block in ("mean", "min", "max"))
        if block in ("last", "since", "count"):
            return True
        return vital and block in ("change", "mean", "min", "max")

    def _extra_names(self) -> tuple[str, ...]:
        if self.kind == "vitals":
            return ()
        trends = [f"{track}:{kind}" for track in TRACKS for kind in TRENDS]
        if self.signature_hours:
            trends += [f"{track}:{term}" for track in TRACKS for term in SIGNATURE]
        looks = LOOKS if self.kind == "full" else ()
        return (*POINTS, *RATIOS, *looks, *trends)

    def _assemble(
        self,
        base: NDArray[np.float32],
        lengths: NDArray[np.int64],
        fresh: bool,
        ring: NDArray[np.float64],
        clock: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Features (R, F) of rows of the builder, stay after stay."""
        chosen = base[:, self._columns]
        if self.kind == "vitals":
            return chosen
        # Compiled code is loaded only where features are made.
        from foretell.learners.risk import trend_kernel as kernel

        def of(name: str) -> NDArray[np.float32]:
            place = self._place.get(name)
            return np.full(len(base), np.nan, np.float32) if place is None else base[:, place]

        last = {n: of(f"{n}:last") for n in self.builder.schema.names}
        parts = sofa_components(
            {n: last[n] for n in ("Platelets", "Bilirubin_total", "MAP", "Creatinine") if n in last}
        )
        parts = {n: np.nan_to_num(parts[n]) for n in POINTS[1:5]}
        sofa = np.sum([*parts.values()], axis=0)
        points = [sofa, *parts.values()]
        points += [score(last).points for score in (news2, sirs, qsofa)]
        oxygen = of("FiO2:last")
        shock = of("shock_index")
        ratios = [
            of("SBP:last") - of("DBP:last"),
            of("O2Sat:last") / np.where(oxygen > 0.15, oxygen, np.nan),
            of("age") * shock,
        ]
        extras = points + ratios
        if self.kind == "full":
            extras += self._looks(of)
        tracks = [sofa if t == "sofa" else last.get(t, of(t)) for t in TRACKS]
        values = np.stack(tracks, axis=1).astype(np.float64)
        per_track = kernel.PER_TRACK + (kernel.SIGNATURE_TERMS if self.signature_hours else 0)
        trends = np.empty((len(base), len(TRACKS) * per_track), np.float32)
        kernel.advance(values, lengths, fresh, self.signature_hours, ring, clock, trends)
        columns = np.stack(extras, axis=1).astype(np.float32)
        return np.concatenate([chosen, columns, trends], axis=1)

    def _looks(self, of: Any) -> list[NDArray]:
        since = np.stack([of(f"{n}:since") for n in self._labs], axis=1)
        labs = np.stack([of(f"{n}:count") for n in self._labs], axis=1)
        vitals = np.stack([of(f"{n}:count") for n in VITALS], axis=1)
        known = ~np.isnan(since)
        nearest = np.where(known, since, np.inf).min(axis=1, initial=np.inf)
        return [
            (since == 0).sum(axis=1),
            np.nansum(labs, axis=1),
            np.nansum(vitals, axis=1),
            known.sum(axis=1),
            np.where(np.isfinite(nearest), nearest, np.nan),
        ]


class AnchorStream:
    """Features of one stay hour by hour; made by :meth:`AnchorFeatures.stream`."""

    def __init__(self, features: AnchorFeatures, base: FeatureStream) -> None:
        self._features, self._base = features, base
        self._ring, self._clock = features.memory()

    @property
    def hour(self) -> int:
        """The last hour that was closed."""
        return self._base.hour

    def add(self, observation: Observation) -> bool:
        """Takes an observation of the open hour; see :class:`FeatureStream`."""
        return self._base.add(observation)

    def close(self) -> NDArray[np.float32]:
        """(F,) features of the next hour, from the observations that arrived by its end."""
        return self._extend(self._base.close())

    def step(self, row: ArrayLike) -> NDArray[np.float32]:
        """(F,) features of the next hour from its row (C,), NaN where nothing was measured."""
        return self._extend(self._base.step(row))

    def snapshot(self) -> dict[str, NDArray]:
        """The state of closed hours as plain arrays."""
        trends = {"trend_ring": self._ring.copy(), "trend_clock": self._clock.copy()}
        return self._base.snapshot() | trends

    def restore(self, snapshot: Mapping[str, NDArray]) -> Self:
        """Goes on from a snapshot of a stream of the same features and stay.

        Raises:
            ParameterError: the snapshot does not fit.
        """
        held = {"trend_ring": self._ring, "trend_clock": self._clock}
        for name, array in held.items():
            given = np.asarray(snapshot.get(name))
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ParameterError(f"{name!r} of the snapshot does not fit these features")
        self._base.restore(snapshot)
        for name, array in held.items():
            array[:] = snapshot[name]
        return self

    def _extend(self, base: NDArray[np.float32]) -> NDArray[np.float32]:
        one = np.ones(1, np.int64)
        return self._features._assemble(base[None], one, False, self._ring, self._clock)[0]
