"""Where a PostgreSQL is looked for, what answers there, and what would be right.

Nothing that is said holds a password, nor words of the server.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

_WAIT = 3.0
_PORT = "5432"
_SECRET = (
    "its address cannot be read: it is postgresql://USER:PASSWORD@HOST:PORT/DATABASE, where '@', "
    "'/', ':' and '%' of a password are written %40, %2F, %3A and %25"
)


class Place(NamedTuple):
    """A host and port, or the folder of a socket (from ``/`` on); ``""`` is the local one."""

    host: str
    port: str

    def __str__(self) -> str:
        if self.host.startswith("/"):
            return f"the socket {self.path}"
        if not self.host:
            return f"the local socket of port {self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def path(self) -> str:
        """The file of a socket."""
        return f"{self.host.rstrip('/')}/.s.PGSQL.{self.port}"

    def problem(self) -> str:
        """What is in the way of a connection, and what would be right."""
        if not self.host or self.host.startswith("@"):
            return "is PostgreSQL running here? Name a host where it is not"
        if self.host.startswith("/"):
            if os.path.exists(self.path):
                return _LISTENS
            return "there is no such socket: start PostgreSQL, or name its unix_socket_directories"
        try:
            socket.create_connection((self.host, int(self.port)), _WAIT).close()
        except socket.gaierror:
            return "the name of the host is not known: name one that is, or an address"
        except TimeoutError:
            return "no answer: is it the right host, and does a firewall let us through?"
        except ConnectionRefusedError:
            return "nothing listens there: start PostgreSQL, or name its port and listen_addresses"
        except (OSError, ValueError, OverflowError) as error:
            return f"it cannot be reached: {getattr(error, 'strerror', None) or 'no such port'}"
        return _LISTENS


_LISTENS = (
    "something listens there, but is no PostgreSQL that is ready, or lets us not in: look at its "
    "log, at user, password and database, at sslmode, and at pg_hba.conf"
)


def why_away(address: str) -> str:
    """What was tried to reach a PostgreSQL that does not answer, and what would be right.

    Args:
        address: ``postgresql://...``; what it does not say is taken from the environment, as by
            every client of PostgreSQL.
    """
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Conninfo

    try:
        told = {
            one.keyword.decode(): one.val.decode()
            for one in Conninfo.get_defaults() if one.val is not None
        }  # fmt: skip
        told |= {name: str(v) for name, v in conninfo_to_dict(address).items() if v is not None}
    except (Error, UnicodeError):
        return _SECRET
    places = _places(told.get("hostaddr") or told.get("host") or "", told.get("port") or _PORT)
    database = told.get("dbname") or told.get("user") or ""
    # A password that was not written as it must be ends up in the parts behind it.
    parts = [database, *(p.host.lstrip("@") for p in places)]
    if any("@" in part for part in parts) or not all(p.port.isdigit() for p in places):
        return _SECRET
    found = "; ".join(f"{place}: {place.problem()}" for place in places)
    return f"tried as user {told.get('user', '')!r} for database {database!r} at {found}"


def _places(hosts: str, ports: str) -> Sequence[Place]:
    names, numbers = hosts.split(","), ports.split(",")
    if len(numbers) == 1:
        numbers *= len(names)
    return [Place(h, n or _PORT) for h, n in zip(names, numbers, strict=False)]
