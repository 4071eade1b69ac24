from __future__ import annotations

import gc
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
    for begin in (lambda path: RunFolder.create(path, {}), RunFolder.resume):
        with pytest.raises(ArtefactError, match="complete"):
            begin(tmp_path / "a")
    with pytest.raises(ArtefactError, match="no run to resume"):
        RunFolder.resume(tmp_path)


def test_an_interrupted_run_can_be_resumed(tmp_path):
    RunFolder.create(tmp_path / "a", {}).end("interrupted")
    with pytest.raises(ArtefactError, match="--resume"):
        RunFolder.create(tmp_path / "a", {})
    folder = RunFolder.resume(tmp_path / "a")
    record = folder.read()
    assert record["status"] == "running"
    assert len(record["resumed"]) == 1
    assert "ended" not in record


def test_only_one_process_works_on_a_run(tmp_path):
    folder = RunFolder.create(tmp_path / "a", {})
    with pytest.raises(ArtefactError, match="another process works on"):
        RunFolder.resume(tmp_path / "a")
    folder.end("failed")
    RunFolder.resume(tmp_path / "a").end("complete")


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path):
    folder = RunFolder.create(tmp_path / "a", {})
    assert RunFolder(tmp_path / "a").read()["status"] == "running"
    del folder  # as a killed process lets go of its files
    gc.collect()
    record = RunFolder(tmp_path / "a").read()
    assert record["status"] == "interrupted"
    assert "killed" in record["failure"]["message"]
    assert RunFolder.resume(tmp_path / "a").read()["status"] == "running"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"format": 1}', '{"format": 99}', '{"format": "x"}']
)
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


def test_a_run_that_failed_before_it_made_anything_is_started_anew(tmp_path):
    RunFolder.create(tmp_path / "a", {"title": "misspelt"}).end("failed", failure={"message": "x"})
    again = RunFolder.create(tmp_path / "a", {"title": "right"})
    assert again.read()["title"] == "right" and "failure" not in again.read()
    (again.path / "model").mkdir()
    again.end("failed", failure={"message": "x"})
    with pytest.raises(ArtefactError, match="failed: name another folder, or go on"):
        RunFolder.create(tmp_path / "a", {})


def test_a_folder_without_a_run_is_said_to_hold_none(tmp_path):
    with pytest.raises(ArtefactError, match="nowhere holds no run"):
        RunFolder(tmp_path / "nowhere").read()
