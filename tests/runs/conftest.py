"""Runs that several tests look at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result

sys.path.insert(0, str(Path(__file__).parent / "support"))

from tiny_runs import LEGACY, RECIPE, call, sales


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "ten.toml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="session")
def legacy_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "legacy.toml"
    file.write_text(LEGACY)
    return file


@pytest.fixture(scope="session")
def finished(recipe_file, tmp_path_factory) -> Path:
    """Folder of a complete run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    result = call("run", recipe_file, "--out", folder)
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def failed(legacy_file, tmp_path_factory) -> Path:
    """Folder of a run whose data were twice there."""
    home = tmp_path_factory.mktemp("runs")
    table = sales()
    pl.concat([table, table[:1]]).write_csv(home / "twice.csv")
    result = call("run", legacy_file, "--data", home / "twice.csv", "--out", home / "failed")
    assert result.exit_code == 2
    return home / "failed"


@pytest.fixture
def run_table(legacy_file, tmp_path) -> Callable[..., tuple[Result, Path]]:
    """Runs the classical model on a table: ``run_table(table, *options) -> result, folder``."""

    def run(table: pl.DataFrame | bytes, *options: str, name: str = "sales.csv"):
        file = tmp_path / name
        if isinstance(table, bytes):
            file.write_bytes(table)
        else:
            table.write_csv(file)
        return call("run", legacy_file, "--data", file, "--out", tmp_path / "out", *options), (
            tmp_path / "out"
        )

    return run
