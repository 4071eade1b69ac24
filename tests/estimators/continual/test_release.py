from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import DataError, ParameterError
from foretell.estimators.continual import (
    GaussianRelease,
    PrivateRelease,
    PrototypeRelease,
    RandomProjection,
)

RNG = np.random.default_rng(0)
H = np.maximum(RNG.normal(size=(600, 8)) * np.arange(1, 9), 0).astype(np.float32)
LABEL = (RNG.random(600) < 0.3).astype(np.int8)
PATIENTS = RNG.integers(0, 200, 600)


def released(release, patients=PATIENTS):
    return release.release(H, LABEL, patients, np.random.default_rng(1))


def test_noise_is_in_units_of_each_unit():
    out = released(GaussianRelease(2.0))
    ratio = (out.h - H).std(axis=0) / H.std(axis=0)
    assert np.all(np.abs(ratio - 2) < 0.25)
    np.testing.assert_array_equal(released(GaussianRelease(0.0)).h, H)
    short = released(GaussianRelease(0.0, clip=1.5)).h
    assert np.linalg.norm(short, axis=1).max() <= 1.5 + 1e-5


def test_private_release_bounds_every_patient_and_says_what_it_costs():
    pytest.importorskip("dp_accounting")
    out = released(PrivateRelease(epsilon=4.0, delta=1e-4, clip=3.0))
    assert len(out.h) == len(np.unique(PATIENTS))
    assert len(np.unique(PATIENTS[out.exemplar])) == len(out.h)
    assert 3.9 < out.told["epsilon_spent"] <= 4.0 + 1e-9
    # The Gaussian mechanism on the difference of two patients, 2 C apart at most.
    assert out.told["noise"] == pytest.approx(out.told["noise_multiplier"] * 6.0, rel=1e-6)
    twice = released(PrivateRelease(epsilon=4.0, delta=1e-4, clip=3.0, rows_per_patient=2))
    assert twice.told["noise"] == pytest.approx(out.told["noise"] * np.sqrt(2), rel=1e-6)
    with pytest.raises(DataError, match="patients="):
        released(PrivateRelease(), None)


def test_prototypes_have_enough_patients_each_and_keep_classes_apart():
    out = released(PrototypeRelease(components=10, min_patients=15))
    assert min(out.told["patients_of_components"]) >= 15
    assert (out.exemplar == -1).all() and (out.h >= 0).all()
    assert abs(out.label.mean() - LABEL.mean()) < 0.07
    with pytest.raises(DataError, match="a prototype needs"):
        released(PrototypeRelease(min_patients=300))


def test_projection_keeps_a_subspace_only():
    out = released(RandomProjection(3)).h
    assert np.linalg.matrix_rank(out - out.mean(axis=0), tol=1e-2) == 3
    with pytest.raises(ParameterError, match="1 to 7"):
        released(RandomProjection(8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianRelease(-1.0),
        lambda: PrivateRelease(epsilon=0.0),
        lambda: PrivateRelease(rows_per_patient=0),
        lambda: PrototypeRelease(shrinkage=2.0),
    ],
    ids=["sigma", "epsilon", "rows", "shrinkage"],
)
def test_bad_settings(make):
    with pytest.raises(ParameterError):
        make()
