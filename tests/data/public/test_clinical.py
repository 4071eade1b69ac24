from __future__ import annotations

import numpy as np
import polars as pl
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


@pytest.mark.parametrize("form", ["parquet", "psv"])
def test_the_first_stays_of_the_challenge_are_those_of_all(tmp_path, form):
    rng = np.random.default_rng(0)
    for hospital in ("A", "B"):
        names = [f"p{hospital}{n:03d}" for n in (range(4) if form == "psv" else (2, 0, 3, 1))]
        frames = [
            pl.DataFrame({
                "patient_id": [name] * 5, "HR": rng.normal(80, 9, 5), "Age": [60.0] * 5,
                "Gender": [1] * 5, "Unit1": [1] * 5, "Unit2": [0] * 5, "HospAdmTime": [-2.0] * 5,
                "ICULOS": range(1, 6), "SepsisLabel": [0] * 5,
            })
            for name in names
        ]  # fmt: skip
        if form == "parquet":
            pl.concat(frames).write_parquet(tmp_path / f"training_set{hospital}.parquet")
            continue
        (tmp_path / f"training_set{hospital}").mkdir()
        for name, frame in zip(names, frames, strict=True):
            file = tmp_path / f"training_set{hospital}" / f"{name}.psv"
            frame.drop("patient_id").write_csv(file, separator="|")
    whole = physionet2019(tmp_path)
    assert len(whole) == 8
    for count in (1, 4, 6, 99):
        first = physionet2019(tmp_path, stays=count)
        assert first.fingerprint() == whole.select(slice(count)).fingerprint(), count
    with pytest.raises(ParameterError, match="at least 1"):
        physionet2019(tmp_path, stays=0)


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
