from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import foretell


def test_every_name_is_found():
    homes = [name for names in foretell._HOMES.values() for name in names]
    assert sorted(homes) == sorted(foretell.__all__)
    for name in foretell.__all__:
        assert getattr(foretell, name).__name__ == name


@pytest.mark.parametrize("package", ["foretell.decisions", "foretell.learners.risk"])
def test_names_that_are_loaded_late_are_those_that_are_told(package):
    held = import_module(package)
    for name in held.__all__:
        assert getattr(held, name) is not None
    assert set(held.__all__) <= set(dir(held))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = held.Nothing


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = foretell.Nothing


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, foretell; assert not {'torch', 'polars', 'numba'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_door_of_the_service_loads_no_nets():
    pytest.importorskip("fastapi")
    code = (
        "import sys, foretell.serving.api.app; from foretell.serving.config import Config; "
        "from foretell.serving.service import make_fold; make_fold(Config()); "
        "assert not {'torch', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
