from __future__ import annotations

import subprocess
import sys

import pytest

import foretell


def test_every_name_is_found():
    assert sorted(foretell._HOME_OF) == sorted(foretell.__all__)
    for name in foretell.__all__:
        assert getattr(foretell, name).__name__ == name


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = foretell.Nothing


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, foretell; assert not {'torch', 'polars', 'numba'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
