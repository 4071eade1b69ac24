"""The feature pack: a declarative list of causal features and what they need to be computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Categorical, Panel
from foretell.errors import ArtefactError, DataError, ParameterError
from foretell.learners.demand.features.calendar import WEEK
from foretell.learners.demand.features.covariates import (
    Events,
    KnownCovariates,
    PastCovariates,
    SeasonPosition,
)
from foretell.learners.demand.features.definitions import (
    Feature,
    GroupFeatures,
    Horizon,
    RecentLevels,
    SeasonalLags,
    Statics,
    Volatility,
    YearOnYear,
)
from foretell.learners.demand.features.groups import GroupTables, group_tables
from foretell.learners.demand.features.rows import History, RowView

BLOCK = 500_000
FLOOR = 1e-2
ALL = "all"


@dataclass(frozen=True)
class FeatureRows:
    """B rows: position of the series in a panel, last known step, steps ahead; each (B,) int64."""

    series: NDArray[np.int64]
    origins: NDArray[np.int64]
    horizons: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.series)

    def select(self, rows: NDArray) -> FeatureRows:
        """Some of the rows."""
        return FeatureRows(self.series[rows], self.origins[rows], self.horizons[rows])

    @classmethod
    def ahead(cls, panel: Panel, series: NDArray[np.int64], horizon: int) -> FeatureRows:
        """Rows of the ``horizon`` steps after the ends of some series, series by series."""
        return cls(
            np.repeat(series, horizon),
            np.repeat(panel.lengths[series] - 1, horizon),
            np.tile(np.arange(1, horizon + 1), len(series)),
        )


@dataclass(frozen=True)
class FeatureMatrix:
    """Features of B rows.

    Args:
        values: (B, P) float32, NaN where a feature does not apply.
        scale: (B,) what the target is divided by.
        anchor: (B,) the seasonal reference, or the level where there is none, in original units.
        codes: (B, C) category codes under the vocabularies of the fit, 0 unknown.
    """

    values: NDArray[np.float32]
    scale: NDArray[np.float64]
    anchor: NDArray[np.float64]
    codes: NDArray[np.int32]


def default_features(
    *, waves: bool = False, past: bool = True, least_groups: int = 1
) -> list[Feature]:
    """The standard pack.

    Args:
        waves: positions in seasons as sine and cosine, for smooth models.
        past: whether to use past covariates.
        least_groups: groupings with fewer groups are left out.
    """
    features: list[Feature] = [
        SeasonalLags(),
        RecentLevels(),
        YearOnYear(),
        Volatility(),
        Horizon(),
        SeasonPosition(waves=waves),
        Events(),
        KnownCovariates(),
        Statics(),
        GroupFeatures(least_groups),
    ]
    return [*features, PastCovariates()] if past else features


class FeaturePack:
    """Computes features for any rows of a panel, using nothing after each row's origin.

    Args:
        horizon: longest horizon K.
        features: what to compute; :func:`default_features` when ``None``.
        season_length: m in steps, or several with the main one first; by the frequency (with a
            week beside the day for hours, a year beside the week for days) when ``None``.
        scale_window: steps over which a row's scale is taken; one season, at least 26, when
            ``None``.
        reach: farthest distance in steps at which an event is felt.
        min_group: mean number of series in a group below which a category is not used as one.
        easter: whether Easter, computed from the calendar, counts as an event of dated series.
    """

    def __init__(
        self,
        horizon: int,
        *,
        features: Sequence[Feature] | None = None,
        season_length: int | Sequence[int] | None = None,
        scale_window: int | None = None,
        reach: int = 3,
        min_group: float = 4.0,
        easter: bool = True,
    ) -> None:
        if reach < 0 or min_group < 1:
            raise ParameterError("reach must be at least 0 and min_group at least 1")
        self.horizon = horizon
        self.features = list(default_features() if features is None else features)
        self.season_length, self.scale_window = season_length, scale_window
        self.reach, self.min_group, self.easter = reach, min_group, easter

    def fit(self, panel: Panel) -> FeaturePack:
        """Learns vocabularies, ranks of categories, groups and scales from a training panel."""
        if len(panel) == 0 or not panel.lengths.any():
            raise DataError("there is no observation to learn from: the panel is empty")
        self.seasons_ = _seasons(panel, self.season_length)
        m = self.seasons_[0]
        self.windows_ = tuple(sorted({1, max(2, round(m / 13)), max(3, m // 4), max(4, m // 2),
                                      max(8, m), *self.seasons_[1:]}))  # fmt: skip
        self.scale_window_ = self.scale_window or m * -(-26 // m)
        sizes = _mean_absolute(panel)
        usual = sizes[np.isfinite(sizes) & (sizes > 0)]
        typical = float(np.exp(np.mean(np.log(usual)))) if usual.size else 1.0
        self.floor_ = max(FLOOR * typical, 1e-6)
        self.typical_ = max(typical, self.floor_)
        self.vocabularies_ = {k: v.vocabulary for k, v in panel.static_categorical.items()}
        logs = np.log(np.maximum(np.where(np.isfinite(sizes), sizes, typical), self.floor_))
        self.effects_ = {}
        for name, static in panel.static_categorical.items():
            groups = len(static.vocabulary) + 1
            count = np.bincount(static.codes, minlength=groups)
            total = np.bincount(static.codes, logs - np.log(typical), minlength=groups)
            self.effects_[name] = total / (count + 3.0)
        self.groupings_ = [
            name
            for name, words in self.vocabularies_.items()
            if len(words) > 1 and len(panel) / len(words) >= self.min_group
        ]
        self.columns_ = {
            "known": list(panel.known), "past": list(panel.past),
            "static_real": list(panel.static_real), "events": list(panel.events),
        }  # fmt: skip
        dated = panel.frequency.kind == "fixed" and panel.frequency.step <= WEEK
        names = list(panel.events)
        if self.easter and dated and "easter" not in panel.known:
            names.append("easter")
        self.event_names_ = tuple(names)
        self._derive()
        self.groups_: dict[str, GroupTables] = {}
        self.groups_ = self.tables(panel)
        probe = FeatureRows(*(np.array([v], np.int64) for v in (int(panel.lengths.argmax()), 0, 1)))
        view = next(self._views(panel, probe, self.groups_))[1]
        self.names_ = [name for feature in self.features for name in feature.compute(view)]
        if len(set(self.names_)) != len(self.names_):
            double = sorted({n for n in self.names_ if self.names_.count(n) > 1})
            raise ParameterError(f"features give columns of one name twice: {double}")
        return self

    def _derive(self) -> None:
        self._ranks = {}
        for name, effects in self.effects_.items():
            rank = np.argsort(np.argsort(effects[1:], kind="stable"), kind="stable")
            self._ranks[name] = np.concatenate([[np.nan], rank.astype(np.float64)])

    def tables(self, panel: Panel) -> dict[str, GroupTables]:
        """Group totals that :meth:`compute` reads for the rows of a panel.

        Those of the fit, so that the features of a series do not depend on which others are
        forecast with it; periods that the fit did not see come from this panel, up to its ends.
        """
        codes = {
            name: (self._codes(panel, name), len(self.vocabularies_[name]) + 1)
            for name in self.groupings_
        }
        codes[ALL] = (np.zeros(len(panel), np.int32), 1)
        own = group_tables(panel, codes, self.seasons_[0])
        return {
            name: self.groups_[name].continued(table) if name in self.groups_ else table
            for name, table in own.items()
        }

    def compute(
        self, panel: Panel, rows: FeatureRows, tables: dict[str, GroupTables] | None = None
    ) -> FeatureMatrix:
        """Features of rows, in the order of the rows.

        Args:
            panel: the series; nothing after a row's origin is read but what is known ahead.
            rows: which (series, origin, horizon).
            tables: of :meth:`tables` of this panel, when it is asked many times.

        Raises:
            DataError: a column that the fit had is missing; names it.
        """
        tables = self.tables(panel) if tables is None else tables
        n = len(rows)
        values = np.empty((n, len(self.names_)), np.float32)
        scale, anchor = np.empty(n), np.empty(n)
        codes = np.zeros((n, len(self.vocabularies_)), np.int32)
        for where, view in self._views(panel, rows, tables):
            with np.errstate(invalid="ignore", divide="ignore"):
                found = {n: c for f in self.features for n, c in f.compute(view).items()}
                # By name: a panel may hold the covariates of the fit in another order.
                self._check_names(found)
                values[where] = np.column_stack([found[name] for name in self.names_])
            scale[where], anchor[where] = view.scale, view.anchor
            for j, name in enumerate(self.vocabularies_):
                codes[where, j] = view.codes[name][view.local]
        if np.isinf(values).any():
            column = self.names_[int(np.isinf(values).any(axis=0).argmax())]
            raise DataError("a feature is infinite", column=column)
        return FeatureMatrix(values, scale, anchor, codes)

    def _views(
        self, panel: Panel, rows: FeatureRows, tables: dict[str, GroupTables]
    ) -> Iterator[tuple[NDArray, RowView]]:
        """Row views over blocks of series, with the positions of their rows."""
        self._check(panel)
        codes = {name: self._codes(panel, name) for name in self.vocabularies_}
        series, local = np.unique(rows.series, return_inverse=True)
        order = np.argsort(local, kind="stable")
        counts = np.bincount(local, minlength=len(series))
        ends = np.cumsum(counts)
        length = int(panel.lengths[series].max(initial=1)) + self.horizon
        first = 0
        while first < len(series):
            room = max(BLOCK // 4, int(counts[first]))
            done = ends[first - 1] if first else 0
            last = int(np.searchsorted(ends, done + room, side="right"))
            last = min(max(last, first + 1), first + max(1, BLOCK // length))
            where = order[done : ends[last - 1]]
            block = series[first:last]
            here = {name: code[block] for name, code in codes.items()}
            logs = np.full(len(block), np.log(self.typical_))
            for name, code in here.items():
                logs += self.effects_[name][code]
            yield where, RowView(
                History(panel, block, self.horizon), local[where] - first,
                rows.origins[where], rows.horizons[where], seasons=self.seasons_,
                windows=self.windows_, scale_window=self.scale_window_, floor=self.floor_,
                fallback=np.exp(logs), event_names=self.event_names_, reach=self.reach,
                groups=tables, codes=here, ranks=self._ranks,
            )  # fmt: skip
            first = last

    def _check(self, panel: Panel) -> None:
        have = {"known": panel.known, "past": panel.past, "static_real": panel.static_real}
        for kind, columns in have.items():
            for name in self.columns_[kind]:
                if name not in columns:
                    raise DataError(f"the {kind} column of the fit is missing", column=name)
            extra = [name for name in columns if name not in self.columns_[kind]]
            if extra:
                raise DataError(
                    f"a {kind} column was not there in the fit",
                    column=extra[0],
                    hint=f"Known to the model are {self.columns_[kind]}",
                )

    def _check_names(self, found: Iterable[str]) -> None:
        other = set(found) ^ set(self.names_)
        if other:
            raise DataError(
                "the features of this panel are not those of the fit",
                column=min(other),
                hint=f"Mark the same known covariates as events: {self.columns_['events']}",
            )

    def _codes(self, panel: Panel, name: str) -> NDArray[np.int32]:
        if name not in panel.static_categorical:
            raise DataError("the static category of the fit is missing", column=name)
        static = panel.static_categorical[name]
        if static.vocabulary == self.vocabularies_[name]:
            return static.codes
        frame = Categorical(np.zeros(0, np.int32), self.vocabularies_[name])
        translation = frame.encode([None, *static.vocabulary]).codes
        return translation[static.codes]

    def state(self) -> dict[str, Any]:
        """What was given and learned, as JSON values."""
        return {
            "horizon": self.horizon,
            "features": [[type(f).__name__, vars(f)] for f in self.features],
            "season_length": list(self.season_length)
            if isinstance(self.season_length, Sequence | np.ndarray) else self.season_length,
            "scale_window": self.scale_window, "reach": self.reach, "min_group": self.min_group,
            "easter": self.easter,
            "learned": {
                "seasons_": list(self.seasons_), "windows_": list(self.windows_),
                "scale_window_": self.scale_window_, "floor_": self.floor_,
                "typical_": self.typical_,
                "vocabularies_": {k: list(v) for k, v in self.vocabularies_.items()},
                "effects_": {k: v.tolist() for k, v in self.effects_.items()},
                "groupings_": self.groupings_, "columns_": self.columns_,
                "event_names_": list(self.event_names_), "names_": self.names_,
            },
        }  # fmt: skip

    def arrays(self) -> dict[str, NDArray]:
        """The group totals of the fit, for saving beside :meth:`state`."""
        parts = [table.to_arrays(f"groups.{name}") for name, table in self.groups_.items()]
        return {name: array for part in parts for name, array in part.items()}

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: Mapping[str, NDArray]) -> FeaturePack:
        """The inverse of :meth:`state` and :meth:`arrays`.

        Raises:
            ArtefactError: a feature's class is not known here.
        """
        known = {kind.__name__: kind for kind in _subclasses(Feature)}  # type: ignore[type-abstract]
        unknown = [name for name, _ in state["features"] if name not in known]
        if unknown:
            raise ArtefactError(
                f"feature {unknown[0]!r} is not known: import the module that defines it first"
            )
        pack = cls(
            state["horizon"],
            features=[known[name](**arguments) for name, arguments in state["features"]],
            **{k: state[k] for k in
               ("season_length", "scale_window", "reach", "min_group", "easter")},
        )  # fmt: skip
        for name, value in state["learned"].items():
            setattr(pack, name, value)
        pack.seasons_, pack.windows_ = tuple(pack.seasons_), tuple(pack.windows_)
        pack.event_names_ = tuple(pack.event_names_)
        pack.vocabularies_ = {k: tuple(v) for k, v in pack.vocabularies_.items()}
        pack.effects_ = {k: np.asarray(v, np.float64) for k, v in pack.effects_.items()}
        pack._derive()
        pack.groups_ = {
            name: GroupTables.from_arrays(arrays, f"groups.{name}")
            for name in [*pack.groupings_, ALL]
        }
        return pack


def _seasons(panel: Panel, given: int | Sequence[int] | None) -> tuple[int, ...]:
    if given is None:
        m = panel.frequency.season
        longer = {24: (168,), 7: (364,)}.get(m, ())
        longest = int(panel.lengths.max())
        return (m, *(s for s in longer if longest > s))
    seasons = (given,) if isinstance(given, int | np.integer) else tuple(given)
    if not seasons or any(int(s) != s or s < 1 for s in seasons):
        raise ParameterError(f"season_length must be whole numbers of at least 1, not {given!r}")
    return tuple(int(s) for s in seasons)


def _mean_absolute(panel: Panel) -> NDArray[np.float64]:
    """Mean absolute value of each series (N,), NaN without an observation."""
    result = np.full(len(panel), np.nan)
    length = max(1, int(panel.lengths.max()))
    block = max(1, 2_000_000 // length)
    for begin in range(0, len(panel), block):
        rows = np.arange(begin, min(begin + block, len(panel)))
        y = np.abs(panel.windows(rows, panel.lengths[rows], length).astype(np.float64))
        count = np.isfinite(y).sum(axis=1)
        total = np.nansum(y, axis=1)
        result[rows] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return result


def _subclasses(kind: type[Feature]) -> Iterator[type[Feature]]:
    child: type[Feature]
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)
