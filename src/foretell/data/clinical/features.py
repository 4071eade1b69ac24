"""The causal feature builder: one code path for tables of stays and for live streams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.feature_spec import (
    BLOCKS,
    LOG_SINCE,
    OLDEST_AGE,
    PLAIN,
    SHARE,
    STANDARD,
    FeatureSpec,
    Statistics,
)
from foretell.data.clinical.feature_stream import FeatureStream
from foretell.data.clinical.schema import Schema, variable_from_dict, variable_to_dict
from foretell.data.clinical.sexes import sex_numbers
from foretell.data.clinical.small_cells import PatientCounts
from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, NotFittedError, ParameterError

_SCALED_AS = {
    "last": STANDARD,
    "change": STANDARD,
    "since": LOG_SINCE,
    "never": PLAIN,
    "mean": STANDARD,
    "min": STANDARD,
    "max": STANDARD,
    "count": SHARE,
}


class CausalFeatureBuilder:
    """Features of each hour from what was known by its end, for tables and for streams.

    ``transform`` and ``stream`` run the same compiled step; that rows after an hour never change
    its features is a property of the step, not of care.

    Args:
        spec: a :class:`FeatureSpec` or its name.
        schema: the channels, the 34 of the 2019 challenge by default.

    Attributes:
        names: (F,) names of the features: ``"HR:last"``, ``"shock_index"``, ``"age"``.
        statistics: of the site that was fitted; None before.
        sites: name -> statistics of features that only later sites know, see :meth:`add_site`.
    """

    def __init__(self, spec: str | FeatureSpec = "p19-v1", *, schema: Schema | None = None) -> None:
        self.spec = FeatureSpec.named(spec) if isinstance(spec, str) else spec
        self.schema = Schema.default().channels("p19") if schema is None else schema
        channels, spec = self.schema.names, self.spec
        columns = [f"{c}:{block}" for block in spec.blocks for c in channels]
        kinds = [_SCALED_AS[block] for block in spec.blocks for _ in channels]
        self._blocks = np.full(len(BLOCKS), -1, np.int64)
        for i, block in enumerate(spec.blocks):
            self._blocks[BLOCKS.index(block)] = i * len(channels)
        order = {name: i for i, name in enumerate(channels)}
        for pair in spec.ratios.values():
            for name in pair:
                self.schema[name]
        pairs = [(order[a], order[b]) for a, b in spec.ratios.values()]
        self._ratios = np.array(pairs, np.int64).reshape(-1, 2)
        self._ratio_column = len(columns)
        columns += list(spec.ratios)
        kinds += [STANDARD] * len(spec.ratios)
        self._static_column = len(columns)
        for name in spec.static:
            if name == "unit":
                columns += [*(f"unit_{u}" for u in spec.units), "unit_unknown"]
                kinds += [PLAIN] * (len(spec.units) + 1)
            else:
                columns.append(name)
                kinds.append(PLAIN if name == "sex" else STANDARD)
        columns += list(spec.numbers)
        kinds += [STANDARD] * len(spec.numbers)
        self.names: tuple[str, ...] = tuple(columns)
        if len(set(columns)) != len(columns):
            raise ParameterError("two features have the same name")
        self._kinds = np.array(kinds, np.int64)
        # What is not standardised is this, scaled, in whoever does not have it.
        never = self._kinds == LOG_SINCE
        never |= np.array([name.endswith(":never") for name in columns], bool)
        self._absent = never.astype(np.float32)
        # Whoever has a number has it; that of a sex is known of all of whom it is told.
        self._numeric = (self._kinds == STANDARD) | (np.array(columns, object) == "sex")
        bounds = np.array([v.possible for v in self.schema.variables], np.float32).reshape(-1, 2)
        if not spec.bounded:
            bounds[:] = np.array([-np.inf, np.inf], np.float32)
        self._low, self._high = bounds[:, 0].copy(), bounds[:, 1].copy()
        windows = (spec.mean_hours, spec.extreme_hours, spec.count_hours)
        self._windows = np.array(windows, np.int64)
        needed = {"mean": windows[0], "min": windows[1], "max": windows[1], "count": windows[2]}
        self._width = max([1, *(needed[b] for b in spec.blocks if b in needed)])
        self.statistics: Statistics | None = None
        self.sites: dict[str, Statistics] = {}

    @property
    def n_features(self) -> int:
        """Number F of features."""
        return len(self.names)

    def columns(self, *, block: str | None = None, channel: str | None = None) -> NDArray[np.int64]:
        """Numbers of the features of a block, a channel, or both."""
        pairs = [n.partition(":") for n in self.names]
        return np.array(
            [
                i
                for i, (name, colon, kind) in enumerate(pairs)
                if colon and block in (None, kind) and channel in (None, name)
            ],
            np.int64,
        )

    def fit(self, stays: Stays, rows: ArrayLike | None = None) -> CausalFeatureBuilder:
        """Learns means and standard deviations of the reference site.

        A feature that fewer than :data:`LEAST_PATIENTS` (10) patients have counts as one that
        nobody has: its mean would be their values. Where there are fewer patients than that in
        all, it would be so of every feature, and none is left out.

        Args:
            stays: to learn from: training patients only.
            rows: (R,) mask or numbers of the rows that count, all by default.
        """
        self.statistics = self._measure(stays, rows)
        self.sites = {}
        return self

    def add_site(
        self, name: str, stays: Stays, rows: ArrayLike | None = None
    ) -> CausalFeatureBuilder:
        """Learns statistics of features that the reference site never saw, for one later site.

        What earlier sites are encoded to does not change: the statistics of the reference stay,
        and the new ones are used only with ``site=name``.

        Raises:
            NotFittedError: the reference site was not fitted.
        """
        base = self._fitted()
        found = self._measure(stays, rows)
        new = ~base.seen & found.seen
        self.sites[name] = Statistics(
            np.where(new, found.mean, base.mean),
            np.where(new, found.std, base.std),
            new | base.seen,
        )
        return self

    def raw(self, stays: Stays, rows: ArrayLike | None = None) -> NDArray[np.float32]:
        """(R, F) features as they are, NaN where not known: for trees and rules.

        Args:
            stays: any stays whose channels are the builder's.
            rows: (R,) mask or ascending numbers of the rows that are wanted; only they are kept.
        """
        return self._batch(stays, rows, None)

    def transform(
        self, stays: Stays, rows: ArrayLike | None = None, *, site: str | None = None
    ) -> NDArray[np.float32]:
        """(R, F) scaled features without any missing value: for networks.

        Values are standardised by the reference site and 0, its mean, where they are not known,
        or where the site never had any;
        hours since a measurement become log(1 + h) / log(201); counts a share of their window.

        Args:
            stays: any stays whose channels are the builder's.
            rows: (R,) mask or ascending numbers of the rows that are wanted.
            site: a site of :meth:`add_site` whose own statistics count; others use the reference.

        Raises:
            NotFittedError: the builder was not fitted.
        """
        return self._batch(stays, rows, self._of(site))

    def reference(self) -> NDArray[np.float32]:
        """(F,) the scaled hour that drivers are counted from: the mean of the reference site's.

        Of what is not standardised, too: a test that few patients had is nearly as never measured,
        as it is in nearly every hour that was learned from, so that to lack it drives nothing.

        Raises:
            NotFittedError: the builder was not fitted.
        """
        mean = self._fitted().mean
        return np.where(self._kinds == STANDARD, 0.0, mean).astype(np.float32)

    def stream(
        self,
        *,
        age: float = np.nan,
        sex: str | float | None = None,
        unit: str | None = None,
        admission: float = np.nan,
        start: int = 1,
        numbers: Mapping[str, float] | None = None,
        site: str | None = None,
        scaled: bool = True,
    ) -> FeatureStream:
        """The live form for one stay, equal to :meth:`transform` (or :meth:`raw`) hour by hour.

        Args:
            age: in years.
            sex: ``"male"``, ``"female"`` or None; see :func:`sex_numbers` for other words.
            unit: name of the unit, None if not known.
            admission: hours from hospital to unit admission.
            start: hour of the first row on the unit's clock.
            numbers: further numbers of the stay that the features name.
            site: see :meth:`transform`.
            scaled: False gives the features of :meth:`raw`.

        Raises:
            ParameterError: a word for the sex that is not known.
        """
        given = {} if numbers is None else numbers
        static = self._static(
            np.array([age], np.float64),
            np.array([sex], object),
            np.array(["unknown" if unit is None else unit], object),
            np.array([admission], np.float64),
            [np.array([given.get(n, np.nan)], np.float64) for n in self.spec.numbers],
        )[0]
        return FeatureStream(self, static, start, self._of(site) if scaled else None)

    def to_dict(self) -> dict[str, Any]:
        """All that the builder knows, as JSON can hold it."""
        tables = {"": self.statistics, **self.sites}
        return {
            "spec": asdict(self.spec),
            "schema": [variable_to_dict(v) for v in self.schema.variables],
            "synonyms": dict(self.schema.synonyms),
            "statistics": {
                name: {k: v.tolist() for k, v in vars(table).items()}
                for name, table in tables.items()
                if table is not None
            },
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> CausalFeatureBuilder:
        """The builder of :meth:`to_dict`, after JSON or not.

        Raises:
            ParameterError: something is missing or has the wrong size.
        """
        try:
            spec = dict(told["spec"])
            for name in ("blocks", "static", "units", "numbers"):
                spec[name] = tuple(spec[name])
            spec["ratios"] = {k: (a, b) for k, (a, b) in spec["ratios"].items()}
            variables = tuple(variable_from_dict(v) for v in told["schema"])
            builder = cls(FeatureSpec(**spec), schema=Schema(variables, dict(told["synonyms"])))
            for name, table in told["statistics"].items():
                read = Statistics(
                    np.array(table["mean"], np.float64),
                    np.array(table["std"], np.float64),
                    np.array(table["seen"], bool),
                )
                for values in vars(read).values():
                    if values.shape != (builder.n_features,) or not np.isfinite(values).all():
                        raise ValueError("statistics do not fit the features")
                if not (read.std > 0).all():
                    raise ValueError("a standard deviation is not positive")
                if name:
                    builder.sites[name] = read
                else:
                    builder.statistics = read
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ParameterError(
                f"these are no features: {type(error).__name__} {error}"
            ) from error
        return builder

    def fingerprint(self) -> str:
        """A hash of everything that determines the features."""
        import hashlib

        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _fitted(self) -> Statistics:
        if self.statistics is None:
            raise NotFittedError("the feature builder was not fitted: call fit(stays) first")
        return self.statistics

    def _of(self, site: str | None) -> Statistics:
        base = self._fitted()
        return base if site is None else self.sites.get(site, base)

    def _check(self, stays: Stays) -> None:
        if stays.schema.fingerprint() != self.schema.fingerprint():
            raise DataError(
                "the stays have other channels, units or bounds than the features",
                hint="Read them with the schema of the feature builder",
            )

    def _static(
        self,
        age: NDArray[np.float64],
        sex: NDArray[np.object_],
        unit: NDArray[np.object_],
        admission: NDArray[np.float64],
        numbers: list[NDArray[np.float64]],
    ) -> NDArray[np.float32]:
        """(N, S) static features, NaN where not finite; the hour is filled in later."""
        # An endless number is none: scaled, it would be all that a net sees.
        age, admission, *numbers = (
            np.where(np.isfinite(v), v, np.nan) for v in (age, admission, *numbers)
        )
        columns: list[NDArray] = []
        for name in self.spec.static:
            if name == "age":
                columns.append(np.where(age > OLDEST_AGE - 1, OLDEST_AGE, age))
            elif name == "sex":
                columns.append(sex_numbers(sex))
            elif name == "unit":
                columns += [(unit == u).astype(np.float64) for u in self.spec.units]
                columns.append((unit == "unknown").astype(np.float64))
            elif name == "admission":
                columns.append(admission)
            else:
                columns.append(np.zeros(len(age)))
        columns += numbers
        return (
            np.stack(columns, axis=1).astype(np.float32)
            if columns
            else np.zeros((len(age), 0), np.float32)
        )

    def _raw(self, stays: Stays) -> NDArray[np.float32]:
        """All features of a chunk of stays."""
        # Compiled code is loaded only where features are made.
        from foretell.data.clinical import feature_kernel as kernel

        values = stays.matrix()
        out = np.empty((len(values), self.n_features), np.float32)
        state, ring, clock = self._memory()
        kernel.advance_stays(
            values, stays.lengths.astype(np.int64), self._low, self._high, self._windows,
            self._blocks, self._ratios, self._ratio_column, state, ring, clock, out,
        )  # fmt: skip
        unknown = np.full(len(stays), "unknown", object)
        static = self._static(
            stays.number("age"),
            stays.names("sex") if "sex" in stays.categories else unknown,
            stays.names("unit") if "unit" in stays.categories else unknown,
            stays.number("admission"),
            [stays.number(n) for n in self.spec.numbers],
        )
        out[:, self._static_column :] = np.repeat(static, stays.lengths, axis=0)
        if "hour" in self.spec.static:
            out[:, self.names.index("hour")] = stays.hours()
        return out

    def _memory(self) -> tuple[NDArray, NDArray, NDArray]:
        from foretell.data.clinical import feature_kernel as kernel

        channels = len(self.schema)
        state = np.empty((channels, 6), np.float64)
        ring = np.empty((channels, self._width), np.float32)
        clock = np.zeros(1, np.int64)
        kernel.reset(state, ring, clock)
        return state, ring, clock

    def _wanted(self, stays: Stays, rows: ArrayLike | None) -> NDArray[np.bool_] | None:
        if rows is None:
            return None
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if len(rows) != stays.n_rows:
                raise ParameterError(f"the mask has {len(rows)} rows, the stays {stays.n_rows}")
            return rows
        if len(rows) and (np.any(np.diff(rows) <= 0) or rows[0] < 0 or rows[-1] >= stays.n_rows):
            raise ParameterError("rows must be ascending numbers of rows of these stays")
        wanted = np.zeros(stays.n_rows, bool)
        wanted[rows.astype(np.int64)] = True
        return wanted

    def _batch(
        self, stays: Stays, rows: ArrayLike | None, statistics: Statistics | None
    ) -> NDArray[np.float32]:
        from foretell.data.clinical import feature_kernel as kernel

        self._check(stays)
        wanted = self._wanted(stays, rows)
        size = stays.n_rows if wanted is None else int(wanted.sum())
        out = np.empty((size, self.n_features), np.float32)
        read = written = 0
        for chunk in stays.chunks(50_000):
            part = self._raw(chunk)
            if wanted is not None:
                part = part[wanted[read : read + len(part)]]
            if statistics is not None:
                kernel.scale(part, self._kinds, statistics.mean, statistics.divisor)
            out[written : written + len(part)] = part
            read += chunk.n_rows
            written += len(part)
        return out

    def _measure(self, stays: Stays, rows: ArrayLike | None) -> Statistics:
        from foretell.data.clinical import feature_kernel as kernel

        self._check(stays)
        wanted = self._wanted(stays, rows)
        count = np.zeros(self.n_features)
        mean, squares = np.zeros(self.n_features), np.zeros(self.n_features)
        kinds = self._kinds
        divisor = np.where(kinds == SHARE, float(self.spec.count_hours), 1.0)
        hours, others = 0, np.zeros(self.n_features)
        patients = np.unique(stays.patients.astype(str), return_inverse=True)[1].astype(np.int64)
        owners = np.repeat(patients, stays.lengths)
        behind = PatientCounts(self.n_features)
        read = 0
        for chunk in stays.chunks(50_000):
            known = self._raw(chunk)
            owner = owners[read : read + chunk.n_rows]
            if wanted is not None:
                here_wanted = wanted[read : read + chunk.n_rows]
                known, owner = known[here_wanted], owner[here_wanted]
            read += chunk.n_rows
            part = known.astype(np.float64)
            # What is not standardised is scaled as it always is.
            kernel.scale(known, kinds, np.zeros(self.n_features), divisor)
            others += known.sum(axis=0, dtype=np.float64)
            hours += len(known)
            there = ~np.isnan(part)
            behind.add(np.where(self._numeric, there, known != self._absent), owner)
            here = there.sum(axis=0)
            safe = np.maximum(here, 1)
            centre = np.nansum(part, axis=0) / safe
            spread = np.nansum((part - centre) ** 2, axis=0)
            # Chan, Golub and LeVeque's update keeps sums of squares about the running mean.
            total = np.maximum(count + here, 1)
            gap = np.where(here > 0, centre - mean, 0.0)
            squares += spread + gap**2 * count * here / total
            mean += gap * here / total
            count += here
        if read == 0 or (wanted is not None and not wanted.any()):
            raise DataError("there is no hour to learn features from")
        few, standard = behind.few(), kinds == STANDARD
        seen = (count > 0) & ~(few & standard)
        std = np.sqrt(squares / np.maximum(count, 1))
        # What hardly varies is centred, not blown up.
        flat = ~seen | (std <= 1e-6 * np.maximum(1.0, np.abs(mean)))
        std = np.where(flat, 1.0, std)
        others = np.where(few, self._absent, others / hours)
        mean = np.where(standard, np.where(seen, mean, 0.0), others)
        return Statistics(mean, np.where(standard, std, divisor), seen)


def carry_forward(stays: Stays, *, bounded: bool = True) -> NDArray[np.float32]:
    """(R, C) the last value of each channel, NaN before the first one.

    Args:
        stays: any.
        bounded: whether values outside the schema's possible bounds count as not measured.
    """
    spec = replace(FeatureSpec(), blocks=("last",), static=(), bounded=bounded)
    return CausalFeatureBuilder(spec, schema=stays.schema).raw(stays)
