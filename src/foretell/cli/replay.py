"""``foretell replay``: plays a data set to a running service, so that anyone can see it alive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from foretell.cli.console import reporting, stderr, stdout


def replay(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="PSV files, Parquet, a public data set, or hospitals (simulated)"
        ),
    ],
    speed: Annotated[
        float, typer.Option(help="seconds of the feed a second; 0 for as fast as it goes")
    ] = 60.0,
    form: Annotated[str, typer.Option("--as", help="hl7 (over MLLP) or fhir (over HTTP)")] = "hl7",
    mllp: Annotated[str, typer.Option(help="door for HL7: HOST:PORT")] = "127.0.0.1:2575",
    http: Annotated[str, typer.Option(help="address of the HTTP face")] = "http://127.0.0.1:8080",
    token_file: Annotated[
        Path | None, typer.Option(help="file with a token", show_default="FORETELL_TOKEN is read")
    ] = None,
    stays: Annotated[int, typer.Option(help="stays that are played", min=1)] = 50,
    spread: Annotated[
        float, typer.Option(help="hours over which the stays begin", min=0, max=1000)
    ] = 12.0,
    site: Annotated[str, typer.Option(help="site, as the feed names it")] = "SIM",
    begin: Annotated[
        float, typer.Option(help="when the feed begins, in seconds since 1970")
    ] = 1_767_225_600.0,
) -> None:
    """Plays a data set against a running service; the service takes its time from the feed.

    The service must be started with clock = "external" and a token with the scope admin.

    foretell replay training_setA --speed 60

    foretell replay hospitals --stays 20 --speed 600 --as fhir
    """
    with reporting():
        from foretell.errors import ParameterError
        from foretell.runs.sepsis.sources import read_stays
        from foretell.serving.replay import FhirClient, MllpClient, clock_of, feed_of, play

        if form not in ("hl7", "fhir"):
            raise ParameterError(f"--as is hl7 or fhir, not {form!r}")
        if not 0 <= speed < float("inf"):
            raise ParameterError("--speed must not be negative")
        token = os.environ.get("FORETELL_TOKEN", "")
        if token_file is not None:
            try:
                token = token_file.read_text("utf-8").strip()
            except (OSError, UnicodeError) as error:
                raise ParameterError(f"the token cannot be read: {error}") from None
        if not token:
            raise ParameterError("a token is needed: --token-file, or FORETELL_TOKEN")
        found = read_stays(source).select(slice(stays))
        feed = feed_of(found, form=form, begin=begin, spread=spread, site=site)
        stderr.print(f"{len(feed)} messages of {len(found)} stays", markup=False)
        refused: dict[str, int] = {}

        def told(name: object, code: str) -> None:
            if code not in ("AA", "CA"):
                refused[code] = refused.get(code, 0) + 1

        tick = clock_of(http, token)
        host, _, port = mllp.rpartition(":")
        if form == "hl7" and not (host and port.isdecimal()):
            raise ParameterError(f"--mllp is HOST:PORT, not {mllp!r}")
        try:
            with (
                MllpClient(host, int(port)) if form == "hl7" else FhirClient(http, token, site)
            ) as client:
                count = play(
                    feed, client, speed=speed or None, tick=tick, told=told, every=600.0
                )  # fmt: skip
        except OSError as error:
            raise ParameterError(f"the service cannot be reached: {type(error).__name__}") from None
        stdout.print(f"{count} messages were taken", markup=False)
        if refused:
            words = ", ".join(f"{n} answered {code}" for code, n in sorted(refused.items()))
            stderr.print(f"not taken: {words}", markup=False)
            raise typer.Exit(1)
