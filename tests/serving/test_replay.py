"""A data set played to a running service, by the command line's own code."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from foretell.cli import app
from foretell.data.clinical import Schema
from foretell.data.clinical.feed import stays_from_feed
from foretell.data.clinical.fhir import FhirReader
from foretell.data.clinical.hl7 import Hl7Reader, Message
from foretell.serving.replay import feed_of
from foretell.serving.store import open_store

from .waiting import settled


@pytest.fixture
def folder(tmp_path):
    """Three patients as the 2019 challenge gives them."""
    names = [*Schema.default().channels("p19").names, "Age", "Gender", "Unit1", "Unit2",
             "HospAdmTime", "ICULOS", "SepsisLabel"]  # fmt: skip
    place = tmp_path / "set"
    place.mkdir()
    rng = np.random.default_rng(0)
    for p in range(3):
        lines = ["|".join(names)]
        for hour in range(1, 7):
            row = dict.fromkeys(names, "NaN")
            row |= {"HR": f"{rng.integers(60, 140)}", "Resp": f"{rng.integers(10, 34)}",
                    "Age": "67", "Gender": "1", "Unit1": "1", "Unit2": "0", "HospAdmTime": "-3",
                    "ICULOS": str(hour), "SepsisLabel": "0"}  # fmt: skip
            lines.append("|".join(row[n] for n in names))
        (place / f"p{p:06d}.psv").write_text("\n".join(lines) + "\n")
    return place


def test_both_forms_tell_the_same(deployed):
    _, _, stays = deployed
    stays = stays.select(slice(3))
    hl7 = feed_of(stays, form="hl7", spread=5)
    fhir = feed_of(stays, form="fhir", spread=5)
    assert [m[0] for m in hl7] == sorted(m[0] for m in hl7)
    reader, other = Hl7Reader("SIM"), FhirReader("SIM")
    first = stays_from_feed([r for _, m in hl7 for r in reader.read(Message.from_bytes(m))],
                            schema=stays.schema)  # fmt: skip
    second = stays_from_feed([r for _, m in fhir for r in other.read(json.loads(m))],
                             schema=stays.schema)  # fmt: skip
    np.testing.assert_array_equal(first.lengths, second.lengths)
    np.testing.assert_array_equal(first.matrix(), second.matrix())
    controls = [Message.from_bytes(m).control_id for _, m in hl7]
    assert len(set(controls)) == len(controls)


@pytest.mark.parametrize("form", ["hl7", "fhir"])
def test_a_data_set_is_played(form, folder, tmp_path, launch):
    import hashlib

    config = tmp_path / "c.toml"
    token = hashlib.sha256(b"test-token").hexdigest()
    config.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\nclock = "external"\n'
        "[mllp]\nport = 0\n[http]\nport = 0\n"
        f'[[tokens]]\nname = "t"\nsha256 = "{token}"\nscopes = ["admin", "ingest"]\n'
    )
    running = launch(config).wait()
    (tmp_path / "token").write_text("test-token\n")
    args = ["replay", str(folder), "--speed", "0", "--as", form, "--spread", "2",
            "--mllp", f"127.0.0.1:{running.ports['mllp']}",
            "--http", f"http://127.0.0.1:{running.ports['http']}"]  # fmt: skip
    done = CliRunner().invoke(app, [*args, "--token-file", str(tmp_path / "token")])
    assert done.exit_code == 0, done.output
    assert "24 messages were taken" in done.output
    store = open_store(str(tmp_path / "s.db"), partitions=2)
    settled(store)
    scored = store._run("SELECT patient, COUNT(*) FROM score GROUP BY patient")
    assert [count for _, count in scored] == [6, 6, 6]
    # An hour is over when what became known in it was sent: nothing was told twice.
    assert store._run("SELECT COUNT(*) FROM score WHERE risk IS NOT issued") == [(0,)]
    store.close()


def test_a_feed_of_no_site_is_told_of_at_once(folder, tmp_path, launch, monkeypatch):
    import hashlib

    config = tmp_path / "c.toml"
    config.write_text(
        f'[service]\nstore = "{tmp_path / "s.db"}"\npartitions = 2\nclock = "external"\n'
        "[mllp]\nport = 0\n[http]\nport = 0\n[sites.west]\nfacilities = ['WEST']\n"
        f'[[tokens]]\nname = "t"\nsha256 = "{hashlib.sha256(b"test-token").hexdigest()}"\n'
        'scopes = ["admin"]\n'
    )
    running = launch(config).wait()
    monkeypatch.setenv("FORETELL_TOKEN", "test-token")
    args = ["replay", str(folder), "--speed", "0",
            "--mllp", f"127.0.0.1:{running.ports['mllp']}",
            "--http", f"http://127.0.0.1:{running.ports['http']}"]  # fmt: skip
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 1 and "0 messages were taken" in done.output
    assert done.output.count("--site names another than SIM") == 1
    done = CliRunner().invoke(app, [*args, "--site", "WEST"])
    assert done.exit_code == 0 and "24 messages were taken" in done.output


def test_one_command_shows_it_alive(folder, tmp_path):
    import os
    import subprocess
    import sys

    place = tmp_path / "temporary"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "from foretell.cli import app; app()", "replay", str(folder),
         "--serve", "rules", "--port", "0", "--no-stay", "--speed", "0"],
        env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "24 messages were taken" in done.stdout
    assert "/board" in done.stderr and "token: " in done.stderr
    assert list(place.iterdir()) == []


def test_what_is_wrong_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("FORETELL_TOKEN", raising=False)
    done = CliRunner().invoke(app, ["replay", str(folder)])
    assert done.exit_code != 0 and "token" in done.output
    monkeypatch.setenv("FORETELL_TOKEN", "x")
    done = CliRunner().invoke(app, ["replay", str(folder), "--mllp", "127.0.0.1:1"])
    assert done.exit_code != 0 and "cannot be reached at 127.0.0.1:1" in done.output
    done = CliRunner().invoke(app, ["replay", str(folder), "--as", "xml"])
    assert done.exit_code != 0 and "hl7 or fhir" in done.output
    done = CliRunner().invoke(app, ["replay", str(folder), "--serve", str(tmp_path / "no")])
    assert done.exit_code != 0 and "foretell run sepsis-simulated" in done.output
    done = CliRunner().invoke(app, ["replay", "nothing", "--serve", "rules"])
    assert done.exit_code != 0 and "physionet2019_sepsis" in done.output
    assert "walmart" not in done.output
