"""The event add-on: what happens around named days, wherever they fall in the calendar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.data.calendar import easter_sunday
from foretell.data.frequency import Frequency
from foretell.data.panel import Panel
from foretell.errors import ParameterError
from foretell.learners.demand.legacy.history import History


class EventAddon(BaseEstimator):
    """Multiplicative profile of every event on the periods around it.

    For group g, event e and offset o in ``-window..window`` the effect is the weighted mean of
    ``y / baseline`` over series and occurrences, shrunk in logarithms to the parent (all series;
    theirs to no effect). The baseline is the mean of the nearest ``side`` periods on both sides
    that no event touches. Occurrences are found by date, so a holiday that moves between weeks
    keeps its profile.

    Args:
        window: periods before and after the event that it may touch.
        lam: (series x occurrences) for which the parent counts.
        side: undisturbed periods on each side that make up the baseline.
        easter: add western Easter Sunday, and its effect, as an event of its own.
        dates: further events, name -> ISO dates, past and future.
    """

    def __init__(
        self,
        window: int = 1,
        *,
        lam: float = 20.0,
        side: int = 3,
        easter: bool = False,
        dates: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.window = window
        self.lam = lam
        self.side = side
        self.easter = easter
        self.dates = dates

    def fit(
        self, panel: Panel, history: History, groups: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Self:
        """Learns the profiles.

        Args:
            panel: holds the indicators of its ``events`` among the known covariates.
            history: past of N series.
            groups: (N,) group codes, 0 unknown.
            rows: (N,) position of each of them in the panel.
        """
        if self.window < 0 or self.side < 1 or self.lam < 0:
            raise ParameterError("the event add-on needs window >= 0, side >= 1 and lam >= 0")
        self.names_ = self._names(panel)
        self.groups_ = int(groups.max(initial=0)) + 1
        offsets = 2 * self.window + 1
        self.log_profile_ = np.zeros((self.groups_, len(self.names_), offsets))
        width = history.values.shape[1]
        if not self.names_ or width < 2 * self.side:
            return self
        stops = history.lengths
        marks = {n: self._indicator(panel, n, rows, stops, width, 0) for n in self.names_}
        touched = np.zeros(history.values.shape, bool)
        for mark in marks.values():
            touched |= _near(mark, self.window)
        baseline = _baseline(np.where(touched, np.nan, history.values), self.side)
        use_all = np.isfinite(history.values) & np.isfinite(baseline) & (baseline > 0)
        for e, name in enumerate(self.names_):
            for o in range(-self.window, self.window + 1):
                at = _shift(marks[name], o) & use_all
                row = np.nonzero(at)[0]
                if not len(row):
                    continue
                root = np.sqrt(baseline[at])
                share = np.maximum(history.values[at], 0) / root
                ratio = max(share.sum() / root.sum(), 1e-3)
                # The shrinkage of all series together: as few as one group's would be.
                parent = len(row) * np.log(ratio) / (len(row) + self.lam)
                code = groups[row]
                top = np.bincount(code, share, self.groups_)
                bottom = np.bincount(code, root, self.groups_)
                number = np.bincount(code, minlength=self.groups_)
                own = np.log(np.maximum(top / np.maximum(bottom, 1e-12), 1e-3))
                own = np.where(number > 0, own, 0.0)
                shrunk = (number * own + self.lam * parent) / np.maximum(number + self.lam, 1e-9)
                shrunk[0] = parent
                self.log_profile_[:, e, o + self.window] = np.where(number > 0, shrunk, parent)
        return self

    def factor(
        self,
        panel: Panel,
        rows: NDArray[np.int64],
        stops: NDArray[np.int64],
        length: int,
        groups: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Multiplicative effect (B, length) on the steps before ``stops`` of series ``rows``."""
        result = np.zeros((len(rows), length))
        groups = np.where((groups >= 0) & (groups < self.groups_), groups, 0)
        for e, name in enumerate(self.names_):
            if not self.log_profile_[:, e].any():
                continue
            wide = self._indicator(panel, name, rows, stops, length, self.window)
            for o in range(-self.window, self.window + 1):
                start = self.window - o
                at = wide[:, start : start + length]
                result += at * self.log_profile_[groups, e, o + self.window][:, None]
        return np.exp(result)

    def profile(self, name: str, group: int = 0) -> NDArray[np.float64]:
        """Multiplicative effect (2 window + 1,) of one event; group 0 is the parent's."""
        return np.exp(self.log_profile_[group, self.names_.index(name)])

    def _names(self, panel: Panel) -> list[str]:
        dated = panel.frequency.kind != "integer"
        names = [*panel.events]
        if dated:
            names += ["easter"] if self.easter and "easter" not in names else []
            names += [n for n in (self.dates or {}) if n not in names]
        return names

    def _indicator(
        self,
        panel: Panel,
        name: str,
        rows: NDArray[np.int64],
        stops: NDArray[np.int64],
        length: int,
        margin: int,
    ) -> NDArray[np.bool_]:
        """Whether the event lies in each step (B, length + 2 margin), margins on both sides."""
        size = length + 2 * margin
        if name in panel.known and name in panel.events:
            return panel.known_windows(name, rows, stops + margin, size) > 0.5
        periods = panel.period_windows(rows, stops + margin, size)
        if name == "easter" and self.easter:
            first = panel.frequency.time(periods.min(keepdims=True).ravel())[0]
            last = panel.frequency.time(periods.max(keepdims=True).ravel())[0]
            years = range(_year(first) - 1, _year(last) + 2)
            days = np.array([easter_sunday(y) for y in years], "datetime64[D]")
        else:
            days = np.array((self.dates or {}).get(name, ()), "datetime64[D]")
        return np.isin(periods, event_periods(panel.frequency, days))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """What was learned, as JSON values and arrays."""
        return {"names": self.names_, "groups": self.groups_}, {"profile": self.log_profile_}

    def restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> Self:
        """The inverse of :meth:`state`."""
        self.names_, self.groups_ = list(state["names"]), int(state["groups"])
        self.log_profile_ = arrays["profile"]
        return self


def event_periods(frequency: Frequency, days: NDArray) -> NDArray[np.int64]:
    """The periods in which days fall.

    Weekly dates that end their week (Friday to Sunday) name the seven days up to them; those
    that begin it name the seven days from them.
    """
    if not len(days):
        return np.zeros(0, np.int64)
    days = days.astype("datetime64[us]")
    if frequency.alias.startswith("W-") and frequency.alias[2:] in ("FRI", "SAT", "SUN"):
        days = days + np.timedelta64(6, "D")
    return frequency.index(days)


def _year(moment: Any) -> int:
    return int(np.datetime64(moment, "Y").astype(np.int64)) + 1970


def _shift(mark: NDArray[np.bool_], offset: int) -> NDArray[np.bool_]:
    """Marks moved to ``offset`` periods after the event."""
    result = np.zeros_like(mark)
    if offset == 0:
        return mark
    if offset > 0:
        result[:, offset:] = mark[:, :-offset]
    else:
        result[:, :offset] = mark[:, -offset:]
    return result


def _near(mark: NDArray[np.bool_], window: int) -> NDArray[np.bool_]:
    result = mark.copy()
    for o in range(1, window + 1):
        result |= _shift(mark, o) | _shift(mark, -o)
    return result


def _baseline(quiet: NDArray, side: int) -> NDArray[np.float64]:
    """Mean of the last ``side`` quiet values before and the first ``side`` after each step."""
    before = _running_tail(quiet, side)
    after = _running_tail(quiet[:, ::-1], side)[:, ::-1]
    return np.where(np.isfinite(before) & np.isfinite(after), (before + after) / 2, np.nan)


def _running_tail(quiet: NDArray, side: int) -> NDArray[np.float64]:
    """Mean of the last ``side`` finite values strictly before each step; NaN with fewer."""
    n, width = quiet.shape
    seen = np.isfinite(quiet)
    number = np.pad(np.cumsum(seen, axis=1), ((0, 0), (1, 0)))
    total = np.pad(np.cumsum(np.where(seen, quiet, 0.0), axis=1), ((0, 0), (1, 0)))
    # Sum after the j-th finite value, looked up by how many were seen before each step.
    table = np.zeros((n, width + 1))
    row, column = np.nonzero(seen)
    table[row, number[row, column + 1]] = total[row, column + 1]
    here = number[:, :-1]
    rows = np.arange(n)[:, None]
    mean = (table[rows, here] - table[rows, np.maximum(here - side, 0)]) / side
    return np.where(here >= side, mean, np.nan)
