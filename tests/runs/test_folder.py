from __future__ import annotations

import json

import numpy as np
import pytest

from foretell.errors import ArtefactError
from foretell.runs.folder import RunFolder, list_runs


def test_a_new_folder_is_running_until_it_ends(tmp_path):
    folder = RunFolder.create(tmp_path / "a", {"task": "demand"})
    assert folder.read()["status"] == "running"
    with pytest.raises(ArtefactError, match="running: it did not finish"):
        folder.require_complete()
    folder.work.mkdir()
    folder.end("complete", best="x")
    assert folder.require_complete()["best"] == "x"
    assert not folder.work.exists()


def test_numbers_json_cannot_hold_become_null(tmp_path):
    folder = RunFolder.create(tmp_path / "a", {"score": np.float32("nan"), "n": np.int64(3)})
    text = (folder.path / "run.json").read_text()
    assert json.loads(text)["score"] is None
    assert json.loads(text)["n"] == 3


def test_folders_that_hold_something_are_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="holds no run"):
        RunFolder.create(tmp_path, {})
    done = RunFolder.create(tmp_path / "a", {})
    done.end("complete")
    for resume in (False, True):
        with pytest.raises(ArtefactError, match="complete"):
            RunFolder.create(tmp_path / "a", {}, resume=resume)


def test_an_interrupted_run_can_be_resumed(tmp_path):
    RunFolder.create(tmp_path / "a", {}).end("interrupted")
    with pytest.raises(ArtefactError, match="--resume"):
        RunFolder.create(tmp_path / "a", {})
    assert RunFolder.create(tmp_path / "a", {}, resume=True).read()["status"] == "running"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": "x"}'])
def test_damaged_records_are_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ArtefactError):
        RunFolder(tmp_path).read()


def test_runs_are_listed_newest_first(tmp_path):
    for name, started in (("a", "2026-01-01"), ("b", "2026-01-02")):
        folder = RunFolder.create(tmp_path / name, {})
        folder.update(started=started)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "run.json").write_text("{")
    assert [path.name for path, _ in list_runs(tmp_path)] == ["b", "a"]
