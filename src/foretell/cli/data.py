"""``foretell data``: the public data sets."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from foretell.cli.console import reporting, stdout

app = typer.Typer(no_args_is_help=True, help="Public data sets: what is known, what is here.")


@app.command("list")
def data_list() -> None:
    """Lists the public data sets that foretell knows."""
    from foretell.data import registry

    title = f"data sets in {registry.root()}"
    table = Table(title=title)
    table.add_column("name", no_wrap=True)
    for heading in ("what", "licence", "loads as", "here"):
        table.add_column(heading)
    with reporting():
        for row in registry.list_datasets().iter_rows(named=True):
            here = "yes" if row["present"] else "no"
            table.add_row(row["name"], row["title"], row["licence"], row["form"] or "-", here)
        stdout.print(table)


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
