from __future__ import annotations

import numpy as np
import pytest

from foretell.data.clinical import target
from foretell.errors import DataError, ParameterError
from foretell.estimators.continual import continual_matrix
from foretell.learners.risk.ranking import auroc


class Memory:
    """Ranks hours by the heart rate at sites it was trained on last, and against it elsewhere."""

    horizon = 4.0

    def __init__(self) -> None:
        self.seen: list[str] = []

    def fit_site(self, stays, *, site, validation):
        assert not set(stays.patients) & set(validation.patients)
        self.seen.append(site)
        return self

    def decision_function(self, stays, *, site):
        assert site in self.seen
        hr = np.nan_to_num(stays.matrix()[:, stays.schema.names.index("HR")].astype(float))
        return hr if site == self.seen[-1] else -hr


def test_matrix_of_a_model_that_forgets_all_but_the_last(simulated_sites):
    metrics = ["auroc", "ppv@sens=0.8", "specificity@sens=0.8"]
    order = ["C", "A"]
    found = continual_matrix(Memory, simulated_sites, order, metrics=metrics)
    right = found["auroc"]
    assert found.sites == ("C", "A")
    # Ranking the other way round is 1 minus the area.
    assert right[1, 0] == pytest.approx(1 - right[0, 0])
    assert right[0, 1] == pytest.approx(right[1, 1])
    assert found.forgetting() == pytest.approx(max(2 * right[0, 0] - 1, 0))
    assert found.bwt() == pytest.approx(1 - 2 * right[0, 0])
    assert found.final_mean() == pytest.approx(right[1].mean())
    assert found.fwt() == pytest.approx(right[0, 1] - 0.5)
    told = found.to_polars()
    assert told.columns == ["metric", "trained_on", "C", "A"] and len(told) == 6


def test_figures_at_a_sensitivity_by_hand(simulated_sites):
    stays = simulated_sites["B"]
    found = continual_matrix(Memory, {"B": stays}, metrics=["ppv@sens=1", "specificity@sens=1"])
    from foretell.data.clinical import split_by_patient

    test = split_by_patient(stays).test
    wanted = target(test, 4)
    z = Memory().fit_site(
        stays.select(slice(0, 0)), site="B", validation=stays.select(slice(0, 0))
    ).decision_function(test, site="B")[wanted.at_risk]  # fmt: skip
    y = wanted.label[wanted.at_risk]
    alarms = z >= z[y == 1].min()
    assert found["ppv@sens=1"][0, 0] == pytest.approx(y[alarms].mean())
    assert found["specificity@sens=1"][0, 0] == pytest.approx(1 - alarms[y == 0].mean())
    assert np.isfinite(auroc(z, y))


def test_wuperr_is_measured(simulated_sites, trained):
    from foretell.estimators.continual import WUPERR

    settings = {**trained.get_params(deep=False), "release_seed": 0}
    found = continual_matrix(lambda: WUPERR(**settings), simulated_sites, ["A", "B"])
    assert (found["auroc"] > 0.5).all() and np.isfinite(found["ppv@sens=0.8"]).all()


def test_misuse_is_said(simulated_sites):
    with pytest.raises(ParameterError, match="name sites once"):
        continual_matrix(Memory, simulated_sites, ["A", "A"])
    with pytest.raises(ParameterError, match="no metric is called 'f1'"):
        continual_matrix(Memory, simulated_sites, metrics=["f1"])
    with pytest.raises(ParameterError, match="was not measured"):
        continual_matrix(Memory, simulated_sites, ["A"])["f1"]
    stays = simulated_sites["A"]
    with pytest.raises(DataError, match="one class only"):
        continual_matrix(Memory, {"A": stays.select(~np.isfinite(stays.onset))})
