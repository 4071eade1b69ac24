from __future__ import annotations

import json
import shutil

from tiny_runs import call


def test_a_classifier_of_late_labels_is_audited_on_its_entities(corrected, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(corrected, run)
    result = call("audit", run, "--model", "naive", "--shadows", 2, "--targets", 1)
    assert result.exit_code == 0, result.stderr
    document = json.loads((run / "audit.json").read_text())
    assert document["examples"] > 100
    assert document["targets"] == [0]
    assert document["blind"]["invalid"] is False
    assert document["valid"] is True
    assert "entity" in (run / "audit.html").read_text()
