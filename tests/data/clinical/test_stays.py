from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretell.data.clinical import (
    concatenate,
    held_out_patients,
    open_stays,
    patient_hash,
    septic_at_start,
    split_by_patient,
    target,
    write_stays,
)
from foretell.errors import DataError, ParameterError

from .conftest import make_stays


@pytest.fixture
def stays():
    return make_stays(3)


def test_views_see_their_own_rows(stays):
    whole = stays.to_polars()
    view = stays.select([5, 2, 9])
    assert view.to_polars()["id"].unique(maintain_order=True).to_list() == ["A/5", "A/2", "A/9"]
    for i, at in enumerate((5, 2, 9)):
        mine = whole.filter(whole["id"] == f"A/{at}")
        np.testing.assert_array_equal(
            view.select([i]).column("HR"), mine["HR"].fill_null(np.nan).to_numpy()
        )
        assert view.select([i]).hours().tolist() == mine["hour"].to_list()
    assert view.select(slice(1, None)).ids.tolist() == ["A/2", "A/9"]
    assert stays.is_whole and not view.is_whole
    np.testing.assert_array_equal(view.matrix()[:, 0], view.column("HR"))
    assert sum(c.n_rows for c in stays.chunks(50)) == stays.n_rows
    assert np.concatenate([c.ids for c in stays.chunks(50)]).tolist() == stays.ids.tolist()


def test_the_first_hours_are_all_that_is_seen(stays):
    early = stays.first(6)
    assert early.lengths.tolist() == np.minimum(stays.lengths, 6).tolist()
    assert early.n_rows == len(early.column("HR")) == len(early.hours())
    assert stays.first(np.arange(len(stays))).lengths[0] == 0


def test_selection_by_category(stays):
    parts = stays.by("sex")
    assert sum(map(len, parts.values())) == len(stays)
    assert set(stays.of("sex", "male", "female").names("sex")) == {"male", "female"}
    with pytest.raises(ParameterError, match=r"'robot'.*female"):
        stays.of("sex", "robot")
    with pytest.raises(ParameterError, match="no category 'ward'"):
        stays.names("ward")


def test_stored_stays_come_back_from_the_mapped_file(stays, tmp_path):
    folder = write_stays(stays, tmp_path / "stays")
    again = open_stays(folder)
    assert again.fingerprint() == stays.fingerprint()
    assert not again.column("HR").flags.owndata and not again.column("HR").flags.writeable
    assert again.schema.convert("Temp", 98.6, "F") == pytest.approx(37)
    view = write_stays(stays.select([4, 1]).first(3), tmp_path / "view")
    assert open_stays(view).fingerprint() == stays.select([4, 1]).first(3).fingerprint()
    with pytest.raises(DataError, match="exists already"):
        write_stays(stays, folder)
    assert open_stays(write_stays(stays.select([0]), folder, overwrite=True)).n_rows == 1
    assert not list(tmp_path.glob("*.partial"))


def _header(change):
    def apply(folder):
        path = folder / "stays.json"
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))

    return apply


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "channel_3.arrow").unlink(), "file is missing"),
        (lambda f: (f / "channel_3.arrow").write_bytes(b"x"), "1 bytes where"),
        (lambda f: (f / "stays.json").write_text("{"), "damaged"),
        (_header(lambda h: h.update(version=99)), "Update foretell"),
        (_header(lambda h: h.update(format="other")), "format"),
        (_header(lambda h: h.update(rows=h["rows"] + 1)), "add up"),
        (_header(lambda h: h["schema"].pop()), "."),
        (_header(lambda h: h["schema"][0].update(unit=7, units={"a": 3})), "damaged"),
        (_header(lambda h: h["categories"].update(sex=[])), "has no name"),
        (_header(lambda h: h.pop("numbers")), "damaged"),
    ],
)
def test_damaged_folders_are_refused(stays, tmp_path, harm, message):
    folder = write_stays(stays, tmp_path / "stays")
    harm(folder)
    if message == ".":  # one channel fewer is another, smaller table: still readable
        assert len(open_stays(folder).channels) == 33
        return
    with pytest.raises(DataError, match=message):
        open_stays(folder)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**9))
def test_flipped_bytes_are_refused_or_read_but_never_crash(stored, seed):
    folder, copy = stored
    rng = np.random.default_rng(seed)
    file = sorted(folder.iterdir())[rng.integers(0, len(list(folder.iterdir())))]
    raw = bytearray(file.read_bytes())
    for at in rng.integers(0, len(raw), 4):
        raw[at] = rng.integers(0, 256)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    (copy / file.name).write_bytes(bytes(raw))
    try:
        found = open_stays(copy)
    except DataError:
        return
    assert found.ids.shape == found.lengths.shape and found.stays_to_polars().height == len(found)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    return write_stays(make_stays(1, 6, longest=9), folder / "stays"), folder / "copy"


def test_fingerprints_see_every_change(stays):
    base = stays.fingerprint()
    changed = stays.channels["HR"].copy()
    changed[5] = 71.5
    seen = {base, stays.select(slice(0, 11)).fingerprint(), stays.first(5).fingerprint()}
    other = make_stays(3)
    object.__setattr__(other, "channels", {**stays.channels, "HR": changed})
    assert len({*seen, other.fingerprint()}) == 4
    assert make_stays(3).fingerprint() == base
    halves = concatenate([stays.select(slice(0, 5)), stays.select(slice(5, None))])
    assert halves.fingerprint() == base


def test_splits_follow_the_patient_and_nothing_else():
    names = np.array(["A/1", "A/2", "B/1"], object)
    # Pinned: a split must be the same in every version.
    np.testing.assert_allclose(
        patient_hash(names, 0), [0.31132964, 0.82647860, 0.21289866], atol=1e-8
    )
    stays = make_stays(0, 400, longest=3)
    split = split_by_patient(stays, test_size=0.3, validation_size=0.2, seed=1)
    parts = [set(s.patients.tolist()) for s in split]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert sum(map(len, split)) == 400
    reordered = split_by_patient(
        stays.select(np.arange(400)[::-1]), test_size=0.3, validation_size=0.1, seed=1
    )
    assert set(reordered.test.ids) == set(split.test.ids)
    assert set(reordered.validation.ids) < set(split.validation.ids)
    assert set(split_by_patient(stays, seed=2).test.ids) != set(split_by_patient(stays).test.ids)
    with pytest.raises(ParameterError, match="leave something"):
        split_by_patient(stays, test_size=0.5, validation_size=0.5)


@pytest.mark.parametrize("seed", [0, 1])
def test_patients_are_held_out_of_a_part_of_a_split_too(seed):
    train = split_by_patient(make_stays(0, 600, longest=3), seed=seed).train
    kept, held = held_out_patients(train, 0.2)
    assert len(kept) + len(held) == len(train) and 40 < len(held) < 110
    assert not set(kept.patients) & set(held.patients)


@pytest.mark.real_data
def test_the_four_sites_are_those_that_were_published(challenge):
    published = {
        "A-MICU": (5344, 576, 202877, 2304, 0.023),
        "A-SICU": (5470, 222, 198340, 888, 0.044),
        "B-MICU": (6923, 390, 260676, 1544, 0.007),
        "B-SICU": (6982, 428, 272684, 1696, 0.040),
        "A-unknown": (9522, 992, 382602, 3968, 0.034),
        "B-unknown": (6095, 324, 224666, 1292, 0.005),
    }
    sites = challenge.by("site")
    assert set(sites) == set(published)
    for name, stays in sites.items():
        wanted = target(stays, 4)
        found = (
            len(stays),
            int(np.isfinite(stays.onset).sum()),
            int(wanted.at_risk.sum()),
            int(wanted.label.sum()),
        )
        assert found == published[name][:4]
        lactate = ~np.isnan(stays.column("Lactate")[wanted.at_risk])
        assert lactate.mean() == pytest.approx(published[name][4], abs=0.0011)


@pytest.mark.real_data
def test_stays_that_are_septic_from_the_start(challenge):
    counts = {h: int(septic_at_start(s).sum()) for h, s in challenge.by("hospital").items()}
    assert counts == {"A": 203, "B": 223}


@pytest.mark.real_data
def test_hashed_shares_of_the_challenge(challenge):
    sizes = [len(s) for s in split_by_patient(challenge)]
    assert sizes == [24_075, 8_257, 8_004], "the split of this seed must never change"


@pytest.mark.parametrize(
    "sizes", [{"test_size": float("nan")}, {"validation_size": float("nan")}, {"test_size": -0.1}]
)
def test_sizes_of_parts_that_are_no_shares_are_refused(stays, sizes):
    with pytest.raises(ParameterError, match="must not be negative"):
        split_by_patient(stays, **sizes)
