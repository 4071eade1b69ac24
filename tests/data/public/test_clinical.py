from __future__ import annotations

import numpy as np
import pytest

from foretell.data import registry
from foretell.data.public import physionet2012, physionet2019
from foretell.errors import DataError, ParameterError


def test_loaders_say_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"hospital A is not here.*training_setA\.parquet"):
        physionet2019(tmp_path)
    with pytest.raises(ParameterError, match="'C'"):
        physionet2019(tmp_path, hospitals=("C",))
    with pytest.raises(ParameterError, match="'d'"):
        physionet2012(tmp_path, sets=("d",))


def test_stays_are_a_form_of_their_own():
    assert registry.find("physionet2019").form == registry.find("physionet2012").form == "stays"
    with pytest.raises(ParameterError, match="read as hourly stays, not as a panel"):
        registry.load("physionet2019", form="panel")


@pytest.mark.real_data
def test_the_challenge_of_2012(data_set):
    stays = physionet2012(data_set("physionet2012_icu"), sets=("b",))
    assert len(stays) == 4000 and set(stays.lengths) == {48}
    assert stays.number("died").sum() == 568
    units = {name: len(part) for name, part in stays.by("unit").items()}
    assert units == {"CCU": 590, "CSRU": 782, "MICU": 1436, "SICU": 1192}
    assert {"male", "female"} <= set(stays.names("sex"))
    gcs = stays.column("GCS")
    assert np.nanmin(gcs) == 3 and np.nanmax(gcs) == 15
    assert not np.isfinite(stays.onset).any() and stays.label is None
    measured = {n: np.mean(~np.isnan(stays.column(n))) for n in ("HR", "SBP", "Resp", "Urine")}
    assert measured["HR"] > 0.85 and measured["SBP"] > 0.85, "cuff and line are one channel"
    assert 0.1 < measured["Resp"] < 0.4 < measured["Urine"]
