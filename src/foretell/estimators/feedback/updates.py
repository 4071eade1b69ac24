"""What is done with rows as they come, apart from the pass over them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from foretell.data.events import Emission, EventLog, Protocol
from foretell.errors import NotMatureError, ParameterError
from foretell.estimators.feedback.method import get_method
from foretell.estimators.feedback.model import FeedbackModel
from foretell.training.weighting import FeedbackWeighting

CATCH_UP = 128
"""Rows of a step when the time before the first update is caught up with."""


class FeedbackUpdates(FeedbackModel):
    """Checks rows, renews auxiliary nets and watches the weights."""

    def emission(self) -> dict[str, Any]:
        """Arguments of ``log.emit`` that give the rows it is trained on: ``log.emit(**these)``."""
        kinds = self._kinds() if self.protocol == "funnel" else ()
        waiting = self.waiting_time_ if hasattr(self, "waiting_time_") else self.waiting_time
        ages = self.method_.ages if hasattr(self, "method_") else ()
        return {
            "protocol": Protocol("ages", self.waiting_time_, ages=ages) if ages else self.protocol,
            "waiting_time": 0.0 if waiting == "auto" else waiting,
            "engagement": kinds,
            "strict": self.strict,
        }

    def _check_rows(self, rows: Emission) -> None:
        waiting = self.waiting_time_ if hasattr(self, "waiting_time_") else 0.0
        kinds = self._kinds() if self.protocol == "funnel" else ()
        mine = Protocol(self.protocol, 0.0, kinds, self.strict)
        if mine.shape != rows.protocol.shape:
            raise ParameterError(
                f"method {self.method_name!r} takes the rows of protocol {self.protocol!r}, "
                f"not of {rows.protocol.name!r}: log.emit(**clf.emission(), ...)"
            )
        ages = self.method_.ages if hasattr(self, "method_") else ()
        if ages and tuple(ages) != tuple(rows.protocol.ages):
            raise ParameterError(
                f"the rows were emitted at the ages {list(rows.protocol.ages)}, the model expects "
                f"{list(ages)}: log.emit(**clf.emission(), ...)"
            )
        waits = mine.shape in ("rises", "copies", "once", "funnel") and hasattr(self, "method_")
        if waits and self.auxiliaries_ and not np.isclose(rows.protocol.waiting_time, waiting):
            raise ParameterError(
                f"the rows were emitted after a waiting time of {rows.protocol.waiting_time:g}, "
                f"the auxiliary nets learned {waiting:g}: log.emit(**clf.emission(), ...)"
            )

    def _start_from_rows(self, rows: Emission, log: EventLog) -> None:
        """A model without history, for methods that need none."""
        waiting = rows.protocol.waiting_time
        setting = self._setting(waiting, log.window)
        if get_method(self.method_name)(setting).auxiliaries():
            view = rows.log
            error = self._not_mature(view, int(view.matured.sum()))
            raise NotMatureError(f"call fit_history first: {error.problem}", error.earliest)
        self.classes_ = np.array([0, 1])
        self._start(setting, log.matrix(), categorical_columns(log), log.feature_names)
        self._refreshed = log.now

    def _catch_up(self, log: EventLog, view: EventLog) -> None:
        """Rows of entities that are not in the history, in steps of few rows."""
        # The oracle alone is told final labels: its rows need the whole log.
        source = log if self.protocol == "oracle" else view
        rows = source.emit(**self.emission(), until=view.now)
        rows = self.method_.select(rows.select(~view.matured[rows.entity]))
        if len(rows):
            size = min(self.batch_size, CATCH_UP)
            self._train(self._batch(rows), self._update_strategies, size)
            self._watch()

    def _refresh(self, log: EventLog) -> None:
        """Auxiliary nets learn from what has matured since the last update."""
        self._relearn(log)
        since, self._refreshed = self._refreshed, log.now
        if self.setting_.mode != "refresh" or not self.auxiliaries_:
            return
        recent = np.flatnonzero(log.matured & (log.deadlines > since))
        if not len(recent):
            return
        matured = log.select(recent)
        inputs = self.transform_(matured.matrix())
        for auxiliary in self.auxiliaries_:
            if not auxiliary.what.delays:
                auxiliary.refresh(matured, inputs)

    def _relearn(self, log: EventLog) -> None:
        """Nets that had too few examples learn anew when a fifth more entities have matured."""
        scarce = [auxiliary for auxiliary in self.auxiliaries_ if auxiliary.scarce]
        if not scarce:
            return
        matured = np.flatnonzero(log.matured)
        if len(matured) < 1.2 * self._matured + 1:
            return
        self._matured = len(matured)
        view = log.select(matured)
        inputs = self.transform_(view.matrix())
        for auxiliary in scarce:
            auxiliary.learn(view, inputs)

    def _watch(self) -> None:
        """Effective sample size of the last update, and the alarm."""
        shares = []
        for strategy in self._update_strategies:
            if isinstance(strategy, FeedbackWeighting):
                shares.append(strategy.effective_share)
                rows = strategy.rows
                strategy.reset()
        if not shares:
            return
        self.effective_share_ = min(shares)
        if self.effective_share_ < 0.1 and rows >= 20 and not self._alarmed:
            self._alarmed = True
            warnings.warn(
                f"the weights of the last {rows} rows are worth only "
                f"{self.effective_share_ * rows:.1f} rows of equal weight: nearly every label is "
                "expected to change. Lengthen waiting_time",
                UserWarning,
                stacklevel=3,
            )

    def _not_mature(self, view: EventLog, matured: int) -> NotMatureError:
        converted = np.isfinite(view.delay())
        ends = view.deadlines[converted] if converted.any() else view.deadlines
        return NotMatureError(
            f"method {self.method_name!r} learns from conversions whose window is over, and there "
            f"is none yet ({matured} entities have matured); 'fnw' and 'wait' need none",
            float(ends.min()),
        )


def categorical_columns(log: EventLog) -> tuple[int, ...]:
    """Numbers of the features that are categories."""
    names = set(log.categorical_features)
    return tuple(i for i, name in enumerate(log.feature_names) if name in names)
