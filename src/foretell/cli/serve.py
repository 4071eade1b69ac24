"""``foretell serve``: the service, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foretell.cli.console import reporting, stderr, stdout


def serve(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="folder of a run of early warning", show_default="rules"
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of the service", show_default="all defaults")
    ] = None,
    roles: Annotated[
        str, typer.Option(help="parts of this process: doors, scores, what goes out; with commas")
    ] = "ingest,worker,dispatcher",
    previous: Annotated[
        Path | None, typer.Option(help="run that speaks where the model of RUN fails")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="SQLite file or postgresql://..., instead of the file's")
    ] = None,
    candidate: Annotated[
        Path | None,
        typer.Option(
            help="run on trial; the table rollout of --config says what it may do (shadow)"
        ),
    ] = None,
    warm_up: Annotated[
        bool, typer.Option("--warm-up", help="first take bulk exports of the FHIR servers polled")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="only check that configuration and runs fit")
    ] = False,
) -> None:
    """Serves HL7 v2 over MLLP, FHIR and REST; scores stays and raises alarms around the clock.

    foretell serve

    foretell serve runs/sepsis --config service.toml

    foretell serve runs/sepsis --config service.toml --roles worker

    foretell serve runs/sepsis --candidate runs/sepsis-new --config service.toml
    """
    with reporting():
        import asyncio

        from foretell.serving.api.auth import new_token
        from foretell.serving.config import Config, read_config
        from foretell.serving.logs import set_up_log
        from foretell.serving.service import Service, check_roles

        wanted = [r.strip() for r in roles.split(",") if r.strip()]
        check_roles(wanted)
        settings = Config() if config is None else read_config(config)
        if store is not None:
            told = settings.service.model_copy(update={"store": store})
            settings = settings.model_copy(update={"service": told})
        if previous is not None and run is None:
            from foretell.errors import ParameterError

            raise ParameterError("--previous stands behind a run: name RUN")
        deployments = []
        if run is not None:
            from foretell.serving.deployment import Deployment

            deployments = [Deployment.load(f) for f in (run, previous) if f is not None]
        if candidate is not None:
            told_rollout = settings.rollout.model_copy(update={"candidate": str(candidate)})
            settings = settings.model_copy(update={"rollout": told_rollout})
        trial = None
        if settings.rollout.candidate is not None:
            from foretell.serving.deployment import Deployment

            trial = Deployment.load(settings.rollout.candidate)
        if warm_up and not settings.polls:
            from foretell.errors import ParameterError

            raise ParameterError("--warm-up asks the servers of [[polls]]: there are none")
        if check:
            from foretell.serving.cds import CdsTrust
            from foretell.serving.ingest.client import FhirClient
            from foretell.serving.outbox.sinks import make_sink
            from foretell.serving.rollout import check_pins, configured
            from foretell.serving.service import check_tls, make_fold

            found = make_fold(settings, deployments=deployments, candidate=trial)
            version = None if trial is None else trial.version
            check_pins(configured(found.ladder.versions, version, settings.rollout), settings.pins)
            for sink in settings.sinks:
                make_sink(sink)
            for poll in settings.polls:
                FhirClient(poll).close()
            CdsTrust(settings.cds.clients)
            check_tls(settings, wanted)
            stdout.print("the configuration is right")
            return
        set_up_log(settings.service.log)
        token = None
        if not settings.tokens and settings.http is not None:
            if settings.http.host not in ("127.0.0.1", "::1", "localhost"):
                from foretell.errors import ParameterError

                raise ParameterError("tokens are needed where others can reach the service")
            token, known = new_token("console")
            settings = settings.model_copy(update={"tokens": (known,)})

        def ready(ports: dict[str, int]) -> None:
            doors = " ".join(f"{name}={port}" for name, port in ports.items())
            # Written at once: whoever started the service waits for this line.
            print(f"ready {doors}", flush=True)

        service = Service(
            settings, roles=wanted, warm_up=warm_up, deployments=deployments, candidate=trial
        )
        if token is not None:
            # Not before what is wrong was said.
            stderr.print(f"token of this run: {token}", markup=False, highlight=False)
        asyncio.run(service.run(ready))
