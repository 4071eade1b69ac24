from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from foretell.errors import ParameterError
from foretell.evaluation.report import ReportInput, render_report, write_report
from foretell.evaluation.report.render import plotly_source

Make = Callable[..., ReportInput]
VOID = {"meta", "link", "input", "br", "hr", "img", "col", "wbr"}
SVG_EMPTY = {"polyline", "polygon", "line"}
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "{{ 7 * 7 }}",
    '=HYPERLINK("http://evil.example")',
    "a & b 'quoted' \u2028 end",
    "<a href='http://evil.example'>click</a>",
    "Ünïcode, 12%",
)


class Page(HTMLParser):
    """Checks that elements nest, and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | SVG_EMPTY
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "script":
            attributes = next(a for t, a in reversed(self.tags) if t == "script")
            self.scripts.append((attributes, data))
        else:
            self.words.append(data)

    @property
    def ids(self) -> list[str]:
        return [str(a["id"]) for _, a in self.tags if "id" in a]

    @property
    def payload(self) -> dict:
        text = next(s for a, s in self.scripts if a.get("id") == "payload")

        def refuse(token: str) -> None:
            raise AssertionError(f"{token} is no JSON")

        return json.loads(text, parse_constant=refuse)


def test_the_full_page_has_every_section_and_parses(make_input: Make, tmp_path: Path) -> None:
    effects = {
        "elasticity": pl.DataFrame(
            {"unique_id": ["item 00", "item 01"], "elasticity": [-2.0, -1.0]}
        ),
        "events": pl.DataFrame(
            {"event": ["feast"] * 3, "offset": [-1, 0, 1], "multiplier": [1.1, 1.5, 0.8]}
        ),
    }
    path = write_report(tmp_path / "deep" / "report.html", make_input(orders=True, effects=effects))
    page = Page(path.read_text(encoding="utf-8"))
    sections = [a["id"] for t, a in page.tags if t == "section"]
    assert sections == [
        "headline", "leaderboard", "calibration", "segments", "series", "effects", "orders", "data",
        "reproduce",
    ]  # fmt: skip
    assert len(page.ids) == len(set(page.ids))
    drawn = {a["data-figure"] for _, a in page.tags if "data-figure" in a}
    assert drawn == set(page.payload["figures"])
    assert {"reliability-0", "cost", "elasticity", "events"} <= drawn
    assert not list(tmp_path.glob("**/*.partial"))
    targets = {str(a["href"])[1:] for t, a in page.tags if t == "a" and str(a["href"])[0] == "#"}
    assert targets <= set(page.ids)


def test_one_model_without_orders_or_future(make_input: Make) -> None:
    page = Page(render_report(make_input(models=("alone",), baseline=None)))
    assert "orders" not in page.ids and "effects" not in page.ids
    assert page.payload["orders"] is None
    assert page.payload["fans"]["others"] == []
    assert "only model" in " ".join(page.words)


def test_one_series(make_input: Make) -> None:
    page = Page(render_report(make_input(ids=("alone",), orders=True)))
    assert page.payload["fans"]["ids"] == ["alone"]


def test_hostile_names_stay_names(make_input: Make) -> None:
    data = make_input(ids=HOSTILE, models=(HOSTILE[0], HOSTILE[6]), orders=True)
    run = {**data.run, "title": HOSTILE[1], "command": HOSTILE[2]}
    text = render_report(ReportInput(**{**vars(data), "run": run}))
    page = Page(text)
    assert sum(t == "script" for t, _ in page.tags) == 3
    assert not any(t in {"img", "iframe", "object"} for t, _ in page.tags)
    assert not any(name.startswith("on") for _, a in page.tags for name in a)
    assert "evil.example" not in [a.get("href") for _, a in page.tags]
    assert "49" not in [w.strip() for w in page.words]
    payload = page.payload
    assert sorted(payload["fans"]["ids"]) == sorted(HOSTILE)
    assert {row[0] for row in payload["orders"]["rows"]} == set(HOSTILE)
    # Plotly reads a subset of HTML in labels: it must be given entities.
    names = [t.get("name") or "" for f in payload["figures"].values() for t in f["data"]]
    assert any("&lt;script&gt;" in n for n in names)
    assert not any("<" in n for n in names)


def test_nothing_is_loaded_from_outside(make_input: Make) -> None:
    text = render_report(make_input(orders=True))
    page = Page(text)
    for tag, attributes in page.tags:
        assert not (tag in {"script", "img", "iframe", "source"} and "src" in attributes)
        for name in ("href", "src", "action", "data", "poster", "srcset"):
            assert not re.match(r"\s*(https?:|//)", attributes.get(name) or ""), (tag, attributes)
    own = text.replace(plotly_source(), "")
    assert "@import" not in own and "url(" not in own
    assert "http://" not in own and "https://" not in own
    policy = next(a["content"] for t, a in page.tags if "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_plotly_stands_in_the_page_once(make_input: Make) -> None:
    text = render_report(make_input())
    assert text.count(plotly_source()) == 1


def test_policy_allows_exactly_the_scripts_of_the_page(make_input: Make) -> None:
    import base64
    import hashlib

    text = render_report(make_input())
    page = Page(text)
    policy = next(str(a["content"]) for t, a in page.tags if "http-equiv" in a)
    runnable = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(runnable) == 2
    for script in runnable:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_size_is_bounded_for_many_series(make_input: Make) -> None:
    ids = [f"series {i:05d}" for i in range(3000)]
    data = make_input(ids=ids, orders=True, series=200)
    text = render_report(data)
    page = Page(text)
    assert len(page.payload["fans"]["series"]) == 200
    assert len(page.payload["orders"]["rows"]) == 3000
    assert len(text) - len(plotly_source()) < 1_500_000


def test_tables_have_headers_and_figures_have_labels(make_input: Make) -> None:
    page = Page(render_report(make_input(orders=True)))
    assert all(a.get("scope") for t, a in page.tags if t == "th")
    assert all(a.get("aria-label") for _, a in page.tags if "data-figure" in a)
    assert all(a.get("aria-label") for t, a in page.tags if t == "svg")
    labelled = {a.get("for") for t, a in page.tags if t == "label"}
    fields = [a["id"] for t, a in page.tags if t in {"input", "select"}]
    assert set(fields) <= labelled


def test_headline_says_what_the_figures_say(make_input: Make) -> None:
    words = " ".join(" ".join(Page(render_report(make_input(orders=True))).words).split())
    assert "12 series were forecast 6 weeks ahead by 2 models" in words
    assert "its quantile loss is" in words and "lower than that of wide" in words
    assert "the 80% interval held" in words
    assert "would have cost" in words


def test_best_that_is_the_baseline_is_compared_with_the_next(make_input: Make) -> None:
    data = make_input(baseline="sharp")
    assert data.reference == "wide"
    words = " ".join(Page(render_report(data)).words)
    assert "none did better" in words


def test_recipe_in_the_page_is_toml(make_input: Make) -> None:
    data = make_input()
    text = render_report(data)
    recipe = re.findall(r"<pre><code>(.*?)</code></pre>", text, flags=re.DOTALL)[-1]
    import html

    assert tomllib.loads(html.unescape(recipe)) == data.run["recipe"]


def test_unobserved_outcomes_become_null(make_input: Make) -> None:
    data = make_input()
    target = data.panel.target.copy()
    target[3::7] = np.nan
    from dataclasses import replace

    holed = ReportInput(**{**vars(data), "panel": replace(data.panel, target=target)})
    page = Page(render_report(holed))
    assert any(None in row[1] for row in page.payload["fans"]["series"])
    assert "not observed" in page.words


def test_unknown_best_model_is_refused(make_input: Make) -> None:
    with pytest.raises(ParameterError, match="best 'nobody' is not among"):
        make_input(best="nobody")


def test_several_protocols_and_seeds(make_input: Make) -> None:
    data = make_input()
    first = data.tables["holdout"]
    noisy = first.with_columns(pl.lit(1).alias("seed"), pl.col("pinball_q0.9") * 1.2)
    table = pl.concat([first, noisy.select(first.columns)])
    tests = data.backtests["holdout"]
    page = Page(
        render_report(
            ReportInput(
                **{
                    **vars(data),
                    "tables": {"holdout": table, "rolling": first},
                    "backtests": {"holdout": tests, "rolling": tests},
                }
            )
        )
    )
    assert {"reliability-0", "reliability-1"} <= set(page.payload["figures"])
    words = " ".join(page.words)
    assert "\u00b1" in words and "standard deviation over seeds" in words


def test_scores_kept_without_series_or_segments(make_input: Make) -> None:
    data = make_input()
    from foretell.evaluation import evaluate

    table = evaluate(data.backtests["holdout"], data.panel, by=(), keep_series=False)
    page = Page(render_report(ReportInput(**{**vars(data), "tables": {"holdout": table}})))
    assert page.payload["fans"] is None and "series" not in page.ids
    assert page.payload["figures"] == {}
