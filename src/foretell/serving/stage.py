"""A service for the length of a replay, so that one command shows it alive."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from foretell.serving.api.auth import new_token
from foretell.serving.config import Config, HttpConfig, MllpConfig, ServiceConfig
from foretell.serving.service import Service

if TYPE_CHECKING:
    from foretell.serving.deployment import Deployment


class Doors(NamedTuple):
    """Where a service can be reached, and by whom.

    Args:
        mllp: port for HL7.
        http: address of the HTTP face.
        token: with every scope.
    """

    mllp: int
    http: str
    token: str


def on_stage(
    deployments: Sequence[Deployment],
    player: Callable[[Doors], None],
    *,
    port: int = 8080,
    stay: bool = True,
) -> None:
    """Starts a service of this machine alone, lets a player feed it, and forgets all of it.

    The service takes its time from the feed; its store is a file that is gone afterwards.

    Args:
        deployments: the models in the order of preference; none for rules.
        player: called in a thread of its own when the doors are open; what it raises ends all.
        port: of the HTTP face; 0 for any that is free.
        stay: whether the service stays up behind the player, until it is interrupted.
    """
    failed: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="foretell-") as folder:
        token, known = new_token("stage")
        config = Config(
            service=ServiceConfig(store=str(Path(folder) / "stage.db"), clock="external"),
            mllp=MllpConfig(port=0), http=HttpConfig(port=port), tokens=(known,),
        )  # fmt: skip
        service = Service(config, deployments=deployments)

        def begin(ports: dict[str, int]) -> None:
            doors = Doors(ports["mllp"], f"http://127.0.0.1:{ports['http']}", token)

            def play() -> None:
                try:
                    player(doors)
                except BaseException as error:
                    failed.append(error)
                if failed or not stay:
                    service.stopping.set()

            threading.Thread(target=play, name="player", daemon=True).start()

        asyncio.run(service.run(begin))
    if failed:
        raise failed[0]
