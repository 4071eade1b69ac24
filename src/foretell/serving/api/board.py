"""The live board: a page that needs nothing from elsewhere, and what it has to know."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import RedirectResponse, Response

from foretell.decisions.alarms import AlarmPolicy
from foretell.serving.api.auth import Reader
from foretell.serving.reasons import REASONS
from foretell.serving.worker.site import SiteRules

if TYPE_CHECKING:
    from foretell.serving.service import Service

_FILES = {
    "index.html": "text/html; charset=utf-8",
    "board.js": "text/javascript; charset=utf-8",
    "board.css": "text/css; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def board_routes(app: FastAPI, service: Service) -> None:
    """Adds ``/board`` and what it asks for."""
    folder = files("foretell.serving.board")

    def page(name: str) -> Response:
        headers = {"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"}
        content = folder.joinpath(name).read_bytes()
        return Response(content, media_type=_FILES[name], headers=headers)

    @app.get("/", include_in_schema=False)
    def home() -> Response:
        return RedirectResponse("/board")

    @app.get("/board", include_in_schema=False)
    def index() -> Response:
        return page("index.html")

    @app.get("/board/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404, "there is no such file")
        return page(name)

    @app.get("/v1/board", tags=["patients"])
    def about(caller: Reader) -> dict[str, Any]:
        """What a board needs to know: tiers, names of channels, what the caller may do."""
        fold = service.reference
        mine = {name for name in fold.sites if caller.may("read", name)}
        if caller.break_glass:
            # Who reads a site through the glass sees it by its own thresholds.
            with service.stores.use() as store:
                mine |= {n for n in fold.sites if store.granted(caller.name, n) is not None}

        return {
            "model": fold.ladder.version,
            **_told(fold.rules(None)),
            # What holds there instead.
            "sites": {name: _told(rules) for name, rules in fold.sites.items() if name in mine},
            # A bedside rule has points, and they are no probability.
            "points": {s.version: s.most for s in fold.ladder.scorers if hasattr(s, "most")},
            "channels": {v.name: v.title for v in fold.ladder.schema.variables},
            "reasons": REASONS,
            "may_act": "act" in caller.scopes,
            "caller": caller.name,
        }


def _told(rules: SiteRules) -> dict[str, Any]:
    """Thresholds of those who may speak, and for how long somebody may be silent."""
    return {
        "tiers": _tiers(rules.policy),
        # Points of a bedside rule have a scale of their own.
        "tiers_of": {version: _tiers(policy) for version, policy in rules.policies.items()},
        "longest_silence_hours": rules.policy.max_silence,
    }


def _tiers(policy: AlarmPolicy) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "threshold": t.threshold, "units": dict(t.units)} for t in policy.tiers
    ]
