"""Add the program's own parameters to the connection string, and log a successful login."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from predeploy import __version__
from predeploy.connection.dsn import write_conninfo
from predeploy.connection.passfile import NOWHERE, causes_warning

if TYPE_CHECKING:
    from predeploy.connection.dsn import Dsn

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10
APPLICATION = f"pg-predeploy/{__version__}"
_MAX_NAME_BYTES = 63  # NAMEDATALEN - 1; the server truncates longer names and sends a notice

# Detect a dead peer within about 11 s while idle, or 8 s during a query. With the defaults, detection takes hours.
_KEEPALIVES = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
}


def login_parameters(dsn: Dsn) -> dict[str, str]:
    """Return the parameters to add: the encoding, and those that neither the URL nor a PG* variable sets.

    If libpq would write a warning about the password file, another path replaces it. This is checked before each login.
    """
    name = application_name(os.uname().nodename)
    defaults = {**_KEEPALIVES, "connect_timeout": str(CONNECT_TIMEOUT_S), "fallback_application_name": name}
    added = {key: value for key, value in defaults.items() if key not in dsn.used} | {"client_encoding": "UTF8"}
    return added | {"passfile": NOWHERE} if dsn.passfile and causes_warning(dsn.passfile) else added


def application_name(what: str) -> str:
    """Return an application_name that includes what the session is working on, in at most 63 bytes of ASCII."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in what)
    return f"{APPLICATION} {printable}"[:_MAX_NAME_BYTES]


def login_conninfo(dsn: Dsn) -> bytes:
    """Return the key=value string for a login; libpq itself adds values from the environment and services."""
    return write_conninfo({**dsn.named, **login_parameters(dsn)})


def log_connected(dsn: Dsn, *, attempt: int, wait_s: float, server_version: str | None) -> None:
    """Log a successful login, with the number of attempts and the time waited in seconds."""
    fields = {"host": dsn.host, "port": dsn.port, "attempt": attempt, "wait_s": round(wait_s, 3)}
    fields["server_version"] = server_version or "unknown"
    log.info(
        "Connected to Postgres at %s:%s%s",
        dsn.host,
        dsn.port,
        f" (server {server_version})" if server_version else "",
        extra={"event": "postgres.ready", **fields},
    )
