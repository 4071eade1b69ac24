"""From content to one HTML file without any link to the outside."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from foretell import __version__

_FILES = resources.files("foretell.evaluation.report") / "page"


def write_page(path: str | Path, text: str) -> Path:
    """Writes a page in one step; missing folders are made.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def render_page(
    template: str,
    context: Mapping[str, Any],
    figures: Mapping[str, Any],
    payload: Mapping[str, Any] | None = None,
    scripts: tuple[str, ...] = (),
) -> str:
    """The page as text.

    Names from the data are escaped wherever they stand, values for the scripts lie in JSON blocks,
    and the page's content security policy allows its own scripts by their hash only, and no
    connection at all: a hostile name can neither run nor load anything.

    Args:
        template: name of the template, which extends ``base.html.j2``: ``context`` holds what that
            asks for (``title, made, headline, data, reproduce``) and what its own blocks do.
        context: sentences and rows.
        figures: plotly figures by name; each is drawn where ``data-figure`` names it.
        payload: more values for the page's scripts.
        scripts: names of scripts beyond the one that draws the figures.
    """
    plotly = plotly_source()
    script = "\n".join(_read(name) for name in ("page.js", *scripts))
    policy = (
        f"default-src 'none'; script-src {_hash(plotly)} {_hash(script)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            **context,
            version=__version__,
            policy=Markup(policy),
            style=Markup(_read("style.css")),
            plotly=Markup(plotly),
            script=Markup(script),
            payload=Markup(embed_json({"figures": figures, **(payload or {})})),
        )
    )


def embed_json(value: Any) -> str:
    """JSON that may stand inside a script element: no ``<``, ``>`` or ``&``, and no NaN.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@cache
def plotly_source() -> str:
    """plotly.js, in a form that cannot end its script element early."""
    return re.sub(r"</(script)", r"<\\/\1", get_plotlyjs(), flags=re.IGNORECASE)


@cache
def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("foretell.evaluation.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
