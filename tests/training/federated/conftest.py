from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr")
# On the path rather than a fixture: Ray's actors and SuperNodes import it too.
sys.path.insert(0, str(Path(__file__).parent / "support"))
