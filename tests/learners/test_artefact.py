"""Saved models: what users give is written, and a failure spoils nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foretell.learners.artefact import load_artefact, save_artefact


def test_numpy_values_and_paths_are_saved(tmp_path):
    config = {"h": np.int64(3), "levels": np.array([0.1, 0.9]), "folder": Path("a"), "x": None}
    save_artefact(tmp_path, "Kind", config, {"w": np.arange(3.0)})
    loaded, arrays = load_artefact(tmp_path, "Kind")
    assert loaded == {"h": 3, "levels": [0.1, 0.9], "folder": "a", "x": None}
    assert arrays["w"].tolist() == [0, 1, 2]


def test_what_cannot_be_saved_leaves_the_older_artefact_whole(tmp_path):
    save_artefact(tmp_path, "Kind", {"version": 1}, {"w": np.zeros(2)})
    with pytest.raises(TypeError, match="cannot be saved"):
        save_artefact(tmp_path, "Kind", {"version": object()}, {"w": np.ones(5)})
    loaded, arrays = load_artefact(tmp_path, "Kind")
    assert loaded == {"version": 1} and arrays["w"].tolist() == [0, 0]
