"""Makes ``panel_strategies`` importable: hypothesis strategies are needed before fixtures are."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
