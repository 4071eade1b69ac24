"""The code that CONTRIBUTING.md shows works as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"


def test_examples_of_the_page_run_top_to_bottom() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "contributing"}
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S))
    assert len(blocks) >= 5
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        # Tracebacks then name the page's own line.
        exec(compile("\n" * line + block.group(1), str(PAGE), "exec", dont_inherit=True), names)
