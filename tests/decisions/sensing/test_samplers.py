"""What holds for every sampler."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foretell.data.simulators.panels import (
    N_CONTEXT,
    context_of,
    exact_gain,
    panel_patients,
    panel_risk,
)
from foretell.decisions.sensing import (
    SAMPLERS,
    EIGSensing,
    Panel,
    SensingPolicy,
    load_sampler,
    make_sampler,
)
from foretell.errors import ArtefactError, DataError, ParameterError
from foretell.learners.artefact import save_artefact

NAMES = sorted(SAMPLERS)
PANELS = [Panel(f"p{j + 1}", (N_CONTEXT + j,), 2.0 if j == 4 else 1.0) for j in range(6)]
QUICK = {"vae": {"max_steps": 500, "threads": 1}, "mixture": {"components": 6, "factors": 1}}


def start(size):
    seen = np.zeros((size, 9), bool)
    seen[:, :N_CONTEXT] = True
    return seen


@pytest.fixture(scope="module")
def made():
    """Each sampler on the same patients, some of whose panels were not measured."""
    train = panel_patients(3000, seed=1)
    seen = np.random.default_rng(0).random((3000, 9)) < 0.8
    values = np.where(seen, train.values, np.nan)
    return {n: make_sampler(n, values, seen, size=32, **QUICK.get(n, {})) for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_gains_are_near_the_exact_ones(made, name):
    patients = panel_patients(300, seed=2)
    sensing = EIGSensing(panel_risk, PANELS, sampler=made[name])
    found = sensing.gains(patients.values, start(300))
    exact = exact_gain(patients.values, start(300), draws=1000)
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.85
    assert found[:, 5].mean() < 0.15 * found[:, :5].mean()
    for subtype in range(1, 5):
        values = np.zeros(9)
        values[:3] = context_of(subtype)
        assert SensingPolicy(sensing).recommend(values, start(1)[0])[0].panel == f"p{subtype}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_draws_the_same(made, name, tmp_path):
    made[name].save(tmp_path)
    held = load_sampler(tmp_path)
    assert type(held) is type(made[name]) and held.size == 32
    X = panel_patients(20, seed=3).values
    for mine, theirs in zip(held.draw(X, start(20), PANELS[1]),
                            made[name].draw(X, start(20), PANELS[1]), strict=True):  # fmt: skip
        np.testing.assert_array_equal(mine, theirs)
    assert sorted(f.suffix for f in tmp_path.iterdir()) == [".json", ".safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_nearest_keep_patients(made, name, tmp_path):
    """No array of the others has a row for each patient, in memory or in the folder."""
    assert made[name].keeps_patients == (name == "knn")
    made[name].save(tmp_path)
    size = (tmp_path / "arrays.safetensors").stat().st_size
    assert (size > 3000 * 9 * 8) == (name == "knn")
    arrays = [v for v in vars(made[name]).values() if isinstance(v, np.ndarray)]
    assert (max(len(a) for a in arrays) == 3000) == (name == "knn")


@pytest.mark.parametrize("name", NAMES)
def test_nobody_known_is_no_error(made, name):
    shown, there = made[name].draw(np.full((2, 9), np.nan), np.zeros((2, 9), bool), PANELS[0])
    assert shown.shape == (2, 32, 1) and np.isfinite(shown[there]).all() and there.any()
    nobody, _ = made[name].draw(np.empty((0, 9)), np.empty((0, 9), bool), PANELS[0])
    assert nobody.shape == (0, 32, 1)


@pytest.mark.parametrize("name", NAMES)
def test_training_patients_of_whom_nothing_is_known_give_numbers(name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 9))
    seen = rng.random((60, 9)) < 0.6
    seen[:30] = False
    quick = {"vae": {"max_steps": 5, "threads": 1}, "mixture": {"components": 2}}.get(name, {})
    held = make_sampler(name, np.where(seen, X, np.nan), seen, size=8, **quick)
    shown, there = held.draw(X[:5], start(5), PANELS[0])
    assert np.isfinite(shown[there]).all()
    seen[:, 5] = False
    held = make_sampler(name, np.where(seen, X, np.nan), seen, size=8, **quick)
    with pytest.raises(DataError, match="no training patient has panel 'p3'"):
        held.draw(X[:5], start(5), PANELS[2])


@pytest.mark.parametrize("name", NAMES)
def test_too_few_patients_and_no_patients_are_said(name):
    none = np.empty((0, 9))
    with pytest.raises(DataError, match="patients"):
        make_sampler(name, none, none.astype(bool))
    with pytest.raises(ParameterError):
        make_sampler(name, np.ones((40, 9)), np.ones((40, 9), bool), size=0)
    if name in ("mixture", "vae"):
        with pytest.raises(DataError, match="3 patients are too few"):
            make_sampler(name, np.ones((3, 9)), np.ones((3, 9), bool))


def test_names_are_checked():
    with pytest.raises(ParameterError, match="knn, gaussian, mixture, vae, not 'GAN'"):
        make_sampler("GAN", np.ones((3, 9)), np.ones((3, 9), bool))
    with pytest.raises(ParameterError, match="not 'GAN'"):
        EIGSensing(panel_risk, PANELS, sampler="GAN")


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_folder_is_refused(made, name, tmp_path):
    made[name].save(tmp_path)
    file = tmp_path / "arrays.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError):
        load_sampler(tmp_path)
    save_artefact(tmp_path, "Sampler", {}, {})
    with pytest.raises(ArtefactError, match="no sampler"):
        load_sampler(tmp_path)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "knn"])
def test_arrays_of_another_size_are_refused(made, name, tmp_path):
    from foretell.learners.artefact import load_artefact

    made[name].save(tmp_path)
    kind = type(made[name]).__name__
    config, arrays = load_artefact(tmp_path, kind)
    for key in sorted(arrays):
        for wrong in (arrays[key][..., :-1] if arrays[key].ndim else arrays[key],
                      np.full_like(arrays[key], np.nan)):  # fmt: skip
            if key == "loads" and wrong.ndim and np.isfinite(wrong).all():
                continue  # fewer factors are another mixture
            save_artefact(tmp_path, kind, config, arrays | {key: wrong})
            with pytest.raises(ArtefactError, match="not a readable"):
                load_sampler(tmp_path)
    document = json.loads((tmp_path / "model.json").read_text())
    document["config"]["size"] = 0
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(ArtefactError):
        load_sampler(tmp_path)
