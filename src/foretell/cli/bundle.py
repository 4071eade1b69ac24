"""``foretell bundle``: what a hospital sent, and whether it is whole and from whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from foretell.cli.arguments import Group
from foretell.cli.console import reporting, stdout

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="The bundle that leaves a hospital: numbers and text only; opening it runs no code.",
)

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="file of a bundle")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("inspect")
def inspect_command(bundle: Bundle, as_json: Json = False) -> None:
    """Prints what a bundle holds: sites, episodes, and what the audit found.

    foretell bundle inspect hospital-a.bundle
    """
    with reporting():
        from foretell.estimators.continual import read_bundle

        told = read_bundle(bundle).summary()
        if as_json:
            text = json.dumps(told, indent=1)
            stdout.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        signer = told["signer"] or "nobody"
        stdout.print(f"schema {told['schema']}, written by {told['written_by']!r}", markup=False)
        stdout.print(f"sha256 {told['sha256']}", markup=False, highlight=False)
        stdout.print(f"signed by {signer}", markup=False, highlight=False, soft_wrap=True)
        stdout.print(f"first layer {told['frozen_layer']}", markup=False, highlight=False)
        if told["warm_up"]:
            together = ", ".join(repr(name) for name in told["warm_up"])
            stdout.print(f"trained on rows of {together} in one place", markup=False)
        table = Table("site", "hours", "positive", "stored", "release", "linked", "audit")
        for site in told["sites"]:
            name = site["name"]
            stored = told["episodes"].get(name, {"rows": 0})["rows"]
            table.add_row(
                name, f"{site['hours']:,}", f"{site['positives']:,}", f"{stored:,}",
                str(site["release"].get("kind", "-")), _linked(told["linked"].get(name)),
                _verdict(told["audits"].get(name)),
            )  # fmt: skip
        stdout.print(table)


@app.command("verify")
def verify_command(
    bundle: Bundle,
    key: Annotated[
        list[str] | None,
        typer.Option(help="public Ed25519 key in hexadecimal of which one must have signed"),
    ] = None,
) -> None:
    """Verifies hash, signature, shapes and the frozen layer; fails if anything is wrong.

    foretell bundle verify hospital-a.bundle --key 3b6a27...
    """
    with reporting():
        from foretell.errors import ParameterError
        from foretell.estimators.continual import read_bundle

        try:
            trusted = None if not key else [bytes.fromhex(k) for k in key]
        except ValueError:
            raise ParameterError("a public key is 64 hexadecimal digits") from None
        read = read_bundle(bundle, trusted_keys=trusted)
        by = "not signed" if read.signer is None else f"signed by {read.signer}"
        if read.signer is not None and trusted is None:
            by += " (whom nobody vouched for: give --key)"
        stdout.print(f"whole, {by}", markup=False, highlight=False, soft_wrap=True)


def _linked(share: float | None) -> str:
    """Share of patients whom the better attack links to their stored vectors."""
    return "-" if share is None else f"{share:.1%}"


def _verdict(report: dict | None) -> str:
    if report is None or not report.get("performed"):
        return "none"
    verdict = "passed" if report["passed"] else "not passed, overridden"
    return f"{verdict}: {report['reason']}"
