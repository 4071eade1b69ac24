"""What holds for the package as a whole, whichever modules it has."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import foretell

CHECKOUT = Path(__file__).resolve().parent.parent

IMPORT_EVERYTHING = """
import importlib, pkgutil, random, sys
import numpy as np, torch

def import_everything():
    import foretell
    for module in pkgutil.walk_packages(foretell.__path__, "foretell."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

def generators():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

def settings():
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
    )

before = settings()
import_everything()
assert settings() == before, f"importing foretell changed torch from {before} to {settings()}"
optional = {"duckdb", "gluonts", "lightgbm", "quantile_forest", "ray"} & set(sys.modules)

# Lightning draws from the global generator when it is first imported: only foretell's own
# modules are imported anew here.
for name in [name for name in sys.modules if name.split(".")[0] == "foretell"]:
    del sys.modules[name]
random.seed(7); np.random.seed(7); torch.manual_seed(7)
before = generators()
import_everything()
assert generators() == before, "importing foretell moved a global random generator"
print(",".join(sorted(optional)))
"""


@pytest.fixture(scope="module")
def optional_modules_loaded() -> set[str]:
    """Names of optional dependencies loaded after every module of foretell was imported."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(filter(None, done.stdout.strip().split(",")))


def test_importing_changes_nothing_global_and_loads_nothing_optional(
    optional_modules_loaded: set[str],
) -> None:
    assert optional_modules_loaded <= set(), (
        f"imported without being asked for: {optional_modules_loaded}"
    )


def test_every_core_dependency_is_pinned() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = list(project["dependencies"])
    for extra in ("dev", "duckdb", "gluonts", "ray", "trees", "docs"):
        wanted += extras[extra]
    names = {re.split(r"[\[<>=!~;, ]", requirement)[0].lower() for requirement in wanted}
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._-]+", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    assert {name.replace("_", "-") for name in names} <= pinned


def test_version_is_that_of_the_changelog_or_ahead_of_it() -> None:
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (CHECKOUT / "CHANGELOG.md").read_text(), re.M)
    version = tuple(int(part) for part in foretell.__version__.split("."))
    assert all(tuple(map(int, each.split("."))) <= version for each in released)


def test_package_declares_its_types() -> None:
    assert (Path(foretell.__file__).parent / "py.typed").is_file()


def test_every_benchmark_is_told_of():
    folder = CHECKOUT / "benchmarks"
    told = (folder / "README.md").read_text()
    files = [f.name for f in folder.glob("*.py") if not f.name.startswith("_")]
    assert len(files) > 30
    assert [name for name in sorted(files) if f"`{name}`" not in told] == []
