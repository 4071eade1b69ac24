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
    serve: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="start a service for this: folder of a run, or rules",
            show_default="one that runs already is fed",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(help="of the board of that service; 0 for any", min=0, max=65535)
    ] = 8080,
    stay: Annotated[
        bool, typer.Option(help="whether that service stays up until it is interrupted")
    ] = True,
) -> None:
    """Plays a data set against a service, which takes its time from the feed.

    With --serve it starts one on this machine, prints the address of its board and a token, and
    forgets everything when it ends. Otherwise the service must have been started with
    clock = "external" and a token with the scope admin.

    foretell replay hospitals --serve rules --speed 600

    foretell replay physionet2019 --serve runs/sepsis --stays 100 --speed 1200

    foretell replay training_setA --speed 60 --mllp ward.example:2575 --token-file token
    """
    with reporting():
        from foretell.errors import ParameterError
        from foretell.runs.sepsis.sources import first_stays
        from foretell.serving.replay import feed_of

        if form not in ("hl7", "fhir"):
            raise ParameterError(f"--as is hl7 or fhir, not {form!r}")
        if not 0 <= speed < float("inf"):
            raise ParameterError("--speed must not be negative")
        host, _, door = mllp.rpartition(":")
        if form == "hl7" and not (host and door.isdecimal()):
            raise ParameterError(f"--mllp is HOST:PORT, not {mllp!r}")
        token = "" if serve is not None else _token(token_file)
        deployments = []
        if serve is not None and serve != "rules":
            from foretell.serving.deployment import Deployment

            deployments = [Deployment.load(serve)]
        stderr.print(f"reading {source}", markup=False, highlight=False)
        found = first_stays(source, stays)
        feed = feed_of(found, form=form, begin=begin, spread=spread, site=site)
        stderr.print(f"{len(feed)} messages of {len(found)} stays", markup=False)
        if serve is None:
            _play(
                feed, form, (host, int(door)) if form == "hl7" else None, http, token, site, speed
            )
            return
        from foretell.serving.stage import Doors, on_stage

        def player(doors: Doors) -> None:
            stderr.print(f"board: {doors.http}/board", markup=False, highlight=False)
            stderr.print(f"token: {doors.token}", markup=False, highlight=False)
            place = ("127.0.0.1", doors.mllp)
            _play(feed, form, place, doors.http, doors.token, site, speed)
            if stay:
                stderr.print("the board stays up until you press Ctrl-C", markup=False)

        on_stage(deployments, player, port=port, stay=stay)


def _token(file: Path | None) -> str:
    """The token of a service that runs already."""
    from foretell.errors import ParameterError

    token = os.environ.get("FORETELL_TOKEN", "")
    if file is not None:
        try:
            token = file.read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise ParameterError(f"the token cannot be read: {error}") from None
    if not token:
        raise ParameterError(
            "a token is needed: --token-file, or FORETELL_TOKEN; or let --serve start a service"
        )
    return token


def _play(
    feed: list[tuple[float, bytes]], form: str, mllp: tuple[str, int] | None, http: str,
    token: str, site: str, speed: float,
) -> None:  # fmt: skip
    """Plays messages and tells how many were taken; those that were not are an exit of 1."""
    from foretell.errors import ParameterError
    from foretell.serving.replay import FhirClient, MllpClient, clock_of, play

    refused: dict[str, int] = {}

    def told(name: object, code: str) -> None:
        if code not in ("AA", "CA"):
            if not refused:
                # At once: a feed may be played for hours.
                stderr.print(
                    f"a message was not taken ({code}): does the service's configuration know "
                    f"who sends it? --site names another than {site}",
                    markup=False, highlight=False,
                )  # fmt: skip
            refused[code] = refused.get(code, 0) + 1

    tick = clock_of(http, token)
    try:
        with (
            MllpClient(*mllp) if form == "hl7" and mllp else FhirClient(http, token, site)
        ) as client:
            count = play(feed, client, speed=speed or None, tick=tick, told=told, every=600.0)
    except OSError as error:
        door = http if mllp is None else f"{mllp[0]}:{mllp[1]} and {http}"
        raise ParameterError(
            f"the service cannot be reached at {door}: {type(error).__name__}; start one with "
            "foretell serve, or let --serve start one"
        ) from None
    stdout.print(f"{count} messages were taken", markup=False)
    if refused:
        words = ", ".join(f"{n} answered {code}" for code, n in sorted(refused.items()))
        stderr.print(f"not taken: {words}", markup=False)
        raise typer.Exit(1)
