"""Small forecasters that the tests of the evaluation share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from foretell.data.panel import Panel
from foretell.learners.demand.forecaster import Forecaster


class EmpiricalQuantiles(Forecaster):
    """Quantiles of each series' own history, plus what the fit saw (its mean)."""

    def __init__(self, h=4, quantiles=(0.1, 0.5, 0.9), shrink=0.0):
        super().__init__(h, quantiles)
        self.shrink = shrink

    def _fit(self, panel):
        self.mean_ = float(np.nanmean(np.concatenate(list(panel))))
        self.seen_ = int(panel.lengths.sum())

    def _predict(self, panel):
        own = np.stack([np.nanquantile(s, self.quantiles) for s in panel])
        values = (1 - self.shrink) * own + self.shrink * self.mean_
        return self._forecast(panel, np.repeat(values[:, None], self.h, axis=1))

    def _state(self):
        return {"mean": self.mean_}, {}

    def _restore(self, state, arrays):
        self.mean_ = state["mean"]


class PeeksInPredict(EmpiricalQuantiles):
    """Scales by the flat array, which reaches beyond the cut."""

    def _predict(self, panel):
        result = super()._predict(panel)
        i = len(panel) // 2
        beyond = panel.begins[i] + panel.lengths[i]
        if beyond < len(panel.target):
            result.values[i] += np.nan_to_num(panel.target[beyond])
        return result


class PeeksInFit(EmpiricalQuantiles):
    """Takes its mean over the whole flat array."""

    def __init__(self, h=4, quantiles=(0.1, 0.5, 0.9), shrink=0.5):
        super().__init__(h, quantiles, shrink)

    def _fit(self, panel):
        self.mean_ = float(np.nanmean(panel.target))


class PeeksAcrossOrigins(EmpiricalQuantiles):
    """Right at one origin, but with several uses the last one's level for all."""

    def _predict_origins(self, panel, back):
        result = super()._predict_origins(panel, back)
        if len(back) > 1:
            last = super()._predict(panel.cut(min(back)))
            result.values[: len(panel)] += 0.001 * last.values
        return result


class LastValue(EmpiricalQuantiles):
    """The last observed value at every level."""

    def _predict(self, panel):
        last = np.array([s[~np.isnan(s)][-1] for s in panel])
        shape = (len(last), self.h, len(self.quantiles))
        return self._forecast(panel, np.broadcast_to(last[:, None, None], shape))


def random_panel(sizes=(40, 40, 30), seed=0, **columns) -> Panel:
    rng = np.random.default_rng(seed)
    return Panel.from_arrays([rng.gamma(3, 2, n) for n in sizes], **columns)


@pytest.fixture
def kit() -> SimpleNamespace:
    return SimpleNamespace(
        EmpiricalQuantiles=EmpiricalQuantiles,
        LastValue=LastValue,
        PeeksInPredict=PeeksInPredict,
        PeeksInFit=PeeksInFit,
        PeeksAcrossOrigins=PeeksAcrossOrigins,
        random_panel=random_panel,
    )
