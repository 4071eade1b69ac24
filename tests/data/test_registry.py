from __future__ import annotations

from pathlib import Path

import pytest

from foretell.data import registry
from foretell.errors import DataError, ParameterError


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FORETELL_DATA", str(tmp_path))
    return tmp_path


def test_every_entry_says_what_it_is_and_where_it_comes_from():
    assert len(registry.known()) >= 72
    for name, entry in registry.known().items():
        assert name == entry.name and entry.title and entry.domain and entry.serves
        assert entry.origin and entry.licence and entry.files, name
        for file in entry.files:
            assert not Path(file.path).is_absolute() and ".." not in Path(file.path).parts
            assert (file.sha256 is None) == (entry.obtain is not None), name
    for short, name in registry.SHORT_NAMES.items():
        assert registry.find(short).name == name


def test_every_loader_exists():
    import importlib

    loaders = [e.loader for e in registry.known().values() if e.loader]
    assert len(loaders) >= 15
    for loader in loaders:
        module, _, function = loader.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_a_missing_set_says_where_it_belongs_and_where_it_is_from(home):
    with pytest.raises(DataError, match="'m4' is not here") as caught:
        registry.path("m4")
    assert caught.value.file == str(home / "m4")
    for part in ("M4", "licence", "hourly_train.parquet", "FORETELL_DATA"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="keep it internal"):
        registry.path("rossmann")


def test_a_misspelt_name_is_met_with_the_nearest():
    with pytest.raises(DataError, match="Did you mean walmart_store_sales"):
        registry.path("walmart_store_sale")
    with pytest.raises(DataError, match="foretell data list"):
        registry.path("qqqqqqqqqq")


@pytest.mark.real_data
def test_files_are_checked_against_size_and_hash(home, data_set):
    source = data_set("m4")
    folder = home / "m4"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert {c.state for c in registry.check("m4")} == {"ok"}
    files = sorted(c.path for c in registry.check("m4"))
    (folder / files[0]).unlink()
    (folder / files[1]).write_bytes(b"short")
    data = bytearray((folder / files[2]).read_bytes())
    data[100] ^= 1
    (folder / files[2]).write_bytes(bytes(data))
    states = {c.path: (c.state, c.detail) for c in registry.check("m4")}
    assert states[files[0]][0] == "missing"
    assert states[files[1]][0] == "different" and "bytes" in states[files[1]][1]
    assert states[files[2]] == ("different", "its SHA-256 is another one")


@pytest.mark.real_data
def test_all_sets_that_are_here_are_as_expected(data_root, monkeypatch):
    monkeypatch.setenv("FORETELL_DATA", str(data_root))
    small = [e for e in registry.known().values() if (data_root / e.name).is_dir()]
    small = [e for e in small if sum(f.bytes or 0 for f in e.files) < 3_000_000]
    assert small
    for entry in small:
        wrong = [c for c in registry.check(entry.name) if c.state != "ok"]
        assert not wrong, (entry.name, wrong)


def test_the_list_says_what_is_here(home):
    (home / "ett").mkdir()
    table = registry.list_datasets()
    here = table.filter(table["present"])["name"].to_list()
    assert here == ["ett"] and table.height == len(registry.known())


def test_where_data_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("FORETELL_DATA", str(tmp_path / "mine"))
    assert registry.root() == tmp_path / "mine"
    monkeypatch.delenv("FORETELL_DATA")
    shared = tmp_path / "shared" / "data"
    checkout = tmp_path / "checkout"
    shared.mkdir(parents=True)
    checkout.mkdir()
    monkeypatch.chdir(checkout)
    assert registry.root() == shared
    assert registry.roots()[-1] == Path("~/.cache/foretell").expanduser()


def test_sets_without_a_loader_cannot_be_loaded(home):
    with pytest.raises(ParameterError, match="has no loader"):
        registry.load("ag_news")


def test_a_set_of_another_form_is_refused_with_those_that_fit(home):
    with pytest.raises(ParameterError, match="'adult' is read as a table, not as a panel") as e:
        registry.load("adult", form="panel")
    assert "m4" in str(e.value) and "hotel_bookings" not in str(e.value)


def test_licences_have_a_short_form():
    for text, short in (
        ("MIT (repo); UCI original CC BY 4.0", "MIT ..."),
        ("MIT (both); MIT", "MIT"),
        ("Kaggle competition rules apply", "Kaggle rules"),
        ("not stated; the readme says research", "not stated"),
        ("GroupLens terms: research use, no redistribution", "own terms"),
        ("GPL (>= 2) (package DESCRIPTION); academic use", "GPL (>= 2)"),
    ):
        assert registry.short_licence(text) == short
    for name, entry in registry.known().items():
        assert 0 < len(registry.short_licence(entry.licence)) <= 20, name


def test_the_list_has_a_line_each_and_one_is_told_whole(home):
    from typer.testing import CliRunner

    from foretell.cli import app

    listed = CliRunner().invoke(app, ["data", "list"])
    lines = listed.output.splitlines()
    assert listed.exit_code == 0
    for name in registry.known():
        assert sum(line.startswith(f"{name} ") for line in lines) == 1, name
    assert max(map(len, lines)) <= 120
    told = CliRunner().invoke(app, ["data", "list", "movielens_100k"]).output
    assert f"licence: {registry.find('movielens_100k').licence}" in told.replace("\n", " ")
    wrong = CliRunner().invoke(app, ["data", "list", "movielens_100"])
    assert wrong.exit_code == 2 and "movielens_100k" in wrong.output
