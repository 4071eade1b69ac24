"""``foretell doctor``: whether a service has all that it stands on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from foretell.cli.console import reporting, stdout

_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red"}


def doctor(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="folder of the run that is served", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of the service", show_default="all defaults")
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(help="file of a feed: HL7 v2 messages, or FHIR resources as JSON"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="only print the JSON schema of the configuration")
    ] = False,
) -> None:
    """Examines configuration, run, store, disk, clock and certificates; and a sample of a feed.

    Of the sample it says which codes and units are not known, how often they come, and what is
    missing for the model. Nothing of it is stored. Exits with 1 where something is wrong.

    foretell doctor runs/sepsis --config site.toml --sample feed.hl7
    """
    with reporting():
        from foretell.serving.config import Config, config_schema, read_config

        if schema:
            print(json.dumps(config_schema(), indent=1))
            return
        from foretell.serving.doctor import channels_of, coverage, examine, read_sample

        settings = Config() if config is None else read_config(config)
        runs = [] if run is None else [run]
        findings = list(examine(settings, runs))
        found = None
        if sample is not None:
            found = read_sample(settings, sample)
            for channels in channels_of(settings, runs).values():
                findings += coverage(found, channels)
        bad = any(f.state == "wrong" for f in findings)
        if as_json:
            told = {
                "findings": [asdict(f) for f in findings],
                "sample": None if found is None else found.to_json(),
            }
            stdout.print(json.dumps(told, indent=1), markup=False, highlight=False)
        else:
            table = Table("", "what", "found")
            for one in findings:
                colour = _COLOURS[one.state]
                table.add_row(f"[{colour}]{one.state}[/]", one.what, one.text)
            stdout.print(table)
            if found is not None:
                _print(found.to_json())
        if bad:
            raise typer.Exit(1)


def _print(sample: dict) -> None:
    known = Table("channel", "results")
    for name, count in sample["known"].items():
        known.add_row(name, f"{count:,}")
    stdout.print(known)
    if sample["unknown"] or sample["units"]:
        lost = Table("would be set aside", "system", "code", "unit", "count")
        for row in sample["unknown"]:
            lost.add_row(row["reason"], row["system"], row["code"], "", f"{row['count']:,}")
        for row in sample["units"]:
            lost.add_row("unknown_unit", row["system"], row["code"], row["unit"],
                         f"{row['count']:,}")  # fmt: skip
        stdout.print(lost)
    for reason, count in sample["refused"].items():
        stdout.print(f"refused: {count:,} messages: {reason}", markup=False)
