"""Flower's simulation on Ray, through its own entrance."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from foretell.errors import ParameterError, TrainingError
from foretell.training.federated.backends.jobs import StoredClientApp, store
from foretell.training.federated.flower import quiet
from foretell.training.federated.server import Server


def run_on_ray(
    server: Server,
    client: ClientApp,
    *,
    used: Iterable[Any] = (),
    cpus_per_client: float = 1.0,
) -> dict[str, Any]:
    """Runs a federation on Flower's simulation, and returns the server's final state.

    Ray is started for the run and shut down after it, as Flower does; a Ray that runs already in
    this process is used, and shut down too.

    Args:
        server: what the server does.
        client: what clients run.
        used: what the apps call.
        cpus_per_client: processors a client is granted; a machine runs so many clients at once.

    Raises:
        ParameterError: Ray is not installed.
        TrainingError: the simulation ended without a result.
    """
    if find_spec("ray") is None:
        raise ParameterError("backend='ray' needs Ray: pip install 'foretell[federated]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from flwr.simulation import run_simulation

    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="foretell-federated-") as folder, quiet(40):
        path = store(Path(folder), client, server, used)
        run_simulation(
            server_app=server.app(done.append),
            client_app=StoredClientApp(path),
            num_supernodes=server.clients,
            backend_config={
                "client_resources": {"num_cpus": cpus_per_client, "num_gpus": 0.0},
                "init_args": {"log_to_driver": False, "logging_level": 40},
            },
        )
    if not done:
        raise TrainingError("Flower's simulation ended without a result")
    return done[0]
