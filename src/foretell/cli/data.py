"""``foretell data``: the public data sets, and records of patients without what identifies."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from foretell.cli.arguments import Group
from foretell.cli.console import reporting, stdout

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Public data sets: what is known, what is here. Records of patients, de-identified.",
)


class Method(StrEnum):
    """How dates and codes are told."""

    SAFE_HARBOR = "safe-harbor"
    DATE_SHIFT = "date-shift"


@app.command("list")
def data_list(
    name: Annotated[
        str | None, typer.Argument(help="of one, of which all is told", show_default="all")
    ] = None,
) -> None:
    """Lists the public data sets that foretell knows, a line each; of one it tells all.

    Licences are in short: what a source says of its own is told with the name of a data set.
    """
    from foretell.data import registry

    with reporting():
        if name is not None:
            one = registry.find(name)
            told = {
                "what": one.title, "for": one.serves, "licence": one.licence,
                "restriction": one.restriction, "from": "; ".join(one.origin),
                "cite": one.citation, "loads as": one.form if one.loader else None,
                "how to get it": one.obtain,
            }  # fmt: skip
            for heading, text in told.items():
                if text:
                    stdout.print(f"{heading}: {text}", markup=False, highlight=False)
            return
        rows = [
            (row["name"], registry.short_licence(row["licence"]), row["form"] or "-",
             "yes" if row["present"] else "no", row["title"])
            for row in registry.list_datasets().iter_rows(named=True)
        ]  # fmt: skip
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for k, heading in enumerate(("name", "licence", "loads as", "here")):
            # Names are to be copied: on a narrow screen what it is has to give way.
            widest = max(len(heading), *(len(row[k]) for row in rows))
            table.add_column(heading, no_wrap=True, min_width=widest)
        table.add_column("what", no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*row)
        stdout.print(f"data sets in {registry.root()}", markup=False, highlight=False)
        stdout.print(table)
        stdout.print("foretell data list NAME tells all of one, its licence in full", markup=False)


@app.command("path")
def data_path(name: Annotated[str, typer.Argument(help="a data set's name")]) -> None:
    """Prints the folder of a data set."""
    from foretell.data import registry

    with reporting():
        stdout.print(str(registry.path(name)), markup=False)


@app.command("check")
def data_check(name: Annotated[str, typer.Argument(help="a data set's name")]) -> None:
    """Checks that a data set's files are complete and readable."""
    from foretell.data import registry

    with reporting():
        found = registry.check(name)
        for file in found:
            stdout.print(f"{file.state:9} {file.path}: {file.detail}", markup=False)
        if any(file.state != "ok" for file in found):
            raise typer.Exit(2)


@app.command("deidentify")
def data_deidentify(
    source: Annotated[
        Path, typer.Argument(help="a folder of stays, HL7 v2 or FHIR JSON: a file or a folder")
    ],
    out: Annotated[Path, typer.Option("--out", help="what is written; must not exist")],
    method: Annotated[
        Method, typer.Option(help="safe-harbor: years only; date-shift: secret days away")
    ] = Method.SAFE_HARBOR,
    key: Annotated[
        Path | None, typer.Option("--key", help="keys of date-shift; see `foretell data key`")
    ] = None,
    crosswalk: Annotated[
        Path | None, typer.Option(help="keeps which code is whom; never goes with the data")
    ] = None,
    site: Annotated[str, typer.Option(help="of resources, and of messages that name none")] = (
        "site"
    ),
    timezone: Annotated[str, typer.Option(help="of times without an offset")] = "UTC",
) -> None:
    """Takes out what identifies patients: 45 CFR 164.514(b)(2), or dates that are moved."""
    from zoneinfo import ZoneInfo

    from foretell.data.clinical.deidentify import (
        STATEMENTS,
        Crosswalk,
        Deidentifier,
        KeyRing,
        deidentify,
    )
    from foretell.errors import ParameterError

    with reporting():
        try:
            zone = ZoneInfo(timezone)
        except (ValueError, OSError, LookupError):
            raise ParameterError(f"there is no time zone {timezone!r}") from None
        keys = None if key is None else KeyRing.from_file(key)
        with Crosswalk(crosswalk) as codes:
            told = Deidentifier(method.value, keys=keys, crosswalk=codes, site=site, zone=zone)
            report = deidentify(told, source, out)
        count = told.removed
        table = Table(
            title=f"{method.value}: {count.taken:,} taken, of which {count.refused:,} refused"
        )
        for heading in ("element", "removed", "coded", "generalised"):
            table.add_column(heading)
        for name, counts in told.report()["elements"].items():
            if any(counts.values()):
                table.add_row(name, *(f"{n:,}" for n in counts.values()))
        stdout.print(table)
        stdout.print(STATEMENTS[method.value], markup=False)
        stdout.print(f"report: {report}", markup=False)


@app.command("key")
def data_key(
    file: Annotated[Path, typer.Argument(help="of the keys; made where absent")],
    rotate: Annotated[bool, typer.Option("--rotate", help="use a new key from now on")] = False,
) -> None:
    """Makes the keys of codes and moved dates, readable for their owner alone, or rotates them."""
    from foretell.data.clinical.deidentify import KeyRing

    with reporting():
        if file.exists():
            ring = KeyRing.from_file(file)
            if rotate:
                ring = ring.rotated()
                ring.save(file)
        else:
            ring = KeyRing.new()
            ring.save(file)
        stdout.print(f"{len(ring.keys)} keys, in use is {ring.current}", markup=False)
