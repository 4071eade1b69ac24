"""Every site's figures after training on each: what a sequence of hospitals learns and forgets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.data.clinical.labels import target
from foretell.data.clinical.splits import StaySplit, split_by_patient
from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, ParameterError
from foretell.learners.risk.ranking import auroc
from foretell.training.continual.sequence import ContinualMatrix

_AT_SENSITIVITY = re.compile(r"(ppv|specificity)@sens=(0?\.\d+|1(?:\.0*)?)")


class SiteLearner(Protocol):
    """What learns one site after the other, such as :class:`WUPERR`."""

    horizon: float

    def fit_site(self, X: Stays, *, site: str, validation: Stays) -> Any:
        """Trains on one more site."""
        ...

    def decision_function(self, X: Stays, *, site: str) -> NDArray[np.float64]:
        """(R,) scores of all hours."""
        ...


@dataclass(frozen=True, eq=False)
class SiteMatrix:
    """Figures of every site's test patients after training on each site.

    Attributes:
        sites: names in the order of training.
        metrics: name -> matrix; row i, column j is site j after training on site i.
    """

    sites: tuple[str, ...]
    metrics: Mapping[str, ContinualMatrix]

    def __getitem__(self, metric: str) -> NDArray[np.float64]:
        """(n, n) of one metric.

        Raises:
            ParameterError: it was not asked for.
        """
        return self._of(metric).scores

    def final_mean(self, metric: str | None = None) -> float:
        """Mean over the sites after the last; of the first metric by default, as all here."""
        return self._of(metric).final_mean()

    def forgetting(self, metric: str | None = None) -> float:
        """Mean over all sites but the last of the best figure ever minus the last one."""
        return self._of(metric).forgetting()

    def bwt(self, metric: str | None = None) -> float:
        """Backward transfer: the last figure minus that right after the site's training."""
        return self._of(metric).backward_transfer()

    def fwt(self, metric: str | None = None) -> float:
        """Forward transfer: the figure just before the site's training minus the chance level.

        The chance level is 0.5 for ``auroc``, the rate of positive hours for PPV, and 1 minus the
        sensitivity for specificity.
        """
        return self._of(metric).forward_transfer()

    def to_polars(self) -> pl.DataFrame:
        """``metric``, ``trained_on``, then one column a site."""
        return pl.concat(
            m.to_polars().insert_column(0, pl.Series("metric", [name] * len(self.sites)))
            for name, m in self.metrics.items()
        )

    def _of(self, metric: str | None) -> ContinualMatrix:
        if metric is None:
            return next(iter(self.metrics.values()))
        if metric not in self.metrics:
            raise ParameterError(f"{metric!r} was not measured; there is {', '.join(self.metrics)}")
        return self.metrics[metric]


def continual_matrix(
    make: Callable[[], SiteLearner],
    sites: Mapping[str, Stays | StaySplit],
    order: Sequence[str] | None = None,
    *,
    metrics: Sequence[str] = ("auroc", "ppv@sens=0.8"),
    seed: int = 0,
) -> SiteMatrix:
    """Trains through sites in an order and measures all of them after each.

    Hours count until the onset; at a site that comes later in the order the intercept is that of
    the site that was just trained, which none of the metrics depends on.

    Args:
        make: an untrained model.
        sites: stays of each, split by patient 60/20/20 where they are not split yet.
        order: names; that of ``sites`` by default.
        metrics: ``"auroc"``, and ``"ppv@sens=S"`` or ``"specificity@sens=S"`` at the threshold that
            finds the share S of the positive hours.
        seed: of the split.

    Raises:
        ParameterError: an unknown site or metric, or a site named twice.
        DataError: the test patients of a site have one class only.
    """
    names = tuple(sites if order is None else order)
    if not names or len(set(names)) != len(names) or not set(names) <= set(sites):
        raise ParameterError(f"the order must name sites once each of {', '.join(sites)}")
    wanted = [_metric(name) for name in metrics]
    if not wanted:
        raise ParameterError("name a metric")
    parts = {}
    for name in names:
        given = sites[name]
        parts[name] = given if isinstance(given, StaySplit) else split_by_patient(given, seed=seed)
    model = make()
    labels = {}
    for name in names:
        found = target(parts[name].test, model.horizon)
        label = found.label[found.at_risk]
        if not 0 < int(label.sum()) < len(label):
            raise DataError(f"the test patients of {name!r} have one class only")
        labels[name] = (found.at_risk, label)
    scores = np.empty((len(metrics), len(names), len(names)))
    chance = np.array([[m(None, labels[n][1]) for n in names] for m in wanted])
    for i, here in enumerate(names):
        model.fit_site(parts[here].train, site=here, validation=parts[here].validation)
        for j, there in enumerate(names):
            at_risk, label = labels[there]
            known = there if j <= i else here
            z = model.decision_function(parts[there].test, site=known)[at_risk]
            scores[:, i, j] = [metric(z, label) for metric in wanted]
    return SiteMatrix(
        names,
        {m: ContinualMatrix(names, scores[k], chance[k]) for k, m in enumerate(metrics)},
    )


def _metric(name: str) -> Callable[[NDArray[np.float64] | None, NDArray[np.int8]], float]:
    """A function of scores and labels; of no scores, the value of chance."""
    if name == "auroc":
        return lambda z, y: 0.5 if z is None else auroc(z, y)
    found = _AT_SENSITIVITY.fullmatch(name)
    if found is None or float(found[2]) == 0:
        raise ParameterError(
            f"no metric is called {name!r}: auroc, ppv@sens=0.8 or specificity@sens=0.8"
        )
    kind, share = found[1], float(found[2])

    def measure(z: NDArray[np.float64] | None, y: NDArray[np.int8]) -> float:
        if z is None:
            return float(y.mean()) if kind == "ppv" else 1 - share
        positive = z[y == 1]
        least = np.sort(positive)[len(positive) - max(1, int(np.ceil(share * len(positive))))]
        alarms = z >= least
        if kind == "ppv":
            return float(y[alarms].mean())
        return float(1 - alarms[y == 0].mean())

    return measure
