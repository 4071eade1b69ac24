"""``foretell record``: the service's records, whole or not, and what may be deleted by now."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from foretell.cli.arguments import Group
from foretell.cli.console import reporting, stderr, stdout

if TYPE_CHECKING:
    from foretell.serving.config import Config
    from foretell.serving.store import Store

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="The records of a service: who did what, which model was let speak, and retention.",
)
ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file of the service", show_default="all defaults")
]
StoreOption = Annotated[
    str | None, typer.Option(help="SQLite file or postgresql://..., instead of the file's")
]


def _opened(config: Path | None, store: str | None) -> tuple[Config, Store]:
    from foretell.errors import ParameterError
    from foretell.serving.config import Config, read_config
    from foretell.serving.store import open_store

    settings = Config() if config is None else read_config(config)
    address = settings.service.store if store is None else store
    if "://" not in address and not Path(address).is_file():
        # To look must not make one.
        raise ParameterError(f"there is no store at {address}")
    return settings, open_store(address, partitions=settings.service.partitions)


@app.command("verify")
def verify_command(
    config: ConfigOption = None,
    store: StoreOption = None,
    anchors: Annotated[
        Path | None, typer.Option(help="file of anchors", show_default="the configuration's")
    ] = None,
) -> None:
    """Verifies the hash chains of both records, and that every anchor is in them.

    foretell record verify --config service.toml --anchors anchors.jsonl
    """
    with reporting():
        from foretell.serving.records import LOGS, read_anchors, rows_of, verify

        settings, held = _opened(config, store)
        file = anchors or settings.retention.anchors
        known = [] if file is None else read_anchors(file)
        bad = False
        for name in LOGS:
            mine = [a for a in known if a["log"] == name]
            count, wrong = verify(rows_of(held, name), mine)
            state = "whole" if not wrong else "broken"
            stdout.print(f"{name}: {count:,} rows, {len(mine)} anchors, {state}", markup=False)
            for line in wrong:
                stderr.print(f"{name}: {line}", style="red", markup=False)
            bad |= bool(wrong)
        if not known:
            stderr.print("without anchors rows may be missing at the end", style="dim")
        held.close()
        if bad:
            raise typer.Exit(1)


@app.command("anchor")
def anchor_command(config: ConfigOption = None, store: StoreOption = None) -> None:
    """Prints where each record ends now, as lines of JSON, to be kept elsewhere.

    foretell record anchor --config service.toml
    """
    with reporting():
        from foretell.serving.records import anchors_now

        _, held = _opened(config, store)
        for one in anchors_now(held, time.time()):
            print(json.dumps(one))
        held.close()


@app.command("purge")
def purge_command(
    config: ConfigOption = None,
    store: StoreOption = None,
    years: Annotated[
        float | None,
        typer.Option(
            help="of retention; sites that keep patients for longer still do",
            show_default="the configuration's",
            min=0.1,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="delete, not only count")] = False,
) -> None:
    """Deletes patients of whom nothing was heard for the years of retention; counts only, at first.

    Whole patients are deleted, so that the rest of the log still folds to the same. The records of
    who did what stay. With --years a site's own retention_years hold where they are longer.

    foretell record purge --config service.toml

    foretell record purge --config service.toml --yes
    """
    with reporting():
        from foretell.serving.records import purge

        settings, held = _opened(config, store)
        wanted, sites = settings.retention.years, settings.retention_years
        if years is not None:
            # A site that keeps its patients for longer must not lose them by this.
            wanted, sites = years, {name: max(years, own) for name, own in sites.items()}
        found = purge(
            held, wanted, time.time(), dry=not yes, by=f"console {getpass.getuser()}", sites=sites
        )
        held.close()
        table = Table("table", "rows")
        for name, count in found.rows.items():
            table.add_row(name, f"{count:,}")
        stdout.print(table)
        said = "were deleted" if yes else "would be deleted; --yes deletes them"
        stdout.print(f"{found.patients:,} patients {said}", markup=False)
