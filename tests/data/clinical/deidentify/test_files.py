"""Stays, files, folders and the commands."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from foretell.cli.app import app
from foretell.data.clinical import open_stays, stays_from_frame, write_stays
from foretell.data.clinical.deidentify import Crosswalk, Deidentifier, KeyRing, deidentify
from foretell.data.panel import DataNote
from foretell.errors import DataError, ParameterError

from .canaries import HL7, fhir_bytes, found


@pytest.fixture
def stays():
    from dataclasses import replace

    from foretell.data.panel import Categorical

    frame = pl.DataFrame(
        {
            "id": ["MRN7741"] * 3 + ["ACCT5522"] * 2, "hour": [1, 2, 3, 1, 2],
            "HR": [80.0, 81.0, None, 99.0, 98.0],
        }
    )  # fmt: skip
    read = stays_from_frame(frame, hospital="Wolverton")
    return replace(
        read,
        categories={
            **read.categories,
            "unit": Categorical.from_values(["MICU", "Wolverton 3 East"]),
            "sex": Categorical.from_values(["female", "QUIRINIA"]),
            "attending": Categorical.from_values(["DOC ZELENKA", None]),
        },
        numbers={"age": np.array([93.2, 63.7]), "ssn": np.array([78051120.0, np.nan]),
                 "admission": np.array([2.5, 0.0])},
        notes=(DataNote("file", "read from ZELENKA.csv", 1),),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["safe-harbor", "date-shift"])
def test_stays_under_codes(stays, tmp_path, method):
    keys = KeyRing.new() if method == "date-shift" else None
    told = Deidentifier(method, keys=keys)
    write_stays(stays, tmp_path / "in")
    report = json.loads(deidentify(told, tmp_path / "in", tmp_path / "out").read_text())
    out = open_stays(tmp_path / "out")
    everything = b"".join(f.read_bytes() for f in (tmp_path / "out").iterdir())
    assert found(everything.decode("latin-1").encode()) == []
    assert found(json.dumps(report).encode()) == [] and report["method"] == method
    back = {told.crosswalk.identity(c).identity: i for i, c in enumerate(out.ids)}
    order = [back[i] for i in stays.ids]
    assert sorted(out.ids) == out.ids.tolist()
    again = out.select(order)
    np.testing.assert_array_equal(again.column("HR"), stays.column("HR"))
    assert again.number("age").tolist() == [90, 63] and set(again.numbers) == {"age", "admission"}
    assert again.names("unit").tolist() == ["MICU", "unknown"]
    assert again.names("sex").tolist() == ["female", "unknown"]
    assert "attending" not in out.categories and not out.notes
    assert report["elements"]["dates"]["generalised"] == 1
    assert ("Safe Harbor" in report["statement"]) == (method == "date-shift")
    twice = told.stays(out)
    assert twice.ids.tolist() == out.ids.tolist() and twice.fingerprint() == out.fingerprint()


def test_channels_that_nobody_knows_go(stays):
    from dataclasses import replace

    from foretell.data.clinical import Schema

    schema = stays.schema
    first = replace(schema.variables[0], name="zelenka", title="ZELENKA", loinc=(), aliases=())
    odd = Schema((first, *schema.variables[1:]), schema.synonyms, schema.version)
    channels = {n: stays.column(o) for n, o in zip(odd.names, schema.names, strict=True)}
    told = Deidentifier()
    out = told.stays(replace(stays, schema=odd, channels=channels))
    assert "zelenka" not in out.channels and len(out.channels) == len(schema) - 1
    assert told.removed.removed["other"] >= 4


def test_folders_become_numbered_files(tmp_path):
    source = tmp_path / "in"
    (source / "ZELENKA").mkdir(parents=True)
    framed = b"".join(b"\x0b" + HL7.encode() + b"\x1c\r" for _ in range(2))
    (source / "ZELENKA" / "MRN7741.hl7").write_bytes(framed)
    (source / "a.json").write_bytes(fhir_bytes())
    (source / "b.ndjson").write_bytes(fhir_bytes() + b"\nZELENKA {\n" + fhir_bytes())
    (source / "notes.pdf").write_bytes(b"ZELENKA")
    told = Deidentifier()
    report = json.loads(deidentify(told, source, tmp_path / "out").read_text())
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == ["000000.hl7", "000001.json", "000002.ndjson"]
    for name in files:
        data = (tmp_path / "out" / name).read_bytes()
        assert data and found(data) == []
    assert (tmp_path / "out" / "000000.hl7").read_bytes().count(b"MSH|") == 2
    assert len((tmp_path / "out" / "000002.ndjson").read_text().splitlines()) == 2
    # The PDF, the broken line, and a document in each of three bundles.
    assert report["refused"] == 5


def test_what_cannot_be_done_is_said(tmp_path, stays):
    told = Deidentifier()
    with pytest.raises(DataError, match="no such file"):
        deidentify(told, tmp_path / "absent", tmp_path / "out")
    (tmp_path / "x.pdf").write_bytes(b"ZELENKA")
    with pytest.raises(DataError, match=r"no file of messages"):
        deidentify(told, tmp_path / "x.pdf", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither"):
        deidentify(told, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="already"):
        deidentify(told, tmp_path / "x.pdf", tmp_path / "empty")
    with pytest.raises(ParameterError, match=r"164\.514\(c\)"):
        Deidentifier("safe-harbor", keys=KeyRing.new())
    with pytest.raises(ParameterError, match="needs keys"):
        Deidentifier("date-shift")
    with pytest.raises(ParameterError, match="method is"):
        Deidentifier("anonymous")
    with pytest.raises(ParameterError, match="most_days"):
        Deidentifier(most_days=0)


def test_commands(tmp_path):
    def run(*words):
        return CliRunner().invoke(app, ["data", *map(str, words)])

    source, keys, walk = tmp_path / "feed.hl7", tmp_path / "keys", tmp_path / "walk"
    source.write_text(HL7)
    assert "in use is k1" in run("key", keys).output
    assert "in use is k2" in run("key", keys, "--rotate").output
    shifted = run("deidentify", source, "--out", tmp_path / "shifted.hl7", "--method", "date-shift",
                  "--key", keys, "--crosswalk", walk, "--timezone", "Europe/Berlin")  # fmt: skip
    assert shifted.exit_code == 0 and "not Safe Harbor" in shifted.output.replace("\n", " ")
    assert found(shifted.output.encode()) == []
    assert found((tmp_path / "shifted.hl7").read_bytes()) == []
    safe = run("deidentify", source, "--out", tmp_path / "safe.hl7", "--crosswalk", walk)
    assert safe.exit_code == 0 and found((tmp_path / "safe.hl7").read_bytes()) == []
    with Crosswalk(walk) as codes:
        code = (tmp_path / "safe.hl7").read_text().split("PID|")[1].split("|")[2].split("^")[0]
        assert codes.identity(code).identity.startswith("MRN7741")
    for words in (("--key", keys), ("--method", "date-shift"), ("--timezone", "No/Where")):
        assert run("deidentify", source, "--out", tmp_path / "x", *words).exit_code == 2
