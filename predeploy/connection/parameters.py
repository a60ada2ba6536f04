"""How we log in: with which parameters beside those of the connection string, and what the log says when it worked."""

from __future__ import annotations

import logging
import os
from typing import Any

from predeploy import __version__
from predeploy.connection.dsn import host_and_port, libpq_defaults, parse_dsn

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10

# Without these a vanished peer is noticed after hours; with them after about 11 s idle and 8 s in mid-query.
_KEEPALIVES = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
}


def parameters(dsn: str | None) -> dict[str, Any]:
    """Return what we add to the connection string: it and libpq's variables win, but for the encoding of the files."""
    named = libpq_defaults() | parse_dsn(dsn)
    name = f"pg-predeploy/{__version__} {os.uname().nodename}"[:63]
    defaults = {**_KEEPALIVES, "connect_timeout": str(CONNECT_TIMEOUT_S), "fallback_application_name": name}
    return {key: value for key, value in defaults.items() if key not in named} | {"client_encoding": "UTF8"}


def tell_ready(dsn: str, *, attempt: int, wait_s: float, server_version: str | None) -> None:
    """Log which attempt the server has accepted, after how many seconds of waiting."""
    host, port = host_and_port(dsn)
    fields = {"host": host, "port": port, "attempt": attempt, "wait_s": round(wait_s, 3)}
    fields["server_version"] = server_version or "unknown"
    log.info("Postgres at %s:%s accepts us", host, port, extra={"event": "postgres.ready", **fields})
