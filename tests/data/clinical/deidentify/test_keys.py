"""Keys, codes and the crosswalk."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.data.clinical.deidentify import Crosswalk, KeyRing, Pseudonyms
from foretell.errors import DataError

RING = KeyRing({"k1": bytes(range(32))}, "k1")


def test_codes_are_hmac_of_site_and_patient():
    """Against RFC 2104 by hand: the first 24 hexadecimal digits."""
    import hashlib

    key = bytes(range(32)).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + b"A|7").digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).hexdigest()
    assert RING.code("patient", "A", "7")[:27] == f"k1-{outer[:24]}"
    assert Pseudonyms(bytes(range(32)))("A", "7") == outer[:16]


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_two_pairs_have_two_codes(a, b, c, d):
    same = (a, b) == (c, d)
    assert (RING.code("patient", a, b) == RING.code("patient", c, d)) == same
    assert RING.code("visit", a, b) != RING.code("patient", a, b)


@given(st.text(max_size=40))
def test_a_code_is_known_as_one(text):
    assert RING.is_code(RING.code("visit", "A", text))
    assert not RING.is_code(text)


def test_a_forged_code_is_none():
    code = RING.code("patient", "A", "7")
    other = "0" if code[5] != "0" else "1"
    assert not RING.is_code(code[:5] + other + code[6:])
    assert not KeyRing.new().is_code(code)


@given(st.text(max_size=20), st.integers(1, 400))
def test_days_are_within_and_never_none(patient, most):
    days = RING.days("A", patient, most)
    assert days != 0 and abs(days) <= most
    assert days == RING.days("A", patient, most)


def test_days_reach_both_ends():
    assert {RING.days("A", str(i), 2) for i in range(200)} == {-2, -1, 1, 2}


def test_keys_are_saved_for_their_owner_and_rotate(tmp_path):
    file = tmp_path / "keys"
    KeyRing.new().save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    old = KeyRing.from_file(file)
    old.rotated().save(file)
    ring = KeyRing.from_file(file)
    assert ring.current == "k2" and set(ring.keys) == {"k1", "k2"}
    before, now = old.code("patient", "A", "7"), ring.code("patient", "A", "7")
    assert before != now and before[3:] != now[3:]
    assert ring.is_code(before) and ring.is_code(now) and not old.is_code(now)
    assert Pseudonyms.from_file(file)("A", "7") == now[3:19]
    assert all(k.hex() not in repr(ring) and repr(k) not in repr(ring) for k in ring.keys.values())


@pytest.mark.parametrize(
    "text", ["", "{}", '{"current": "k1", "keys": {}}', '{"current": "k1", "keys": {"k1": "zz"}}',
             '{"current": "k1", "keys": {"k1": "0011"}}', '{"current": 1, "keys": []}', "[" * 9999]
)  # fmt: skip
def test_what_is_no_key_is_refused_without_a_word_of_it(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(DataError) as caught:
        KeyRing.from_file(tmp_path / "keys")
    assert "0011" not in str(caught.value) and "zz" not in str(caught.value)


def test_processes_that_start_at_once_make_one_key(tmp_path, monkeypatch):
    file = tmp_path / "pseudonyms.key"
    # As if all had looked before any of them made it.
    looked = threading.Barrier(8, timeout=120)
    real = Path.exists

    def exists(path, **options):
        found = real(path, **options)
        if path == file:
            looked.wait()
        return found

    monkeypatch.setattr(Path, "exists", exists)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Pseudonyms.from_file(file)("A", "7"), range(8)))
    assert len(set(made)) == 1 and [f.name for f in tmp_path.iterdir()] == [file.name]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.undo()
    with pytest.raises(DataError, match="cannot be read"):
        Pseudonyms.from_file(tmp_path / "nowhere" / "key")


def test_crosswalk_leads_back_and_lasts(tmp_path):
    file = tmp_path / "crosswalk"
    with Crosswalk(file) as store:
        code = store.code("patient", "A", "7", "chance", lambda: "r-1")
        assert store.code("patient", "A", "7", "chance", lambda: "r-2") == code
        assert store.code("patient", "B", "7", "chance", lambda: "r-2") == "r-2"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with Crosswalk(file) as store:
        assert store.code("patient", "A", "7", "chance", lambda: "r-3") == "r-1"
        assert store.identity("r-2") == ("patient", "B", "7") and len(store) == 2
        with pytest.raises(DataError, match="not given out"):
            store.identity("r-9")
    (tmp_path / "else").write_text("something else " * 100)
    with pytest.raises(DataError, match="no crosswalk"):
        Crosswalk(tmp_path / "else")


def test_secrets_get_a_folder_for_their_owner_alone(tmp_path):
    RING.save(tmp_path / "private" / "keys")
    Crosswalk(tmp_path / "other" / "crosswalk")
    for folder in ("private", "other"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
