"""Turns the cross-references of docstrings (``:class:`~foretell.data.panel.Panel```) into links."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):<code>(~?)([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs with each page's HTML, before cross-references are resolved."""

    def link(found: re.Match[str]) -> str:
        short, name = found.groups()
        text = name.rpartition(".")[2] if short else name
        return f'<autoref identifier="{name}" optional><code>{text}</code></autoref>'

    return _ROLE.sub(link, html)
